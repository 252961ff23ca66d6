// The test: one screen after the other. All that is known of a sound is its letter.

import { press } from "./keys.js";
import { Picture } from "./picture.js";
import { Player } from "./player.js";
import { begin, Screens } from "./server.js";
import * as view from "./view.js";

const { elements } = view;
const HEARD_S = 1; // of each sound, before it may be judged
const LEAST_REGION_S = 0.2;

const test = {
  /** A listener sits down; goes on at the first clip that has no answer. */
  async begin(listener) {
    const { session, mode, letters, sample_rate: sampleRate, answered } = await begin(listener);
    const names = mode === "mushra" ? ["reference", ...letters] : letters;
    Object.assign(test, { mode, letters, names, sampleRate, answered, screens: new Screens(session) });
    test.player = await Player.open(sampleRate);
    view.showMode(mode);
    await test.show(0);
    const num = answered.filter(Boolean).length;
    if (num) view.say(`Welcome back: ${num} of ${answered.length} clips are answered.`);
  },

  async show(number) {
    view.say("Loading …");
    test.isLoading = true;
    const { screens, names } = test;
    try {
      const [answer, ...sounds] = await Promise.all([
        number ? screens.answer(number) : null,
        ...names.map((name) => screens.sound(number, name)),
      ]);
      test.open(number, sounds, answer);
    } finally {
      test.isLoading = false;
    }
  },

  open(number, sounds, answer) {
    const { names, mode, sampleRate } = test;
    Object.assign(test, { number, ratings: {}, preferred: null, since: performance.now(), position: 0 });
    test.plays = Object.fromEntries(names.map((name) => [name, 0]));
    test.heard = names.map(() => 0);
    test.player.load(sounds, test.report);
    view.showState("screen");
    test.rows = new view.Rows(names, mode === "mushra", { onChoose: test.choose, onRate: test.rate });
    picture.load(sounds[0].length, sampleRate, mode === "mushra" ? sounds[0] : null);
    view.showProgress(number, test.answered);
    view.showPlaying(false);
    view.showPosition(0, sounds[0].length / sampleRate);
    view.showProblem("");
    view.say("");
    for (const radio of document.querySelectorAll("[name=preferred]")) radio.checked = false;
    elements.comment.value = answer?.comment ?? "";
    for (const [letter, rating] of Object.entries(answer?.ratings ?? {})) test.rate(letter, rating);
    if (answer?.preferred) test.prefer(answer.preferred);
    test.rows.rows[0].button.focus({ preventScroll: true });
    scrollTo(0, 0);
  },

  report({ position, heard }) {
    Object.assign(test, { position, heard });
    test.names.forEach((_, index) => test.isHeard(index) && test.rows.showHeard(index));
    view.showPosition(position / test.sampleRate, test.player.numFrames / test.sampleRate);
  },

  choose(index) {
    const { player, names, plays } = test;
    if (player.chosen !== index || !player.isPlaying) plays[names[index]] += 1;
    player.choose(index);
    if (!player.isPlaying) test.play(true);
    test.rows.choose(index);
  },

  play(isPlaying) {
    test.player.play(isPlaying);
    view.showPlaying(isPlaying);
  },

  toggle() {
    if (test.player.isPlaying) test.play(false);
    else test.choose(test.player.chosen);
  },

  rate(letter, value) {
    test.ratings[letter] = value;
    test.rows.rate(test.names.indexOf(letter), value);
  },

  rateTo(value) {
    const { chosen } = test.player;
    if (test.names[chosen] === "reference") view.say("The reference has no rating: choose a letter.");
    else test.rate(test.names[chosen], Math.max(0, Math.min(100, value)));
  },

  rateBy(change) {
    test.rateTo(test.rows.value(test.player.chosen) + change);
  },

  prefer(which) {
    test.preferred = which;
    document.querySelector(`[name=preferred][value=${which}]`).checked = true;
  },

  mark(where) {
    const { player, position, sampleRate } = test;
    let { begin: from, end: to } = player.region;
    if (where === "begin") from = position;
    if (where === "end") to = position;
    if (where === "all" || to - from < LEAST_REGION_S * sampleRate) [from, to] = [0, player.numFrames];
    test.repeat(from, to);
  },

  repeat(from, to) {
    test.player.repeat(from, to);
    picture.show(test.player.region);
  },

  isHeard(index) {
    return test.heard[index] >= Math.min(HEARD_S * test.sampleRate, test.player.numFrames);
  },

  /** What is still to be done on this screen, as a sentence; empty: nothing is. */
  missing() {
    const { names, letters, ratings, number, answered } = test;
    if (number === 0 && answered.some(Boolean)) return ""; // has been here before
    const unheard = names.filter((_, index) => !test.isHeard(index));
    if (unheard.length) return `Listen first, at least a second, to ${unheard.join(", ")}.`;
    if (number === 0) return "";
    if (test.mode === "ab") return test.preferred ? "" : "Say first which one is better, or that neither is.";
    const unrated = letters.filter((letter) => !(letter in ratings));
    return unrated.length ? `Rate first ${unrated.join(", ")}.` : "";
  },

  async go(by) {
    if (test.isLoading) return;
    const { number, answered } = test;
    if (by < 0) return number > 0 ? test.show(number - 1) : undefined;
    const missing = test.missing();
    if (missing) return view.say(missing);
    test.play(false);
    if (number > 0) await test.store();
    const next = number === 0 ? answered.indexOf(false) + 1 || 1 : number + 1;
    if (next <= answered.length) await test.show(next);
    else if (test.answered.every(Boolean)) test.finish();
    else await test.show(test.answered.indexOf(false) + 1);
  },

  async store() {
    const { number, plays, ratings, preferred, mode, since } = test;
    test.isLoading = true;
    try {
      const reply = { plays, seconds: (performance.now() - since) / 1000, comment: elements.comment.value };
      const judged = mode === "ab" ? { preferred } : { ratings };
      test.answered = (await test.screens.store(number, { ...reply, ...judged })).answered;
    } finally {
      test.isLoading = false;
    }
  },

  finish() {
    test.player.close();
    view.showState("finished");
    elements.back.focus();
  },
};

