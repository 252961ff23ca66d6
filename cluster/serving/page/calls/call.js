// One call: sends the noisy side of a recording as it grows, puts what comes back beside it.

import { Connection } from "./connection.js";

const AHEAD_S = 1; // how far a recording that is listened to is sent ahead of the ear
const UNANSWERED_S = 1.5; // below what makes the server stop reading, or end the call
const MAX_BUFFERED_BYTES = 1 << 18;
const FRAMES_PER_MESSAGE = 4; // frames of the model, where so many wait

export class Call {
  /** handlers: onProgress(), onMessage(object), onEnd(ConnectionError | null). Raises ConnectionError. */
  static async open(recording, key, handlers) {
    const call = new Call();
    Object.assign(call, { recording, handlers, sent: 0, heard: 0, aheadS: AHEAD_S });
    Object.assign(call, { isComplete: false, isFinishing: false });
    call.connection = await Connection.open(
      { key, sample_rate: recording.sampleRate, channels: recording.channels },
      {
        onSound: (pcm) => call.receive(pcm),
        onMessage: handlers.onMessage,
        onEnd: handlers.onEnd,
      },
    );
    return call;
  }

  get info() {
    return this.connection.created;
  }

  receive(pcm) {
    this.recording.denoised.append(pcm);
    this.pump();
    this.handlers.onProgress();
  }

  /** Sends what may be sent. Called when sound has come in, has come back or was played: never by a timer,
   * which browsers slow down in background tabs. */
  pump() {
    const { recording, connection, info } = this;
    const { sampleRate, channels } = recording;
    const unanswered = UNANSWERED_S * sampleRate + 2 * info.latency_samples;
    const end = Math.min(
      recording.numNoisyFrames,
      this.heard + this.aheadS * sampleRate,
      recording.denoised.length / channels + unanswered,
    );
    const most = Math.min(
      FRAMES_PER_MESSAGE * info.frame_samples,
      Math.floor(info.max_message_bytes / (2 * channels)),
    );
    while (this.sent < end && connection.isOpen && connection.bufferedBytes < MAX_BUFFERED_BYTES) {
      const next = Math.min(this.sent + most, Math.ceil(end));
      connection.send(recording.noisy.view(this.sent * channels, next * channels));
      this.sent = next;
    }
    if (this.isComplete && this.sent === recording.numNoisyFrames && !this.isFinishing) {
      this.isFinishing = true;
      connection.finish();
    }
    connection.keepAlive();
  }

  /** The sound was heard up to this frame. */
  hear(frame) {
    this.heard = Math.max(this.heard, frame);
    this.pump();
  }

  /** From now on as fast as the server takes it. */
  hurry() {
    this.aheadS = Infinity;
    this.pump();
  }

  /** No more sound will come. */
  complete() {
    this.isComplete = true;
    this.pump();
  }

  abandon() {
    this.connection.abandon();
  }
}
