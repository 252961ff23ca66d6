"""Denoises a WAV file (16-bit mono) as a stream, with an exported model: run_exported.py MODEL.onnx IN.wav OUT.wav

Needs numpy and onnxruntime, nothing else. MODEL.json lies beside MODEL.onnx and says how to drive it.
"""

import json
import os
import sys
import wave
from pathlib import Path

import numpy as np

os.environ.setdefault(
    "ORT_DISABLE_TELEMETRY", "1"
)  # before it is imported: it would tell its maker of each session
import onnxruntime


def denoise(model: str, noisy: np.ndarray, sample_rate: int) -> np.ndarray:
    """(samples,) float32, full scale +-1 -> the same shape, aligned."""
    try:
        how = json.loads(Path(model).with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        sys.exit(f"the .json beside {model} cannot be read ({error}): name an exported model")
    if (how.get("format"), how.get("format_version")) != ("wave-wizard-stream", 1):
        sys.exit(f"{model} is no export of version 1, by the .json beside it: export the model again")
    if sample_rate != how["sample_rate"]:
        sys.exit(f"the file has {sample_rate} Hz, the model takes {how['sample_rate']} Hz: convert it first")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # a step is too short to share
    options.add_session_config_entry("session.x64quantprecision", "1")  # exact int8 without VNNI too
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    state = {name: np.full((1, *shape), value, np.float32) for name, (shape, value) in how["states"].items()}
    hop, lag, length = how["hop_samples"], how["lag_samples"], len(noisy)
    # A stream starts with lead zeros; zeros at its end push out what is still inside.
    num_steps = -(-(lag + length) // hop)
    stream = np.zeros(max(num_steps * hop, how["lead_samples"] + length), np.float32)
    stream[how["lead_samples"] :][:length] = noisy
    finished = []
    for step in range(num_steps):  # live: as soon as a hop of new samples is there
        output, *new_state = session.run(None, {"chunk": stream[None, step * hop :][:, :hop], **state})
        state = dict(zip(state, new_state, strict=True))
        finished.append(output[0])
    return np.concatenate([np.zeros(0, np.float32), *finished])[lag : lag + length]


def main() -> None:
    if len(sys.argv) != 4:
        sys.exit("usage: python run_exported.py MODEL.onnx IN.wav OUT.wav")
    model, source, target = sys.argv[1:]
    try:
        with wave.open(source) as file:
            channels, width, rate = file.getnchannels(), file.getsampwidth(), file.getframerate()
            num_frames = file.getnframes()
            data = file.readframes(num_frames)
    except (wave.Error, EOFError, OSError) as error:
        sys.exit(f"{source} cannot be read ({error}): give a WAV file, 16-bit PCM, mono")
    if (channels, width) != (1, 2):
        sys.exit(f"{source} has {channels} channel(s) of {8 * width} bits: convert it to 16-bit mono first")
    if len(data) != 2 * num_frames or (not data and Path(source).stat().st_size > 1000):
        sys.exit(
            f"{source} holds {len(data)} bytes of sound, its header says {2 * num_frames}: copy it again"
        )
    if not Path(model).is_file() or not Path(target).parent.is_dir() or Path(target).is_dir():
        sys.exit(f"{model} must be an exported model, and {target} a file in a folder that is there")
    clean = denoise(model, np.frombuffer(data, "<i2").astype(np.float32) / 32768, rate)
    with wave.open(target, "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes((clean * 32768).round().clip(-32768, 32767).astype("<i2").tobytes())


if __name__ == "__main__":
    main()