const picture = new Picture({
  onRegion: (from, to) => test.repeat(from, to),
  onSeek: (position) => test.player.jump(position),
});

/** Runs what a press began, and says what went wrong with it. */
function attempt(action) {
  return async (...given) => {
    try {
      await action(...given);
    } catch (error) {
      if (error.name !== "Error") console.error(error);
      view.say("");
      view.showProblem(error.message);
      elements.problem.scrollIntoView({ block: "center" });
    }
  };
}

const actions = {
  ...Object.fromEntries(["toggle", "rateBy", "rateTo", "prefer", "mark"].map((name) => [name, test[name]])),
  choose: (name) => test.choose(test.names.indexOf(name)),
  go: attempt((by) => test.go(by)),
};

elements.begin.onsubmit = (event) => {
  event.preventDefault();
  attempt(test.begin)(elements.listener.value);
};
elements.play.onclick = () => test.toggle();
elements["loop-begin"].onclick = () => test.mark("begin");
elements["loop-end"].onclick = () => test.mark("end");
elements["loop-all"].onclick = () => test.mark("all");
elements.next.onclick = () => actions.go(1);
elements.previous.onclick = () => actions.go(-1);
elements.back.onclick = attempt(() => test.show(test.number));
for (const radio of document.querySelectorAll("[name=preferred]")) radio.onchange = () => test.prefer(radio.value);
document.onkeydown = (event) => {
  if (document.body.dataset.state !== "screen" || event.defaultPrevented) return;
  if (press(event, test, actions)) event.preventDefault();
};

view.showState("welcome");
document.body.dataset.ready = "true";
