// The power spectrum of a Hann window, for pictures.

export class PowerSpectrum {
  /** size: samples, a power of two. */
  constructor(size) {
    this.size = size;
    this.window = Float32Array.from({ length: size }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / size));
    this.cos = Float32Array.from({ length: size / 2 }, (_, i) => Math.cos((2 * Math.PI * i) / size));
    this.sin = Float32Array.from({ length: size / 2 }, (_, i) => -Math.sin((2 * Math.PI * i) / size));
    const bits = Math.log2(size);
    this.reversed = Uint32Array.from({ length: size }, (_, i) => {
      let r = 0;
      for (let bit = 0; bit < bits; bit++) r |= ((i >> bit) & 1) << (bits - 1 - bit);
      return r;
    });
    this.re = new Float32Array(size);
    this.im = new Float32Array(size);
  }

  /** Adds the power of each bin to `power` (size / 2 values); a sine of full scale gives 1. */
  add(samples, power) {
    const { size, re, im, cos, sin, reversed, window } = this;
    for (let i = 0; i < size; i++) re[i] = samples[reversed[i]] * window[reversed[i]];
    im.fill(0);
    for (let half = 1; half < size; half *= 2) {
      const stride = size / (2 * half);
      for (let start = 0; start < size; start += 2 * half) {
        for (let k = 0; k < half; k++) {
          const [c, s] = [cos[k * stride], sin[k * stride]];
          const [a, b] = [start + k, start + k + half];
          const x = re[b] * c - im[b] * s;
          const y = re[b] * s + im[b] * c;
          re[b] = re[a] - x;
          im[b] = im[a] - y;
          re[a] += x;
          im[a] += y;
        }
      }
    }
    const scale = (4 / size) ** 2;
    for (let k = 0; k < size / 2; k++) power[k] += scale * (re[k] * re[k] + im[k] * im[k]);
  }
}
