// The two spectrograms, of one recording and on one scale.

import { Spectrogram } from "./spectrogram.js";
import { elements, showAxes } from "./view.js";

const noisy = new Spectrogram(elements.noisy, "noisy");
const denoised = new Spectrogram(elements.denoised, "denoised");

/** Shows a recording up to maxHz: all of its noisy side, or what comes, scrolling. */
export function showPictures(recording, maxHz, { isWhole }) {
  const numFrames = isWhole ? recording.numNoisyFrames : null;
  for (const picture of [noisy, denoised]) picture.show(recording, maxHz, numFrames);
  showAxes(maxHz, isWhole ? numFrames / recording.sampleRate : null);
}

/** Draws what has come since; a whole noisy side need not wait for the denoised one. */
export function updatePictures(recording, { isWhole }) {
  noisy.update(isWhole ? recording.numNoisyFrames : recording.numFrames);
  denoised.update(recording.numFrames);
}
