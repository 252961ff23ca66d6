// A run on a file: denoised while it is listened to, or as fast as the server takes it.

import { Recording } from "../audio/recording.js";
import { decodeFile } from "../audio/sound.js";
import { namedSampleRate, toPcm } from "../audio/wav.js";
import * as view from "../view/view.js";
import { ConnectionError } from "./connection.js";
import { MAX_S, Run } from "./run.js";

const USUAL_MODEL_RATE = 16_000; // what the picture is scaled for until the server has told

export class FileRun extends Run {
  kind = "file";

  get isWhole() {
    return true;
  }

  async load(file) {
    view.showState("connecting", this.kind);
    view.showTitle(file.name);
    view.say("Reading …");
    await this.attempt(async () => {
      const buffer = await file.arrayBuffer();
      const decoded = await decodeFile(buffer, namedSampleRate(buffer));
      const { duration, length, sampleRate, numberOfChannels: channels } = decoded;
      if (!length) throw new ConnectionError("empty", "There is no sound in this file. Choose another one.");
      if (duration > MAX_S) throw new ConnectionError("too_long", tooLong(duration));
      if (this.isLeft) return;
      this.recording = new Recording({ sampleRate, channels, name: file.name.replace(/\.[^.]*$/, "") });
      this.recording.noisy.append(toPcm(decoded));
      this.getReady();
    });
  }

  getReady() {
    const { sampleRate, channels } = this.recording;
    this.showPictures(Math.min(sampleRate, USUAL_MODEL_RATE) / 2);
    const sides = ["mono", "stereo"][channels - 1] ?? `${channels} channels`;
    view.showState("ready", this.kind);
    view.say(`${view.clock(this.seconds)} min, ${view.kilohertz(sampleRate)}, ${sides}`);
  }

  /** atOnce: without listening. */
  async process(atOnce) {
    this.wasAtOnce = atOnce;
    view.showState("connecting", this.kind);
    await this.attempt(async () => {
      if (!atOnce) await this.openPlayer();
      await this.connect();
      if (this.isLeft) return;
      view.showState("live", this.kind);
      view.say("Denoising while you listen.");
      this.call.complete();
      if (atOnce) this.hurry();
      else this.player.play(true);
      this.showPlaying();
    });
  }

  hurry() {
    if (!this.call) {
      this.process(true);
      return;
    }
    this.isHurrying = true;
    this.call.hurry();
  }

  endSoon() {
    this.hurry();
  }

  finish(error) {
    super.finish(error);
    if (this.isOver) this.player?.complete();
  }

  draw() {
    super.draw();
    view.allowHurry(!this.isHurrying);
    if (!this.isHurrying || this.isOver) return;
    const { numFrames, numNoisyFrames } = this.recording;
    view.say(`Processing … ${Math.floor((100 * numFrames) / numNoisyFrames)} %`);
  }
}

function tooLong(seconds) {
  return (
    `This recording takes ${view.clock(seconds)} min; this page takes up to ${MAX_S / 60} min. ` +
    "Cut it, or send it to POST /v1/audio/denoise, which takes longer ones."
  );
}
