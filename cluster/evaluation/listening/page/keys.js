// Everything by keyboard, for both hands stay there through a test.

const DIGITS = "123456789";
const RATE = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10 };
const PREFER = { ArrowLeft: "A", ArrowDown: "same", ArrowRight: "B" };

/** Calls what a key means: choose(name), toggle(), rateBy(change), rateTo(value), prefer(which), mark(where), go(by).
 *
 * letters: those of the screen. mode: mushra or ab. Returns whether the key meant something.
 */
export function press(event, { letters, mode }, actions) {
  const { key, target, shiftKey } = event;
  if (event.ctrlKey || event.altKey || event.metaKey || target.matches("textarea, input[type=text]")) return false;
  const upper = key.toUpperCase();
  const isButton = target.matches("button:not([id^=hear-]), summary");
  if (key === " " || key === "Enter") {
    if (isButton) return false; // it presses the button
    if (key === " ") actions.toggle();
    else actions.go(1);
  } else if (key.length === 1 && letters.includes(upper)) actions.choose(upper);
  else if (key.length === 1 && letters[DIGITS.indexOf(key)]) actions.choose(letters[DIGITS.indexOf(key)]);
  else if (mode === "mushra" && (key === "0" || upper === "R")) actions.choose("reference");
  else if (key === "," || key === ".") actions.mark(key === "," ? "begin" : "end");
  else if (key === "Escape") actions.mark("all");
  else if (upper === "N" || upper === "P") actions.go(upper === "N" ? 1 : -1);
  else if (mode === "ab" && PREFER[key]) actions.prefer(PREFER[key]);
  else if (mode === "mushra" && RATE[key]) actions.rateBy(RATE[key] * (shiftKey ? 10 : 1));
  else if (mode === "mushra" && (key === "Home" || key === "End")) actions.rateTo(key === "Home" ? 0 : 100);
  else return false;
  return true;
}
