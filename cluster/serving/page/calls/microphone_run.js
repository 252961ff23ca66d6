// A run on the microphone.

import { Recording } from "../audio/recording.js";
import { Capture, openContext, openMicrophone } from "../audio/sound.js";
import * as view from "../view/view.js";
import { MAX_S, Run } from "./run.js";

const SILENT = 16; // 16 bit: what no open microphone stays below
const SILENT_S = 3;

export class MicrophoneRun extends Run {
  kind = "microphone";

  async start() {
    view.showState("connecting", this.kind);
    view.showTitle("Microphone");
    view.say("Waiting for the microphone: please allow it …");
    await this.attempt(async () => {
      this.context = await openContext();
      this.stream = await openMicrophone();
      const { sampleRate } = this.context;
      this.recording = new Recording({ sampleRate, channels: 1, name: "microphone" });
      await this.connect();
      if (this.isLeft) return;
      this.call.hurry(); // what is said now does not wait for what is still to be heard
      await this.openPlayer({ live: true });
      const { frame_samples: blockFrames } = this.call.info;
      this.capture = new Capture(this.context, this.stream, blockFrames, (block) => this.hearBlock(block));
      this.stream.getAudioTracks()[0].onended = () => this.stop();
      view.showState("live", this.kind);
      view.say("Live.");
    });
  }

  hearBlock(block) {
    this.recording.noisy.append(block);
    this.call.pump();
    if (this.seconds > MAX_S) this.stop();
  }

  async stop() {
    if (!this.capture || this.isStopping) return;
    this.isStopping = true;
    await this.capture.stop();
    this.call.complete();
  }

  endSoon() {
    this.farewell = "The server restarts, so this stream has ended. Start over to go on.";
    this.stop();
  }

  discard() {
    this.closeStream();
    super.discard();
  }

  closeStream() {
    this.stream?.getTracks().forEach((track) => track.stop());
  }

  receive(message) {
    super.receive(message);
    if (this.isStopping) return;
    if (message.type === "stats") this.listenForSilence();
    else if (message.type === "overrun") {
      view.say(`The server is ${Math.round(message.buffered_ms)} ms behind and catching up.`);
    } else if (message.type === "overrun.ended") view.say("Live.");
  }

  listenForSilence() {
    const { noisy, sampleRate } = this.recording;
    const last = noisy.view(noisy.length - SILENT_S * sampleRate, noisy.length);
    const isSilent = last.length >= SILENT_S * sampleRate && last.every((sample) => Math.abs(sample) < SILENT);
    if (isSilent === Boolean(this.isSilent)) return;
    this.isSilent = isSilent;
    view.say(isSilent ? "The microphone is silent. Is it muted, or is another one chosen?" : "Live.");
  }

  finish(error) {
    this.closeStream();
    this.player?.close(); // it was for the live stream
    this.player = null;
    this.recording.noisy.length = this.recording.denoised.length; // the same unless the stream broke off
    super.finish(error);
    if (!this.isOver) return;
    this.showPictures(this.maxHz);
    if (this.farewell) view.say(this.farewell);
  }

  onReport(report) {
    super.onReport(report);
    if (this.isOver || !report.position) return;
    const waiting = this.recording.numNoisyFrames - report.position;
    const { sampleRate, baseLatency, outputLatency } = this.context;
    view.showDelay(1000 * (waiting / sampleRate + baseLatency + (outputLatency || 0)));
  }

  draw() {
    super.draw();
    if (this.recording) view.showTimer(this.seconds);
  }
}
