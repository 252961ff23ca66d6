// What runs on the audio thread: blocks from the microphone, and the play-out of both sides of a recording.
// Neither waits for a timer or for a picture, so a tab in the background goes on.

const FADE_S = 0.005;
const REPORT_S = 0.04;

/** Sends the input to the page: 16 bit, one channel, blocks of options.blockFrames. */
class Capture extends AudioWorkletProcessor {
  constructor({ processorOptions }) {
    super();
    this.blockFrames = processorOptions.blockFrames;
    this.block = new Int16Array(this.blockFrames);
    this.filled = 0;
    this.running = true;
    this.port.onmessage = () => this.stop();
  }

  stop() {
    this.running = false;
    this.send(this.block.slice(0, this.filled));
    this.port.postMessage(null); // this was the last
  }

  send(block) {
    if (block.length) this.port.postMessage(block, [block.buffer]);
  }

  process([input]) {
    const samples = input[0];
    if (!samples || !this.running) return this.running;
    for (const sample of samples) {
      this.block[this.filled++] = Math.max(-32768, Math.min(32767, Math.round(sample * 32768)));
      if (this.filled === this.blockFrames) {
        this.send(this.block);
        this.block = new Int16Array(this.blockFrames);
        this.filled = 0;
      }
    }
    return true;
  }
}

/** Plays frame after frame of both sides, mixed: 0 is the noisy one, 1 the denoised one.
 *
 * A live stream starts once `targetFrames` wait. Where sound comes too late, it waits for so much again (an
 * underrun), and from then on for a little more; what has gathered beyond that is left out, for it is only delay.
 */
class Playout extends AudioWorkletProcessor {
  constructor({ processorOptions }) {
    super();
    Object.assign(this, { channels: 1, live: false, targetFrames: 0 }, processorOptions);
    this.fadeFrames = Math.round(FADE_S * sampleRate);
    this.mix = this.wantedMix = 1;
    this.playing = this.live;
    this.underruns = 0;
    this.sinceReport = 0;
    this.restart(0);
    this.port.onmessage = ({ data }) => this.receive(data);
  }

  restart(position) {
    this.numJumps = (this.numJumps ?? -1) + 1;
    this.queue = [];
    this.offset = 0; // frames of the queue's first piece that were played
    this.buffered = 0;
    this.position = position;
    this.ending = this.open = false;
    this.gain = this.excess = 0;
    this.forgetLeast();
  }

  forgetLeast() {
    this.leastBuffered = Infinity;
    this.sinceLeast = 0;
  }

  receive({ type, value, ...pair }) {
    if (type === "push") {
      this.queue.push(pair);
      this.buffered += pair.noisy.length / this.channels;
    } else if (type === "end") this.ending = true;
    else if (type === "seek") this.restart(value);
    else if (type === "mix") this.wantedMix = value;
    else if (type === "play") this.playing = value;
  }

  process(_, [output]) {
    const numFrames = output[0].length;
    this.decide();
    for (let i = 0; i < numFrames; i++) this.playFrame(output, i);
    this.noteLeast(numFrames);
    this.sinceReport += numFrames;
    if (this.sinceReport >= REPORT_S * sampleRate) this.report();
    return true;
  }

  /** Opens when enough waits; closes when all was played. */
  decide() {
    if (!this.open && (this.ending || this.buffered > Math.max(this.targetFrames, this.fadeFrames))) {
      this.open = true;
    } else if (this.open && this.buffered === 0) {
      this.open = false;
      this.gain = 0;
      this.forgetLeast();
      if (this.ending) this.finish();
      else if (this.playing) this.underrun();
    }
    if (this.excess && this.gain === 0) this.leaveOutExcess();
  }

  finish() {
    this.playing = this.ending = false;
    this.report(true);
  }

  underrun() {
    this.underruns += 1;
    if (this.live) this.targetFrames = Math.min(this.targetFrames + 0.02 * sampleRate, 0.4 * sampleRate);
  }

  playFrame(output, i) {
    const enough = this.ending || this.buffered > this.fadeFrames;
    const wanted = this.open && this.playing && enough && !this.excess ? 1 : 0;
    const step = 1 / this.fadeFrames;
    this.gain += Math.max(-step, Math.min(step, wanted - this.gain));
    this.mix += Math.max(-step, Math.min(step, this.wantedMix - this.mix));
    const advancing = this.buffered > 0 && (this.gain > 0 || (this.open && this.playing && !this.excess));
    if (!advancing) return;
    const { noisy, denoised } = this.queue[0];
    for (let channel = 0; channel < output.length; channel++) {
      const k = this.offset * this.channels + Math.min(channel, this.channels - 1);
      output[channel][i] = (this.gain * (noisy[k] + this.mix * (denoised[k] - noisy[k]))) / 32768;
    }
    this.skip(1);
  }

  skip(numFrames) {
    this.position += numFrames;
    this.buffered -= numFrames;
    this.offset += numFrames;
    while (this.queue.length && this.offset >= this.queue[0].noisy.length / this.channels) {
      this.offset -= this.queue.shift().noisy.length / this.channels;
    }
  }

  /** After a second in which the buffer was never near its target: fade out, leave the excess out, fade in. */
  noteLeast(numFrames) {
    if (!this.live || !this.open || this.ending) return;
    this.leastBuffered = Math.min(this.leastBuffered, this.buffered);
    this.sinceLeast += numFrames;
    if (this.sinceLeast < sampleRate) return;
    if (this.leastBuffered > this.targetFrames + 0.01 * sampleRate) {
      this.excess = Math.round(this.leastBuffered - this.targetFrames);
    }
    this.forgetLeast();
  }

  leaveOutExcess() {
    this.skip(Math.min(this.excess, this.buffered));
    this.excess = 0;
    this.forgetLeast();
  }

  report(ended = false) {
    this.sinceReport = 0;
    const { position, buffered, underruns, numJumps } = this;
    this.port.postMessage({ position, buffered, underruns, numJumps, ended });
  }
}

registerProcessor("capture", Capture);
registerProcessor("playout", Playout);
