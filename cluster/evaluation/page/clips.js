// Clips to compare by ear, with the listening test's Player: all sides of a clip run side by side and one is heard, so a
// switch keeps the place to the sample. Without this script, or where a browser lacks what it needs, each side has the
// browser's own controls.

const STEP_S = 1; // of the arrow keys
// As an address of its own: of a page that is a file, browsers load no worklet from a blob.
const worklet = `data:text/javascript,${encodeURIComponent(document.getElementById("worklet").textContent)}`;
const players = new Map(); // by sample rate: a promise of each
let active = null; // the clip that was asked for last: no other one sounds

function playerOf(sampleRate) {
  if (!players.has(sampleRate)) players.set(sampleRate, Player.open(sampleRate, worklet));
  return players.get(sampleRate);
}

class Clip {
  constructor(element) {
    Object.assign(this, { element, chosen: 0, position: 0, isPlaying: false, sounds: null });
    this.sampleRate = Number(element.dataset.rate);
    this.audios = [...element.querySelectorAll("audio")];
    this.sides = [...element.querySelectorAll(".side")];
    this.playButton = element.querySelector(".play");
    this.time = element.querySelector("output");
    this.sides.forEach((side, index) => {
      side.querySelector("button").onclick = () => this.choose(index);
      side.querySelector(".track").onclick = (event) => this.seek(event, index);
    });
    this.playButton.onclick = () => this.toggle();
    element.querySelector(".player").onkeydown = (event) => this.press(event);
    // Some browsers press the button that has the focus when the space bar is let go.
    element.querySelector(".player").onkeyup = (event) => event.key === " " && event.preventDefault();
    for (const hidden of element.querySelectorAll("[data-script]")) hidden.hidden = false;
    for (const audio of this.audios) audio.hidden = true;
    this.show();
  }

  choose(index) {
    this.chosen = index;
    return this.play(true);
  }

  async play(isPlaying) {
    if (isPlaying && active !== this) {
      active?.play(false);
      active = this;
    }
    this.isPlaying = isPlaying;
    this.show();
    try {
      if (isPlaying) await this.decode();
      if (!this.sounds || this.isPlaying !== isPlaying) return; // something else was wanted meanwhile
      if (isPlaying) this.take();
      if (this.player.clip === this) this.player.play(isPlaying);
    } catch (error) {
      console.warn(error);
      this.giveUp();
    }
  }

  async decode() {
    this.player = await playerOf(this.sampleRate);
    const { context } = this.player;
    this.sounds ??= await Promise.all(this.audios.map((audio) => decode(audio.src, context)));
  }

  /** The player of this rate holds this clip's sounds, at its place, and lets the chosen one be heard. */
  take() {
    const { player } = this;
    if (player.clip !== this) {
      player.clip = this;
      player.load(this.sounds, ({ position }) => player.clip === this && this.moved(position));
      player.jump(this.position);
    }
    player.choose(this.chosen);
  }

  toggle() {
    return this.play(!this.isPlaying);
  }

  async seek(event, index) {
    const { left, width } = event.currentTarget.getBoundingClientRect();
    const part = Math.max(0, Math.min(1, (event.clientX - left) / width));
    await this.choose(index);
    if (this.sounds) this.jump(part * this.sounds[0].length);
  }

  jump(position) {
    this.moved(Math.max(0, Math.min(this.sounds[0].length - 1, position)));
    if (this.player.clip === this) this.player.jump(this.position);
  }

  press(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const number = event.key.length === 1 ? "123456789".indexOf(event.key) : -1;
    const step = { ArrowLeft: -STEP_S, ArrowRight: STEP_S }[event.key];
    if (number >= 0 && number < this.sides.length) this.choose(number);
    else if (event.key === " ") this.toggle();
    else if (step && this.sounds) this.jump(this.position + step * this.sampleRate);
    else return;
    event.preventDefault();
  }

  moved(position) {
    this.position = position;
    const numFrames = this.sounds[0].length;
    this.element.style.setProperty("--place", `${(100 * position) / numFrames}%`);
    const [now, end] = [position, numFrames].map((samples) => (samples / this.sampleRate).toFixed(1));
    this.time.textContent = `${now} / ${end} s`;
  }

  show() {
    this.playButton.textContent = this.isPlaying ? "Pause" : "Play";
    this.sides.forEach((side, index) => {
      side.dataset.chosen = String(index === this.chosen);
      side.querySelector("button").setAttribute("aria-pressed", String(index === this.chosen));
    });
  }

  /** Leaves sound to the browser. */
  giveUp() {
    for (const shown of this.element.querySelectorAll("[data-script]")) shown.hidden = true;
    for (const audio of this.audios) audio.hidden = false;
  }
}

async function decode(source, context) {
  const bytes = Uint8Array.from(atob(source.slice(source.indexOf(",") + 1)), (letter) => letter.charCodeAt(0));
  return (await context.decodeAudioData(bytes.buffer)).getChannelData(0);
}

if (window.AudioWorkletNode) for (const element of document.querySelectorAll(".clip")) new Clip(element);
