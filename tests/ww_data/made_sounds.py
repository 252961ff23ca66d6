"""Small made-up sounds and folders of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

RATE = 16000


def syllables(seed: int, seconds: float, rate: int = RATE) -> np.ndarray:
    """(T,) float32: a buzzing voice that pauses between its syllables, peak 0.5."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    voice = sum(np.sin(2 * np.pi * rng.uniform(100, 200) * k * t) / k for k in range(1, 6))
    gate = np.clip(np.sin(2 * np.pi * rng.uniform(1.5, 3) * t + rng.uniform(0, 6)), 0, None)
    x = voice * gate
    return (0.5 * x / np.abs(x).max()).astype(np.float32)


def hiss(seed: int, seconds: float, rate: int = RATE) -> np.ndarray:
    """(T,) float32 white noise of RMS 0.05."""
    return (0.05 * np.random.default_rng(seed).standard_normal(round(seconds * rate))).astype(np.float32)


def write_folders(
    root: Path, *, num_speakers: int = 4, clips_each: int = 2, num_noises: int = 4, seconds: float = 3.0
) -> tuple[Path, Path]:
    """root/speech/<speaker>/<n>.wav and root/noise/<n>.wav."""
    speech, noise = root / "speech", root / "noise"
    for speaker in range(num_speakers):
        (speech / f"speaker{speaker}").mkdir(parents=True)
        for n in range(clips_each):
            path = speech / f"speaker{speaker}" / f"{n}.wav"
            soundfile.write(path, syllables(100 * speaker + n, seconds), RATE)
    noise.mkdir()
    for n in range(num_noises):
        soundfile.write(noise / f"noise{n}.wav", hiss(1000 + n, seconds), RATE)
    return speech, noise
