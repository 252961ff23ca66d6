"""A constant offset, and what drifts as slowly, taken off a stream before a model hears it. Nothing is waited for."""

from __future__ import annotations

import math

import numpy as np
from scipy.signal import lfilter

from cluster.sound.resampling import Samples

# Higher, and the phase of low voices would be turned: at 1 Hz what is taken off speech lies 35 dB below it.
CUTOFF_HZ = 1.0
# What is left of a mean long after its sound has ended would make the arithmetic of a network slow.
_TINY = 1e-20


class OffsetRemover:
    """feed (C, n), any n -> (C, n) without the mean of what has come, in which each sample fades within 160 ms.

    Over the first 160 ms the mean is that of all samples: so a constant makes no difference from the first one on.
    """

    def __init__(self, sample_rate: int, num_channels: int) -> None:
        self._num_channels = num_channels
        self._share = 1 - math.exp(-2 * math.pi * CUTOFF_HZ / sample_rate)  # of the newest sample in the mean
        self.restart()

    def restart(self) -> None:
        """Begins a new stream."""
        self._num_in = 0
        self._mean_C1 = np.zeros((self._num_channels, 1))

    def feed(self, samples_Cn: Samples) -> Samples:
        num_samples = samples_Cn.shape[-1]
        if num_samples == 0:
            return samples_Cn
        means_Cn = samples_Cn.astype(np.float64)
        num_first = min(num_samples, max(0, int(1 / self._share) - self._num_in))
        if num_first:
            sums_Cn = self._num_in * self._mean_C1 + np.cumsum(means_Cn[:, :num_first], axis=-1)
            means_Cn[:, :num_first] = sums_Cn / (self._num_in + np.arange(1, num_first + 1))
            self._mean_C1 = means_Cn[:, num_first - 1 : num_first]
        if num_first < num_samples:
            kept = 1 - self._share
            rest_Cn = means_Cn[:, num_first:]
            rest_Cn[:], _ = lfilter([self._share], [1, -kept], rest_Cn, zi=kept * self._mean_C1)
        self._num_in += num_samples
        self._mean_C1 = means_Cn[:, -1:].copy()
        without_Cn = (samples_Cn - means_Cn).astype(np.float32)
        without_Cn[np.abs(without_Cn) < _TINY] = 0
        return without_Cn
