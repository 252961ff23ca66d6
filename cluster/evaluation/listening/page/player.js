// The page's side of the audio thread.

export class Player {
  /** Call it while a press of a button is being answered: browsers let nothing sound before one.
   *
   * worklet: where the audio thread's code is; a page of one file has it in itself.
   */
  static async open(sampleRate, worklet = new URL("worklet.js", import.meta.url)) {
    const player = new Player();
    player.context = new AudioContext({ latencyHint: "interactive", sampleRate });
    await player.context.audioWorklet.addModule(worklet);
    return player;
  }

  /** Takes sounds (Float32Arrays of one length) in the place of those before. onReport({ position, heard }): samples. */
  load(sounds, onReport) {
    this.close();
    Object.assign(this, { numFrames: sounds[0].length, isPlaying: false, chosen: 0 });
    this.region = { begin: 0, end: this.numFrames };
    this.node = new AudioWorkletNode(this.context, "switcher", {
      numberOfInputs: 0,
      outputChannelCount: [1],
      processorOptions: { sounds },
    });
    this.node.port.onmessage = ({ data }) => onReport(data);
    this.node.connect(this.context.destination);
  }

  tell(wish) {
    this.node.port.postMessage(wish);
  }

  choose(index) {
    this.chosen = index;
    this.tell({ chosen: index });
  }

  play(isPlaying) {
    this.context.resume();
    this.isPlaying = isPlaying;
    this.tell({ playing: isPlaying });
  }

  /** Repeats what lies between two samples; from its begin if the position is outside. */
  repeat(begin, end) {
    this.region = { begin: Math.round(begin), end: Math.round(end) };
    this.tell(this.region);
  }

  jump(position) {
    this.tell({ jump: Math.round(position) });
  }

  close() {
    if (!this.node) return;
    this.tell({ playing: false, closed: true });
    this.node.port.onmessage = null;
    this.node.disconnect();
    this.node = null;
  }
}
