// Microphone in, headphones out: the page's side of the audio thread (worklet.js).

const AHEAD_S = 0.5; // how much of a recording waits on the audio thread
const LIVE_TARGET_S = 0.04; // how much of a live stream waits before it is heard
const RATES = [8000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000]; // of files that keep their own

export const canPlay = "audioWorklet" in (window.AudioContext?.prototype ?? {}) && isSecureContext;
export const canCapture = canPlay && Boolean(navigator.mediaDevices?.getUserMedia);

/** An AudioBuffer of a sound file's bytes, at `rate` Hz where that is a usual one. */
export function decodeFile(bytes, rate) {
  const sampleRate = RATES.includes(rate) ? rate : RATES.at(-1);
  return new OfflineAudioContext(1, 1, sampleRate).decodeAudioData(bytes);
}

/** Asks for the microphone as it is: what the browser cleans, this page cannot show. */
export function openMicrophone() {
  return navigator.mediaDevices.getUserMedia({
    audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false },
  });
}

/** An audio context with the worklet in it; call it while a press of a button is being answered. */
export async function openContext(sampleRate) {
  const context = new AudioContext({ latencyHint: "interactive", ...(sampleRate && { sampleRate }) });
  await context.audioWorklet.addModule(new URL("worklet.js", import.meta.url));
  await context.resume();
  return context;
}

/** Calls onBlock(Int16Array) for each block of the microphone until it is stopped. */
export class Capture {
  constructor(context, stream, blockFrames, onBlock) {
    this.stream = stream;
    this.source = context.createMediaStreamSource(stream);
    this.node = new AudioWorkletNode(context, "capture", {
      numberOfOutputs: 0,
      channelCount: 1,
      channelCountMode: "explicit",
      processorOptions: { blockFrames },
    });
    this.last = new Promise((resolve) => {
      this.node.port.onmessage = ({ data }) => (data ? onBlock(data) : resolve());
    });
    this.source.connect(this.node);
  }

  /** Returns when the last block is out. */
  async stop() {
    this.node.port.postMessage("stop");
    await this.last;
    this.source.disconnect();
    this.stream.getTracks().forEach((track) => track.stop());
  }
}

/** Plays a recording, also while it grows. onReport({ position, buffered, underruns, ended }), in frames. */
export class Player {
  constructor(context, recording, { live, onReport }) {
    Object.assign(this, { context, recording, live, onReport });
    this.node = new AudioWorkletNode(context, "playout", {
      numberOfInputs: 0,
      outputChannelCount: [Math.min(recording.channels, 2)],
      processorOptions: {
        channels: recording.channels,
        live,
        targetFrames: Math.round((live ? LIVE_TARGET_S : 0.1) * context.sampleRate),
      },
    });
    this.node.port.onmessage = ({ data }) => this.report(data);
    this.node.connect(context.destination);
    Object.assign(this, { isPlaying: live, isComplete: false });
    this.jump(0);
  }

  /** numJumps tells reports from before a seek from those after it. */
  jump(frame) {
    Object.assign(this, { position: frame, pushed: frame, wasEnded: false, numJumps: (this.numJumps ?? -1) + 1 });
  }

  tell(type, value) {
    this.node.port.postMessage({ type, value });
  }

  report({ ended, position, numJumps, ...rest }) {
    if (numJumps !== this.numJumps) return;
    this.position = position;
    if (ended) {
      this.isPlaying = false;
      this.seek(0);
    }
    this.feed();
    this.onReport({ ...rest, position, ended });
  }

  /** Hands over what the recording has by now: all of a live one, else as much as is soon played. */
  feed() {
    const { recording, node } = this;
    const ahead = this.live ? Infinity : AHEAD_S * this.context.sampleRate;
    const end = Math.floor(Math.min(recording.numFrames, this.position + ahead));
    if (end > this.pushed) {
      const pair = recording.pair(this.pushed, end);
      node.port.postMessage({ type: "push", ...pair }, [pair.noisy.buffer, pair.denoised.buffer]);
      this.pushed = end;
    }
    if (this.isComplete && this.pushed === recording.numFrames && !this.wasEnded) {
      this.wasEnded = true;
      this.tell("end");
    }
  }

  /** 0: the noisy side; 1: the denoised one. */
  set mix(value) {
    this.tell("mix", value);
  }

  play(isPlaying) {
    this.isPlaying = isPlaying;
    this.tell("play", isPlaying);
  }

  seek(frame) {
    this.jump(Math.round(frame));
    this.tell("seek", this.position);
    this.feed();
  }

  /** The recording does not grow any more. */
  complete() {
    this.isComplete = true;
    this.feed();
  }

  close() {
    this.node.port.onmessage = null;
    this.node.disconnect();
  }
}
