// The page: what people do, and one run after the other.

import { canCapture, canPlay } from "./audio/sound.js";
import { ConnectionError } from "./calls/connection.js";
import { FileRun } from "./calls/file_run.js";
import { MicrophoneRun } from "./calls/microphone_run.js";
import * as view from "./view/view.js";

const { elements } = view;

const SENTENCES = {
  NotAllowedError: "The browser may not use the microphone. Allow it at the icon beside the address, then try again.",
  NotFoundError: "No microphone was found. Plug one in and try again, or choose a recording.",
  NotReadableError: "The microphone does not answer. Close other programs that use it, then try again.",
  EncodingError: "Your browser cannot read this file as sound. Choose a WAV, FLAC, MP3, Ogg or M4A file.",
};

const page = {
  run: null,
  apiKey: "",
  again: () => {}, // what to do once more with an API key

  begin(run) {
    page.run?.discard();
    page.run = run;
    view.showProblem("");
    return run;
  },

  useMicrophone() {
    page.again = page.useMicrophone;
    page.begin(new MicrophoneRun(page)).start();
  },

  useFile(file) {
    page.begin(new FileRun(page)).load(file);
  },

  leave() {
    page.begin(null);
    view.showState("idle");
  },

  fail(error) {
    const { run } = page;
    const asksForKey = error.code === "unauthorized";
    if (run.kind === "file" && run.recording) page.again = () => page.processAgain(run);
    page.begin(null);
    view.showState("error");
    view.showProblem(asksForKey && !page.apiKey ? "This server asks for an API key." : page.explain(error), asksForKey);
  },

  /** Once more with sound that is decoded already. */
  processAgain({ recording, wasAtOnce }) {
    const run = page.begin(new FileRun(page));
    run.recording = recording;
    run.getReady();
    run.process(wasAtOnce);
  },

  explain(error) {
    if (error.code === "busy") {
      const when = error.retryAfterS ? `in ${Math.ceil(error.retryAfterS)} s` : "in a minute";
      return `The server carries as many streams as it can. Try again ${when}.`;
    }
    if (error instanceof ConnectionError) return error.message;
    if (!(error.name in SENTENCES)) console.error(error);
    return SENTENCES[error.name] ?? `This did not work: ${error.message}. Load the page anew and try again.`;
  },

  mix() {
    view.showMix();
    if (page.run?.player) page.run.player.mix = view.wantedMix();
  },
};

/** Browsers call it while the page is visible only; sound does not depend on it. */
function draw() {
  requestAnimationFrame(draw);
  page.run?.draw();
}

function listenToPeople() {
  elements["use-microphone"].onclick = page.useMicrophone;
  elements.stop.onclick = () => page.run.stop();
  elements.listen.onclick = () => page.run.process(false);
  elements["at-once"].onclick = () => page.run.hurry();
  elements.play.onclick = () => page.run.togglePlay();
  elements.download.onclick = () => page.run.download();
  elements.leave.onclick = page.leave;
  elements.position.oninput = ({ target }) => page.run.seek(Number(target.value));
  elements.strength.oninput = () => {
    view.readStrength();
    page.mix();
  };
  elements["max-attenuation"].oninput = () => {
    view.readAttenuation();
    page.mix();
  };
  for (const radio of document.querySelectorAll("[name=side]")) radio.onchange = page.mix;
  elements["key-form"].onsubmit = (event) => {
    event.preventDefault();
    page.apiKey = elements.key.value.trim();
    page.again();
  };
  elements.file.onchange = ({ target }) => {
    if (target.files.length) page.useFile(target.files[0]);
    target.value = "";
  };
}

function listenToDrops() {
  document.ondragover = (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  };
  document.ondragleave = () => document.body.classList.remove("dropping");
  document.ondrop = (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    if (event.dataTransfer.files.length) page.useFile(event.dataTransfer.files[0]);
  };
}

view.showState("idle");
view.adaptToBrowser({ canCapture, canPlay });
view.readStrength();
view.showMix();
listenToPeople();
listenToDrops();
draw();
