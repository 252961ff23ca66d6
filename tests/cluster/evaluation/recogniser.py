"""A recogniser that hears how loud a sound is, for tests: importable by name."""

from __future__ import annotations

import numpy as np


def loudness(signal_T: np.ndarray, sample_rate: int) -> str:
    """One word for each tenth of a second, of its level in steps of 10 dB."""
    size = sample_rate // 10
    frames = signal_T[: len(signal_T) // size * size].reshape(-1, size)
    levels = 10 * np.log10(np.mean(frames.astype(np.float64) ** 2, axis=1) + 1e-12)
    return " ".join(f"level{-level // 10:.0f}" for level in levels)
