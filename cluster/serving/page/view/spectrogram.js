// A picture of one side of a recording. It looks at the recording when it is drawn: nothing is lost while a tab
// is in the background, and nothing is computed there.

import { PowerSpectrum } from "./fft.js";

const WIDTH = 800; // columns
const HEIGHT = 256; // rows, low frequencies at the bottom
const WINDOW_S = 0.032;
const SCROLL_S = 8; // what a live picture shows
const QUIETEST_DB = -90; // full-scale sine: 0
const LOUDEST_DB = -20;
const MAX_WINDOWS_PER_COLUMN = 4;

const dark = matchMedia("(prefers-color-scheme: dark)");
const STOPS = {
  light: ["#f5f7fa", "#e3edf3", "#a9d0de", "#4f9bc0", "#2c4f98", "#1d1f52"],
  dark: ["#0e131a", "#17254a", "#3f3a8c", "#9a4695", "#ec7a6a", "#fde4a4"],
};

/** 256 colours from quiet to loud, as canvas pixels. */
function palette(stops) {
  const rgb = stops.map((stop) => [1, 3, 5].map((i) => parseInt(stop.slice(i, i + 2), 16)));
  return Uint32Array.from({ length: 256 }, (_, level) => {
    const place = (level / 255) * (rgb.length - 1);
    const i = Math.min(Math.floor(place), rgb.length - 2);
    const [r, g, b] = rgb[i].map((low, c) => Math.round(low + (place - i) * (rgb[i + 1][c] - low)));
    return (255 << 24) | (b << 16) | (g << 8) | r;
  });
}

export class Spectrogram {
  /** side: "noisy" or "denoised". */
  constructor(canvas, side) {
    this.side = side;
    canvas.width = WIDTH;
    canvas.height = HEIGHT;
    this.context = canvas.getContext("2d");
    this.image = this.context.createImageData(WIDTH, HEIGHT);
    this.pixels = new Uint32Array(this.image.data.buffer);
    this.levels = new Uint8Array(WIDTH * HEIGHT); // column after column
    this.colours = palette(STOPS[dark.matches ? "dark" : "light"]);
    dark.addEventListener("change", () => {
      this.colours = palette(STOPS[dark.matches ? "dark" : "light"]);
      this.paint();
    });
    this.paint();
  }

  /** Shows a recording up to maxHz; all of it in numFrames, or what comes, scrolling, if that is null. */
  show(recording, maxHz, numFrames) {
    Object.assign(this, { recording, numFrames });
    const size = 2 ** Math.round(Math.log2(WINDOW_S * recording.sampleRate));
    this.spectrum = new PowerSpectrum(size);
    this.power = new Float32Array(size / 2);
    this.samples = new Float32Array(size);
    this.binsPerRow = (maxHz / recording.sampleRate) * (size / HEIGHT);
    this.framesPerColumn = (numFrames ?? SCROLL_S * recording.sampleRate) / WIDTH;
    this.numColumns = 0;
    this.levels.fill(0);
    this.paint();
  }

  /** Adds the columns that the recording has by now; `numFrames`: how many of its frames to show. */
  update(numFrames) {
    const ready = numFrames >= this.numFrames && this.numFrames !== null ? WIDTH : this.columnsOf(numFrames);
    const num = ready - this.numColumns;
    if (num <= 0) return;
    const scrolled = this.numFrames === null;
    if (scrolled) this.levels.copyWithin(0, Math.min(num, WIDTH) * HEIGHT);
    for (let i = Math.max(num - WIDTH, 0); i < num; i++) {
      this.fill(this.numColumns + i, scrolled ? WIDTH - num + i : this.numColumns + i);
    }
    this.numColumns = ready;
    this.paint();
  }

  columnsOf(numFrames) {
    return Math.max(Math.floor((numFrames - this.spectrum.size) / this.framesPerColumn), 0);
  }

  fill(column, place) {
    const { spectrum, power, framesPerColumn } = this;
    const numWindows = Math.max(1, Math.min(MAX_WINDOWS_PER_COLUMN, Math.floor(framesPerColumn / spectrum.size)));
    power.fill(0);
    for (let i = 0; i < numWindows; i++) {
      const centre = (column + (i + 0.5) / numWindows) * framesPerColumn;
      const first = Math.round(centre - spectrum.size / 2);
      spectrum.add(this.recording.window(this.side, first, spectrum.size, this.samples), power);
    }
    for (let row = 0; row < HEIGHT; row++) {
      this.levels[place * HEIGHT + row] = this.levelOf(row, numWindows);
    }
  }

  levelOf(row, numWindows) {
    const bin = (row + 0.5) * this.binsPerRow;
    const low = Math.min(Math.floor(bin), this.power.length - 2);
    const power = this.power[low] + (bin - low) * (this.power[low + 1] - this.power[low]);
    const db = 10 * Math.log10(power / numWindows + 1e-12);
    return Math.max(0, Math.min(255, (255 * (db - QUIETEST_DB)) / (LOUDEST_DB - QUIETEST_DB)));
  }

  paint() {
    for (let column = 0; column < WIDTH; column++) {
      for (let row = 0; row < HEIGHT; row++) {
        this.pixels[(HEIGHT - 1 - row) * WIDTH + column] = this.colours[this.levels[column * HEIGHT + row]];
      }
    }
    this.context.putImageData(this.image, 0, 0);
  }
}
