// What the microphone and a file have in common: from the first press of a button to the finished recording.

import { canPlay, openContext, Player } from "../audio/sound.js";
import { encodeWav } from "../audio/wav.js";
import { showPictures, updatePictures } from "../view/pictures.js";
import * as view from "../view/view.js";
import { Call } from "./call.js";

export const MAX_S = 30 * 60; // what a tab can hold without trouble

export class Run {
  /** page: { apiKey, fail(run, error), explain(error), leave() }. Subclasses have `kind`, make a
   * `recording` and know how to `endSoon`, when the server goes away. */
  constructor(page) {
    Object.assign(this, { page, recording: null, context: null, call: null, player: null });
    Object.assign(this, { maxHz: 0, startAt: 0, isOver: false, isLeft: false });
  }

  /** Runs steps. What they raise is told; what they opened after the run was left is closed again. */
  async attempt(steps) {
    try {
      await steps();
    } catch (error) {
      if (!this.isLeft) this.page.fail(error);
    }
    if (this.isLeft) this.discard();
  }

  discard() {
    this.isLeft = true;
    this.call?.abandon();
    this.player?.close();
    if (this.context && this.context.state !== "closed") this.context.close();
  }

  get isWhole() {
    return this.isOver;
  }

  get seconds() {
    return this.recording.numNoisyFrames / this.recording.sampleRate;
  }

  showPictures(maxHz) {
    this.maxHz = maxHz;
    showPictures(this.recording, maxHz, this);
  }

  async connect() {
    view.say("Connecting …");
    const call = await Call.open(this.recording, this.page.apiKey, {
      onProgress: () => this.player?.feed(),
      onMessage: (message) => this.receive(message),
      onEnd: (error) => this.finish(error),
    });
    this.call = call;
    view.showServer(call.info);
    const maxHz = Math.min(call.info.model_sample_rate, this.recording.sampleRate) / 2;
    if (maxHz !== this.maxHz) this.showPictures(maxHz);
  }

  receive(message) {
    if (message.type === "stats") view.showStats(message);
    else if (message.type === "draining") this.endSoon();
  }

  /** The stream is over: all is there, or as much as came before an error. */
  finish(error) {
    if (this.isLeft) return;
    if (!this.recording.numFrames) {
      if (error) this.page.fail(error);
      else this.page.leave();
      return;
    }
    this.isOver = true;
    view.showState("finished", this.kind);
    view.say(error ? "Ended early." : "Done. Compare both sides, or download the result.");
    if (error) view.showProblem(this.page.explain(error));
    this.showPlaying();
  }

  async openPlayer({ live = false } = {}) {
    this.context ??= await openContext(this.recording.sampleRate);
    this.player = new Player(this.context, this.recording, { live, onReport: (report) => this.onReport(report) });
    if (this.isOver) this.player.complete();
    this.player.mix = view.wantedMix();
  }

  onReport({ position, underruns, ended }) {
    this.call?.hear(position);
    if (ended) this.showPlaying();
    view.showGaps(underruns);
  }

  async togglePlay() {
    if (!this.player) await this.openPlayer();
    if (this.startAt) this.player.seek(this.startAt);
    this.startAt = 0;
    this.player.play(!this.player.isPlaying);
    this.showPlaying();
  }

  showPlaying() {
    view.showPlaying(Boolean(this.player?.isPlaying), canPlay);
  }

  /** To a place that has come back already. */
  seek(seconds) {
    const frame = Math.min(seconds * this.recording.sampleRate, this.recording.numFrames);
    if (this.player) this.player.seek(frame);
    else this.startAt = frame;
  }

  download() {
    const { recording } = this;
    const pcm = recording.mixed(view.wantedStrength());
    view.offerDownload(encodeWav(pcm, recording.sampleRate, recording.channels), `${recording.name}-denoised.wav`);
  }

  draw() {
    if (!this.maxHz) return;
    updatePictures(this.recording, this);
    view.showPosition((this.player?.position ?? this.startAt) / this.recording.sampleRate, this.seconds);
  }
}
