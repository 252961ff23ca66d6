"""Loudness after ITU-R BS.1770-4: power after the K weighting, over the blocks that its gate lets through."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

BLOCK_S, HOP_S = 0.4, 0.1
ABSOLUTE_GATE_LUFS, RELATIVE_GATE_LU = -70.0, -10.0
OFFSET_DB = -0.691  # so that a sine of 997 Hz at full scale is at -3.01
# The standard gives coefficients for 48 kHz; these are the analogue filters that they come from (De Man, 2014).
_SHELF_HZ, _SHELF_DB, _SHELF_Q, _SHELF_MIDDLE = (
    1681.974450955533,
    3.999843853973347,
    0.7071752369554196,
    0.4996667741545416,
)
_HIGH_PASS_HZ, _HIGH_PASS_Q = 38.13547087602444, 0.5003270373238773


def k_weighting(sample_rate: int) -> npt.NDArray[np.float64]:
    """The two sections of the K weighting, (2, 6) as SciPy writes them: a high shelf, then a high pass."""
    k = math.tan(math.pi * _SHELF_HZ / sample_rate)
    high = 10 ** (_SHELF_DB / 20)
    middle = high**_SHELF_MIDDLE
    shelf = [high + middle * k / _SHELF_Q + k * k, 2 * (k * k - high), high - middle * k / _SHELF_Q + k * k]
    section = np.array([*shelf, *_denominator(k, _SHELF_Q)]) / _denominator(k, _SHELF_Q)[0]
    k = math.tan(math.pi * _HIGH_PASS_HZ / sample_rate)
    below = np.array(_denominator(k, _HIGH_PASS_Q)) / _denominator(k, _HIGH_PASS_Q)[0]
    return np.array([section, [1.0, -2.0, 1.0, *below]])


def _denominator(k: float, q: float) -> list[float]:
    return [1 + k / q + k * k, 2 * (k * k - 1), 1 - k / q + k * k]


def block_powers(signal_T: npt.NDArray[Any], sample_rate: int) -> npt.NDArray[np.float64]:
    """Mean squares (M,) after the K weighting in blocks of 400 ms, every 100 ms; one block if it is shorter."""
    from scipy.signal import sosfilt

    weighted_T = sosfilt(k_weighting(sample_rate), np.asarray(signal_T, np.float64))
    block = min(round(BLOCK_S * sample_rate), len(weighted_T))
    sums = np.concatenate([[0.0], np.cumsum(weighted_T**2)])
    starts = np.arange(0, len(weighted_T) - block + 1, max(1, round(HOP_S * sample_rate)))
    return np.asarray((sums[starts + block] - sums[starts]) / max(block, 1))


def gate(powers_M: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Which blocks (M,) count: above -70 LUFS, and not 10 LU below the mean of those."""
    loud_M = powers_M > _power(ABSOLUTE_GATE_LUFS)
    if not loud_M.any():
        return loud_M
    return loud_M & (powers_M > powers_M[loud_M].mean() * 10 ** (RELATIVE_GATE_LU / 10))


def loudness_lufs(powers_M: npt.NDArray[np.float64], counted_M: npt.NDArray[np.bool_]) -> float:
    """Loudness over the blocks that count; minus infinity for silence, or if none counts."""
    mean = float(powers_M[counted_M].mean()) if counted_M.any() else 0.0
    return OFFSET_DB + 10 * math.log10(mean) if mean > 0 else -math.inf


def _power(lufs: float) -> float:
    return float(10 ** ((lufs - OFFSET_DB) / 10))
