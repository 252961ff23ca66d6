"""Whether there is anything to hear in a recording: what lies below 20 Hz alone is no speech and no noise."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ww_data.dsp import HIGH_PASS_HZ, FloatArray, high_pass_reach, high_passed

_LAG_S = 0.002
_LOOKED_AT_FRAMES = 1 << 15


def surely_heard(x_T: FloatArray, sample_rate: int) -> float:
    """Energy that a stretch has above 20 Hz at the very least, from its beginning; quick, in the samples' own unit.

    Within 2 ms, what lies below 30 Hz changes by less than a known share, and anything else by twice itself at most.
    """
    x_T = x_T[:_LOOKED_AT_FRAMES]
    lag = max(1, round(_LAG_S * sample_rate))
    changes_T = x_T[lag:] - x_T[:-lag]
    slow_share = (2 * math.pi * 1.5 * HIGH_PASS_HZ * lag / sample_rate) ** 2
    return max(0.0, float(np.dot(changes_T, changes_T)) - slow_share * float(np.dot(x_T, x_T))) / 4


def heard_dbfs(blocks_TC: Iterator[npt.NDArray[Any]], sample_rate: int) -> float:
    """The level of what blocks (n, C) at full scale 1, channels averaged, hold above 20 Hz.

    Their first and last quarter second are not counted: nobody knows what came before. Shorter ones: infinity.
    """
    reach = high_pass_reach(sample_rate)
    waiting_T = np.empty(0, np.float32)
    num_samples, energy = 0, 0.0
    for block_TC in blocks_TC:
        waiting_T = np.concatenate([waiting_T, block_TC.mean(axis=1, dtype=np.float32)])
        if len(waiting_T) > 2 * reach:
            heard_T = high_passed(waiting_T, sample_rate)[reach:-reach]
            energy += float(np.dot(heard_T, heard_T))
            num_samples += len(heard_T)
            waiting_T = waiting_T[-2 * reach :]
    if not num_samples:
        return math.inf
    return 10 * math.log10(energy / num_samples) if energy > 0 else -math.inf
