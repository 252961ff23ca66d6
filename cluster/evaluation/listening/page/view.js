// The page's elements: what is shown when, and the rows of stimuli.

const $ = (id) => document.getElementById(id);
export const elements = new Proxy({}, { get: (_, id) => $(id) });

/** Shows what belongs to a state: welcome, screen or finished. */
export function showState(state) {
  document.body.dataset.state = state;
  for (const element of document.querySelectorAll("[data-in]")) element.hidden = element.dataset.in !== state;
}

export function showMode(mode) {
  document.body.dataset.mode = mode;
  for (const element of document.querySelectorAll("[data-of]")) element.hidden = element.dataset.of !== mode;
}

/** What went wrong and what to do; empty: nothing did. */
export function showProblem(sentence) {
  $("problem").textContent = sentence;
  $("problem").hidden = !sentence;
}

/** The sentence that a screen reader reads out, too. */
export function say(sentence) {
  if ($("status").textContent !== sentence) $("status").textContent = sentence;
}

/** Screen `number` of so many; 0 is the training. */
export function showProgress(number, answered) {
  const num = answered.filter(Boolean).length;
  $("title").textContent = number ? `Clip ${number} of ${answered.length}` : "Training";
  $("training").hidden = number > 0;
  $("progress").max = answered.length;
  $("progress").value = num;
  $("count").textContent = `${num} of ${answered.length} answered`;
  $("previous").disabled = number === 0;
  $("next").textContent = number === 0 ? "Begin the test" : number === answered.length ? "Finish" : "Next";
}

export function showPlaying(isPlaying) {
  $("play").textContent = isPlaying ? "Pause" : "Play";
}

/** Where the player is, in seconds. */
export function showPosition(seconds, total) {
  $("playhead").style.left = `${(100 * seconds) / total}%`;
  $("time").textContent = `${seconds.toFixed(1)} / ${total.toFixed(1)} s`;
}

/** A row for each sound: a button to hear it and, on the scale, a slider for it. */
export class Rows {
  /** names: letters, and "reference" first where there is one. onChoose(index), onRate(letter, value). */
  constructor(names, hasScale, { onChoose, onRate }) {
    this.rows = names.map((name, index) => makeRow(name, hasScale && name !== "reference", {
      onChoose: () => onChoose(index),
      onRate: (value) => onRate(name, value),
    }));
    const elements = this.rows.map(({ row }) => row);
    $("open-reference").replaceChildren(...elements.splice(0, names[0] === "reference" ? 1 : 0));
    $("stimuli").replaceChildren(...elements);
  }

  choose(index) {
    this.rows.forEach(({ button }, i) => button.setAttribute("aria-pressed", String(i === index)));
    (this.rows[index].slider ?? this.rows[index].button).focus({ preventScroll: true });
  }

  showHeard(index) {
    this.rows[index].row.dataset.heard = "true";
  }

  value(index) {
    const { slider } = this.rows[index];
    return slider && Number(slider.value);
  }

  rate(index, value) {
    const { row, slider, output } = this.rows[index];
    row.dataset.rated = "true";
    slider.value = String(value);
    slider.setAttribute("aria-valuetext", String(value));
    output.textContent = String(value);
  }
}

function makeRow(name, hasScale, { onChoose, onRate }) {
  const row = document.createElement("div");
  row.className = hasScale ? "stimulus" : "stimulus wide";
  const button = document.createElement("button");
  Object.assign(button, { type: "button", id: `hear-${name}`, onclick: onChoose });
  button.textContent = name === "reference" ? "Reference" : name;
  button.setAttribute("aria-pressed", "false");
  row.append(button);
  if (!hasScale) return { row, button };
  row.dataset.rated = "false";
  const slider = document.createElement("input");
  Object.assign(slider, { type: "range", id: `rate-${name}`, min: "0", max: "100", step: "1", value: "50" });
  slider.setAttribute("aria-label", `Rating of ${name}`);
  slider.setAttribute("aria-valuetext", "not rated");
  slider.oninput = () => onRate(Number(slider.value));
  const output = document.createElement("output");
  output.textContent = "–";
  row.append(slider, output);
  return { row, button, slider, output };
}
