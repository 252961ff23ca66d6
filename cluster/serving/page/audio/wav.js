// WAV files out, and what the head of a sound file says about its rate.

/** A 16 bit WAV file of interleaved samples. */
export function encodeWav(pcm, sampleRate, channels) {
  const head = new DataView(new ArrayBuffer(44));
  const text = (offset, name) => [...name].forEach((c, i) => head.setUint8(offset + i, c.charCodeAt(0)));
  text(0, "RIFF");
  head.setUint32(4, 36 + pcm.byteLength, true);
  text(8, "WAVEfmt ");
  head.setUint32(16, 16, true);
  head.setUint16(20, 1, true);
  head.setUint16(22, channels, true);
  head.setUint32(24, sampleRate, true);
  head.setUint32(28, sampleRate * channels * 2, true);
  head.setUint16(32, channels * 2, true);
  head.setUint16(34, 16, true);
  text(36, "data");
  head.setUint32(40, pcm.byteLength, true);
  return new Blob([head, pcm], { type: "audio/wav" });
}

/** Interleaved 16 bit samples of an AudioBuffer. */
export function toPcm(buffer) {
  const { length, numberOfChannels: channels } = buffer;
  const pcm = new Int16Array(length * channels);
  for (let channel = 0; channel < channels; channel++) {
    const plane = buffer.getChannelData(channel);
    for (let i = 0; i < length; i++) {
      pcm[i * channels + channel] = Math.max(-32768, Math.min(32767, Math.round(plane[i] * 32768)));
    }
  }
  return pcm;
}

/** The sample rate that a WAV, FLAC or Ogg Vorbis file names, in Hz; null where it is not found.
 *
 * Browsers decode to a rate that they are given and do not tell the file's own.
 */
export function namedSampleRate(buffer) {
  const bytes = new DataView(buffer, 0, Math.min(buffer.byteLength, 4096));
  const text = (offset, length) =>
    Array.from({ length }, (_, i) => String.fromCharCode(bytes.getUint8(offset + i))).join("");
  if (bytes.byteLength < 64) return null;
  if (text(0, 4) === "fLaC") return bytes.getUint32(18) >>> 12;
  if (text(0, 4) === "OggS" && text(29, 6) === "vorbis") return bytes.getUint32(40, true);
  if (text(0, 4) !== "RIFF" || text(8, 4) !== "WAVE") return null;
  for (let offset = 12; offset + 16 <= bytes.byteLength; offset += 8 + bytes.getUint32(offset + 4, true)) {
    if (text(offset, 4) === "fmt ") return bytes.getUint32(offset + 12, true);
  }
  return null;
}
