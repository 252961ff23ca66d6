// The page's elements: what is shown in which state, and the figures.

const $ = (id) => document.getElementById(id);
export const elements = new Proxy({}, { get: (_, id) => $(id) });

const FOCUS = { idle: "use-microphone", connecting: "leave", ready: "listen", "live-microphone": "stop",
  "live-file": "play", finished: "play", error: "problem" };

/** Shows what belongs to a state: idle, connecting, ready, live, finished or error. kind: microphone or file. */
export function showState(state, kind) {
  const pressed = document.activeElement;
  Object.assign(document.body.dataset, { state, kind: kind ?? "" });
  const belongs = (element) => {
    const states = element.dataset.in.split(" ");
    return states.includes(state) || states.includes(`${state}-${kind}`);
  };
  const all = [...document.querySelectorAll("[data-in]")];
  for (const element of all.filter(belongs)) element.hidden = false;
  const leaving = all.filter((element) => !belongs(element));
  // Who works with the keyboard goes on at the button that takes the place of the pressed one.
  if (leaving.some((element) => element.contains(pressed))) {
    $(FOCUS[`${state}-${kind}`] ?? FOCUS[state]).focus({ preventScroll: true });
  }
  for (const element of leaving) element.hidden = true;
  $("leave").textContent = state === "connecting" ? "Cancel" : "Start over";
}

/** Says once what this browser cannot do here. */
export function adaptToBrowser({ canCapture, canPlay }) {
  $("use-microphone").disabled = !canCapture;
  $("listen").disabled = !canPlay;
  if (!canCapture) {
    $("microphone-hint").textContent =
      "Browsers give it only to pages over https, or under 127.0.0.1 on the same machine. Recordings work.";
  }
}

export function showTitle(title) {
  $("title").textContent = title;
}

/** The sentence that a screen reader reads out, too. */
export function say(sentence) {
  if ($("status").textContent !== sentence) $("status").textContent = sentence;
}

/** What went wrong and what to do; empty: nothing did. */
export function showProblem(sentence, asksForKey = false) {
  $("problem").textContent = sentence;
  $("problem").hidden = !sentence;
  $("key-form").hidden = !asksForKey;
  if (asksForKey) $("key").focus();
}

export const clock = (seconds) =>
  `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;

export const kilohertz = (hz) => `${Number((hz / 1000).toFixed(2))} kHz`;

const ms = (value) => `${value.toFixed(value < 10 ? 1 : 0)} ms`;

export function showServer({ model, evidence, latency_ms }) {
  $("model").textContent = model;
  $("evidence").textContent = evidence ?? "";
  $("why").hidden = !evidence;
  $("latency").textContent = ms(latency_ms);
  for (const id of ["delay", "load", "processing"]) $(id).textContent = "–";
  $("gaps").textContent = "0";
}

/** stats: the server's message of that name. */
export function showStats(stats) {
  const percent = 100 * stats.real_time_factor;
  $("load").textContent = `${percent.toFixed(percent < 10 ? 1 : 0)} % of a core`;
  $("processing").textContent = ms(stats.processing_ms_p99);
}

export function showGaps(underruns) {
  $("gaps").textContent = String(underruns);
}

export function showDelay(delayMs) {
  $("delay").textContent = `${Math.round(delayMs / 5) * 5} ms`;
}

export function showTimer(seconds) {
  $("timer").textContent = clock(seconds);
}

export function showPlaying(isPlaying, canPlay) {
  $("play").textContent = isPlaying ? "Pause" : "Play";
  $("play").disabled = !canPlay;
}

export function allowHurry(isAllowed) {
  $("at-once").disabled = !isAllowed;
}

let strength = 1;
export const wantedStrength = () => strength;

/** Takes the strength from its slider, and says what is taken away at most: in dB, and nothing where that is all. */
export function readStrength() {
  strength = Number($("strength").value) / 100;
  $("max-attenuation").value = strength < 1 ? String(Math.round(-200 * Math.log10(1 - strength)) / 10) : "";
}

/** Takes it from what is taken away at most; as `strength_from` of the server does. */
export function readAttenuation() {
  const field = $("max-attenuation");
  strength = field.value === "" ? 1 : 1 - 10 ** (-Math.max(field.valueAsNumber, 0) / 20);
  $("strength").value = String(Math.round(100 * strength));
}

const wantedSide = () => document.querySelector("[name=side]:checked").value;

/** 0: the noisy side is to be heard; 1: the denoised one. */
export const wantedMix = () => (wantedSide() === "noisy" ? 0 : wantedStrength());

export function showMix() {
  document.body.dataset.side = wantedSide();
  $("strength-value").textContent = `${$("strength").value} %`;
}

/** Where the player is, in seconds. */
export function showPosition(seconds, total) {
  const slider = $("position");
  slider.max = String(total);
  slider.value = String(seconds);
  slider.setAttribute("aria-valuetext", `${clock(seconds)} of ${clock(total)}`);
  $("time").textContent = `${clock(seconds)} / ${clock(total)}`;
  for (const line of document.querySelectorAll(".playhead")) {
    line.style.left = `${(100 * seconds) / Math.max(total, 1e-3)}%`;
  }
}

export function showAxes(maxHz, seconds) {
  $("axis-time").textContent = seconds === null ? "the last 8 seconds" : `0 to ${clock(seconds)} min`;
  $("axis-frequency").textContent = `0 to ${kilohertz(maxHz)} upwards`;
}

export function offerDownload(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
