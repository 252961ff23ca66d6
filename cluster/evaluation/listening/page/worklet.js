// The audio thread: all sounds of a clip run side by side, one of them is heard.

const FADE_S = 0.005; // of every switch, begin and end: nothing clicks
const REPORT_S = 0.03;

/** Plays sample `position` of the chosen sound and goes on to the next, around the region that repeats.
 *
 * There is one position for all, so a switch can neither skip nor repeat anything. sounds: Float32Arrays of one length.
 */
class Switcher extends AudioWorkletProcessor {
  constructor({ processorOptions }) {
    super();
    this.sounds = processorOptions.sounds;
    this.gains = new Float32Array(this.sounds.length);
    this.heard = new Float64Array(this.sounds.length); // samples
    this.step = 1 / (FADE_S * sampleRate);
    Object.assign(this, { begin: 0, end: this.sounds[0].length, position: 0, jump: null });
    Object.assign(this, { chosen: 0, playing: false, level: 0, sinceReport: 0, closed: false });
    this.gains[this.chosen] = 1;
    this.port.onmessage = ({ data }) => this.receive(data);
  }

  /** Any of chosen, playing, begin, end, jump (a position), closed. */
  receive(wish) {
    Object.assign(this, wish);
    const next = this.jump ?? this.position;
    if (next < this.begin || next >= this.end) this.jump = this.begin;
  }

  process(_, [[output]]) {
    for (let i = 0; i < output.length; i++) output[i] = this.next();
    this.sinceReport += output.length;
    if (this.sinceReport >= REPORT_S * sampleRate) {
      this.sinceReport = 0;
      this.port.postMessage({ position: this.position, heard: [...this.heard] });
    }
    return !this.closed;
  }

  next() {
    const { sounds, gains, step } = this;
    if (this.jump !== null && this.level === 0) {
      this.position = this.jump;
      this.jump = null;
    }
    this.level = towards(this.level, this.playing && this.jump === null, step);
    if (this.level === 0) return 0;
    let sample = 0;
    for (let i = 0; i < sounds.length; i++) {
      gains[i] = towards(gains[i], i === this.chosen, step);
      if (gains[i]) sample += gains[i] * sounds[i][this.position];
    }
    this.heard[this.chosen] += 1;
    return sample * this.level * this.advance();
  }

  /** The gain near both ends of the region; then the position moves. */
  advance() {
    const edge = Math.min(1, (this.position - this.begin + 1) * this.step, (this.end - this.position) * this.step);
    this.position += 1;
    if (this.position >= this.end && this.jump === null) this.position = this.begin;
    else if (this.position >= this.sounds[0].length) this.position = 0; // while a jump is waited for
    return Math.max(edge, this.jump === null ? 0 : 1);
  }
}

function towards(gain, isOn, step) {
  return isOn ? Math.min(gain + step, 1) : Math.max(gain - step, 0);
}

registerProcessor("switcher", Switcher);
