// The clip as a picture: the reference's envelope where there is one, and the region that repeats. What is chosen is
// never drawn, for eyes would tell what ears should.

const canvas = document.getElementById("picture");
const WIDTH = 600;
const LEAST_S = 0.2; // a region; less is taken for a click

export class Picture {
  /** onRegion(begin, end), onSeek(position): in samples. */
  constructor({ onRegion, onSeek }) {
    Object.assign(this, { onRegion, onSeek, numFrames: 1, envelope: null, from: null });
    canvas.width = WIDTH;
    canvas.onpointerdown = (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.from = this.sampleAt(event);
    };
    canvas.onpointermove = (event) => {
      if (this.from !== null) this.draw(...this.ordered(event));
    };
    canvas.onpointerup = (event) => this.release(event);
    canvas.onpointercancel = () => {
      this.from = null;
      this.show(this.region);
    };
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.show(this.region));
  }

  /** envelopeOf: samples whose envelope is drawn, or null. */
  load(numFrames, sampleRate, envelopeOf) {
    Object.assign(this, { numFrames, sampleRate });
    this.envelope = envelopeOf && peaks(envelopeOf);
    this.show({ begin: 0, end: numFrames });
  }

  sampleAt({ clientX }) {
    const { left, width } = canvas.getBoundingClientRect();
    return Math.max(0, Math.min(1, (clientX - left) / width)) * this.numFrames;
  }

  ordered(event) {
    return [this.from, this.sampleAt(event)].sort((a, b) => a - b);
  }

  release(event) {
    if (this.from === null) return;
    const [begin, end] = this.ordered(event);
    this.from = null;
    if (end - begin >= LEAST_S * this.sampleRate) this.onRegion(begin, end);
    else this.onSeek(begin);
    this.show(this.region);
  }

  show(region) {
    this.region = region;
    this.draw(region.begin, region.end);
  }

  draw(begin, end) {
    const context = canvas.getContext("2d");
    const style = getComputedStyle(document.documentElement);
    const [left, right] = [begin, end].map((sample) => (sample / this.numFrames) * WIDTH);
    context.clearRect(0, 0, WIDTH, canvas.height);
    context.globalAlpha = 0.18;
    context.fillStyle = style.getPropertyValue("--accent");
    context.fillRect(left, 0, right - left, canvas.height);
    context.globalAlpha = 1;
    context.fillStyle = style.getPropertyValue("--muted");
    const middle = canvas.height / 2;
    for (let x = 0; x < WIDTH; x++) {
      const half = this.envelope ? Math.max(0.5, this.envelope[x] * (middle - 4)) : 0.5;
      context.fillRect(x, middle - half, 1, 2 * half);
    }
  }
}

function peaks(samples) {
  const columns = Array.from({ length: WIDTH }, (_, x) => {
    const part = samples.subarray((x * samples.length) / WIDTH, ((x + 1) * samples.length) / WIDTH);
    return part.reduce((peak, sample) => Math.max(peak, Math.abs(sample)), 0);
  });
  const most = Math.max(...columns, 1e-6);
  return columns.map((peak) => peak / most);
}
