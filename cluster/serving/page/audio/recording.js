// The two sides of a stream: sample k of the denoised side is sample k of the noisy one.

/** Samples that arrive in pieces: 16 bit, channels interleaved. */
class Track {
  #pcm = new Int16Array(1 << 16);
  length = 0;

  append(pcm) {
    if (this.length + pcm.length > this.#pcm.length) {
      const larger = new Int16Array(2 * (this.length + pcm.length));
      larger.set(this.#pcm.subarray(0, this.length));
      this.#pcm = larger;
    }
    this.#pcm.set(pcm, this.length);
    this.length += pcm.length;
  }

  /** A view of the samples from start to end; good until the next append. */
  view(start, end) {
    return this.#pcm.subarray(Math.max(start, 0), Math.min(end, this.length));
  }
}

export class Recording {
  noisy = new Track();
  denoised = new Track();

  /** name: what the sound is called where it is downloaded. */
  constructor({ sampleRate, channels, name }) {
    Object.assign(this, { sampleRate, channels, name });
  }

  get numNoisyFrames() {
    return this.noisy.length / this.channels;
  }

  /** How many frames both sides have. */
  get numFrames() {
    return Math.min(this.noisy.length, this.denoised.length) / this.channels;
  }

  /** Copies of both sides from frame start to frame end. */
  pair(start, end) {
    const [from, to] = [start * this.channels, end * this.channels];
    return { noisy: this.noisy.view(from, to).slice(), denoised: this.denoised.view(from, to).slice() };
  }

  /** The frames that both sides have, denoised with a strength of 0 (noisy) to 1, as the server mixes them. */
  mixed(strength) {
    const length = this.numFrames * this.channels;
    const noisy = this.noisy.view(0, length);
    const denoised = this.denoised.view(0, length);
    return denoised.map((sample, i) => Math.round(noisy[i] + strength * (sample - noisy[i])));
  }

  /** count samples of one side around a frame, its channels averaged, full scale +-1; silence beyond the ends. */
  window(side, firstFrame, count, out) {
    const { channels } = this;
    const pcm = this[side].view(firstFrame * channels, (firstFrame + count) * channels);
    const skipped = Math.max(-firstFrame, 0);
    out.fill(0);
    for (let i = 0; i < pcm.length; i++) {
      out[skipped + Math.floor(i / channels)] += pcm[i] / (32768 * channels);
    }
    return out;
  }
}
