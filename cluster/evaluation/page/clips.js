// Clips to compare by ear, with the listening test's Player: all sides of a clip run side by side and one is heard, so a
// switch keeps the place to the sample. Without this script, or where a browser lacks what it needs, each side has the
// browser's own controls.

const STEP_S = 1; // of the arrow keys
// As an address of its own: of a page that is a file, browsers load no worklet from a blob.
const worklet = `data:text/javascript,${encodeURIComponent(document.getElementById("worklet").textContent)}`;
const players = new Map(); // by sample rate: a promise of each
let sounding = null; // the clip whose sounds its player holds

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
    for (const hidden of element.querySelectorAll("[data-script]")) hidden.hidden = false;
    for (const audio of this.audios) audio.hidden = true;
    this.show();
  }

  /** The player, holding this clip's sounds at its place; what another clip played stops. */
  async take() {
    const player = await playerOf(this.sampleRate);
    this.sounds ??= await Promise.all(this.audios.map((audio) => decode(audio.src, player.context)));
    if (sounding !== this) {
      sounding?.play(false);
      sounding = this;
      player.load(this.sounds, ({ position }) => sounding === this && this.moved(position));
      player.jump(this.position);
    }
    this.player = player;
    return player;
  }

  choose(index) {
    this.chosen = index;
    return this.play(true);
  }

  async play(isPlaying) {
    this.isPlaying = isPlaying;
    this.show();
    if (!isPlaying) return this.player?.play(false);
    try {
      const player = await this.take();
      if (!this.isPlaying) return undefined; // paused while it was being decoded
      player.choose(this.chosen);
      player.play(true);
    } catch (error) {
      console.warn(error);
      this.giveUp();
    }
    return undefined;
  }

  toggle() {
    return this.play(!this.isPlaying);
  }

  async seek(event, index) {
    const { left, width } = event.currentTarget.getBoundingClientRect();
    const part = Math.max(0, Math.min(1, (event.clientX - left) / width));
    await this.choose(index);
    if (this.player) this.jump(part * this.player.numFrames);
  }

  jump(position) {
    this.moved(Math.max(0, Math.min(this.player.numFrames - 1, position)));
    this.player.jump(this.position);
  }

  press(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const number = event.key.length === 1 ? "123456789".indexOf(event.key) : -1;
    const step = { ArrowLeft: -STEP_S, ArrowRight: STEP_S }[event.key];
    if (number >= 0 && number < this.sides.length) this.choose(number);
    else if (event.key === " ") this.toggle();
    else if (step && sounding === this) this.jump(this.position + step * this.sampleRate);
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
