// Two systems clip by clip: any two, by any measure. Drawn anew for each width, so that it is readable on a phone.

const MARGIN = { left: 52, right: 12, top: 12, bottom: 44 };
const NEAR = 24; // pixels: a pointer as near to a point means it
const figure = document.getElementById("scatter");
const data = JSON.parse(document.getElementById("scatter-data").textContent);
const plot = figure.querySelector(".plot");
const said = figure.querySelector("output");
const choice = Object.fromEntries([...figure.querySelectorAll("select")].map((select) => [select.name, select]));

const scatter = {
  points: [], // { name, x, y, left, top }, from the clip where `up` loses most to the one where it gains most
  at: -1,

  show() {
    const measure = data.measures[Number(choice.measure.value)];
    const [across, up] = [choice.across, choice.up].map((select) => data.systems.indexOf(select.value));
    Object.assign(this, { measure, at: -1 });
    this.points = data.clips
      .map((name, clip) => ({ name, x: measure.values[across][clip], y: measure.values[up][clip] }))
      .filter(({ x, y }) => x !== null && y !== null)
      .sort((a, b) => a.y - a.x - (b.y - b.x));
    this.draw();
    said.textContent = this.summary();
  },

  /** In how many clips which of the two is better. */
  summary() {
    const sign = this.measure.higher_is_better ? 1 : -1;
    const better = this.points.filter(({ x, y }) => sign * (y - x) > 0).length;
    const worse = this.points.filter(({ x, y }) => sign * (y - x) < 0).length;
    const [across, up] = [choice.across.value, choice.up.value];
    return `${up} is better in ${better} of ${this.points.length} clips, ${across} in ${worse}.`;
  },

  draw() {
    const width = Math.max(240, Math.min(plot.clientWidth, 620));
    const height = Math.round(width * 0.85);
    const values = this.points.flatMap(({ x, y }) => [x, y]);
    let [low, high] = values.reduce(([l, h], v) => [Math.min(l, v), Math.max(h, v)], [Infinity, -Infinity]);
    if (!(high > low)) [low, high] = Number.isFinite(low) ? [low - 1, low + 1] : [0, 1];
    const pad = 0.04 * (high - low);
    [low, high] = [low - pad, high + pad];
    const left = (v) => MARGIN.left + ((v - low) / (high - low)) * (width - MARGIN.left - MARGIN.right);
    const top = (v) => height - MARGIN.bottom - ((v - low) / (high - low)) * (height - MARGIN.top - MARGIN.bottom);
    for (const point of this.points) Object.assign(point, { left: left(point.x), top: top(point.y) });
    const title = ({ value }) => `${this.measure.label}: ${value}`;
    const grid = ticks(low, high).map(
      (v) => `<line class="grid" x1="${left(v)}" x2="${left(v)}" y1="${top(low)}" y2="${top(high)}"/>
        <line class="grid" x1="${left(low)}" x2="${left(high)}" y1="${top(v)}" y2="${top(v)}"/>
        <text x="${left(v)}" y="${top(low) + 16}" text-anchor="middle">${number(v)}</text>
        <text x="${left(low) - 6}" y="${top(v) + 4}" text-anchor="end">${number(v)}</text>`,
    );
    const dots = this.points.map((p) => `<circle cx="${p.left.toFixed(1)}" cy="${p.top.toFixed(1)}" r="3.5"/>`);
    plot.innerHTML = `<svg viewBox="0 0 ${width} ${height}" style="width: ${width}px" tabindex="0" role="img">
      ${grid.join("")}<line class="same" x1="${left(low)}" y1="${top(low)}" x2="${left(high)}" y2="${top(high)}"/>
      <g class="dots">${dots.join("")}</g><circle class="chosen" r="7" visibility="hidden"/>
      <text class="across" x="${(left(low) + left(high)) / 2}" y="${height - 6}" text-anchor="middle"></text>
      <text class="up" transform="translate(13 ${(top(low) + top(high)) / 2}) rotate(-90)" text-anchor="middle"></text></svg>`;
    const svg = plot.firstElementChild;
    svg.setAttribute("aria-label", `${title(choice.up)} over ${title(choice.across)}. Arrow keys go from clip to clip.`);
    svg.querySelector(".across").textContent = title(choice.across);
    svg.querySelector(".up").textContent = title(choice.up);
    svg.onpointermove = svg.onclick = (event) => this.point(event, svg);
    svg.onkeydown = (event) => this.press(event);
    this.mark();
  },

  point(event, svg) {
    const box = svg.getBoundingClientRect();
    const scale = svg.viewBox.baseVal.width / box.width;
    const [left, top] = [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
    const distances = this.points.map((point) => Math.hypot(point.left - left, point.top - top));
    const nearest = distances.indexOf(Math.min(...distances));
    if (distances[nearest] <= NEAR) this.name(nearest);
  },

  press(event) {
    const last = this.points.length - 1;
    const by = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    const to = { Home: 0, End: last }[event.key] ?? (by && (this.at < 0 && by < 0 ? last : this.at + by));
    if (to === undefined) return;
    event.preventDefault();
    this.name(Math.max(0, Math.min(last, to)));
  },

  name(place) {
    this.at = place;
    this.mark();
    const { name, x, y } = this.points[place];
    const { label, digits } = this.measure;
    const [from, to, change] = [x, y, y - x].map((value) => value.toFixed(digits).replace("-", "−"));
    const by = change.startsWith("−") ? change : `+${change}`;
    said.textContent = `${name}: ${label} ${from} (${choice.across.value}), ${to} (${choice.up.value}), ${by}. `;
    const clip = document.querySelector(`.clip[data-clip="${CSS.escape(name)}"]`);
    if (clip) said.append(Object.assign(document.createElement("a"), { href: `#${clip.id}`, textContent: "Hear it", onclick: () => (clip.open = true) }));
  },

  mark() {
    const point = this.points[this.at];
    const mark = plot.querySelector(".chosen");
    mark.setAttribute("visibility", point ? "visible" : "hidden");
    if (point) for (const [name, value] of [["cx", point.left], ["cy", point.top]]) mark.setAttribute(name, value);
  },
};

/** Four to eight round numbers. */
function ticks(low, high) {
  const rough = (high - low) / 8;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((times) => times * power).find((each) => each >= rough);
  const first = Math.ceil(low / step);
  return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(6)));
}

function number(value) {
  return String(value).replace("-", "−");
}

for (const select of Object.values(choice)) select.onchange = () => scatter.show();
figure.querySelector(".choices").hidden = false;
scatter.show();
let width = plot.clientWidth;
new ResizeObserver(() => {
  if (plot.clientWidth !== width) scatter.draw();
  width = plot.clientWidth;
}).observe(plot);
document.body.dataset.state = "ready";
