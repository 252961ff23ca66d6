"""A constant offset, and what drifts as slowly, taken off a stream before a model hears it. Nothing is waited for."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

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
        self._num_first = int(1 / self._share)  # of which the mean is that of all
        # What a sample of a piece of 0.1 s has to be multiplied by, for one sum to hold all of them as they have faded.
        self._growth_n = (1 - self._share) ** -np.arange(1.0, sample_rate // 10 + 1)
        self.restart()

    def restart(self) -> None:
        """Begins a new stream."""
        self._num_in = 0
        self._mean_C1 = np.zeros((self._num_channels, 1))

    def feed(self, samples_Cn: Samples) -> Samples:
        num_samples, start = samples_Cn.shape[-1], 0
        means_Cn = samples_Cn.astype(np.float64)
        while start < num_samples:
            num_left = self._num_first - self._num_in
            piece_Cn = means_Cn[:, start : start + (num_left if num_left > 0 else len(self._growth_n))]
            (self._average if num_left > 0 else self._fade)(piece_Cn)
            self._mean_C1 = piece_Cn[:, -1:].copy()
            self._num_in += piece_Cn.shape[-1]
            start += piece_Cn.shape[-1]
        without_Cn = (samples_Cn - means_Cn).astype(np.float32)
        without_Cn[np.abs(without_Cn) < _TINY] = 0
        return without_Cn

    def _average(self, piece_Cn: npt.NDArray[np.float64]) -> None:
        """Puts in the place of each sample the mean of all up to it."""
        np.cumsum(piece_Cn, axis=-1, out=piece_Cn)
        piece_Cn += self._num_in * self._mean_C1
        piece_Cn /= self._num_in + np.arange(1, piece_Cn.shape[-1] + 1)

    def _fade(self, piece_Cn: npt.NDArray[np.float64]) -> None:
        """The same, with a mean in which older samples count less: mean += share * (sample - mean)."""
        growth_n = self._growth_n[: piece_Cn.shape[-1]]
        piece_Cn *= self._share * growth_n
        np.cumsum(piece_Cn, axis=-1, out=piece_Cn)
        piece_Cn += self._mean_C1
        piece_Cn /= growth_n
