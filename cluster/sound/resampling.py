"""Resampling of a stream, chunk by chunk: sample for sample what `ww_data.resample` makes of the whole clip.

Its filter is torchaudio's Hann-windowed sinc, 16 zero crossings to each side, which looks about a millisecond ahead.
(Streams of libsoxr, in any quality worth having, wait for 20 to 80 ms.)
"""

from __future__ import annotations

import functools
import math
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]
_Count = TypeVar("_Count", int, npt.NDArray[np.int64])

ZERO_CROSSINGS, ROLLOFF = 16, 0.99  # those of ww_data.resample
# Rates with a useful common divisor are a matrix product over whole periods; above so many entries the weights of
# each sample are computed anew.
_MAX_MATRIX_ENTRIES = 1_000_000
# Samples that are worked on at a time, so that a long chunk needs no more memory than a short one.
_PIECE = 1 << 14


class StreamResampler:
    """feed (C, n), any n -> the samples that are finished, (C, m); flush -> the rest, and a new stream begins.

    After n samples in, `num_finished(n)` are out; at the end ceil(n * to_rate / from_rate) of them.
    """

    def __init__(self, from_rate: int, to_rate: int, num_channels: int = 1) -> None:
        divisor = math.gcd(from_rate, to_rate)
        step_in, step_out = from_rate // divisor, to_rate // divisor
        self._is_identity = from_rate == to_rate
        self._reach = filter_reach(step_in, step_out)
        self._num_channels = num_channels
        is_common = _matrix_entries(step_in, step_out) <= _MAX_MATRIX_ENTRIES
        # Windows overlap by twice the reach: of short periods several at a time, or each sample is copied many times.
        num_periods = -(-self._reach // step_in) if is_common else 1
        self._step_in, self._step_out = num_periods * step_in, num_periods * step_out
        self._filter = self._by_periods if is_common else self._by_samples
        self._beyond: Samples = np.zeros((num_channels, self._step_in + 1 if is_common else 1), np.float32)
        self._restart()

    def _restart(self) -> None:
        self.num_in = self.num_out = 0
        # The inputs that later outputs need, from index `_first` on; zeros lie before the first sample.
        self._held: Samples = np.zeros((self._num_channels, self._reach), np.float32)
        self._first = -self._reach

    def num_finished(self, num_in: int) -> int:
        """How many samples are out after so many in, before `flush`."""
        return max(0, self.num_finished_inside(num_in))

    def num_finished_inside(self, num_in: _Count) -> _Count:
        """The same of one or many counts, if all lie well inside the stream."""
        if self._is_identity:
            return num_in
        return -(-(num_in - self._reach - 1) * self._step_out // self._step_in)

    def num_total(self, num_in: int) -> int:
        """How many samples a clip of so many becomes."""
        return -(-num_in * self._step_out // self._step_in)

    def feed(self, samples_Cn: Samples) -> Samples:
        """(C, n) -> (C, m)"""
        if self._is_identity:
            self.num_in += samples_Cn.shape[-1]
            self.num_out = self.num_in
            return samples_Cn
        finished = []
        for start in range(0, samples_Cn.shape[-1], _PIECE):
            piece = samples_Cn[:, start : start + _PIECE]
            self.num_in += piece.shape[-1]
            finished.append(self._take(piece, self.num_finished(self.num_in)))
        empty = np.zeros((self._num_channels, 0), np.float32)
        return finished[0] if len(finished) == 1 else np.concatenate([empty, *finished], axis=-1)

    def flush(self) -> Samples:
        """What is left of the stream, (C, rest); what is fed next begins a new one."""
        silence = np.zeros((self._num_channels, self._reach + 1), np.float32)
        rest = self._take(silence, self.num_total(self.num_in))
        self._restart()
        return rest

    def _take(self, piece: Samples, end: int) -> Samples:
        """Adds a piece of input, and returns the outputs from `num_out` up to `end`."""
        # The last outputs are taken in whole periods: those beyond `end` see zeros, and are dropped.
        held = np.concatenate([self._held, piece, self._beyond], axis=-1)
        num_done, begin = 0, self.num_out
        resampled = np.zeros((self._num_channels, 0), np.float32)
        if end > begin:
            self.num_out = end
            resampled = self._filter(held, begin, end)
            num_done = max(0, end // self._step_out * self._step_in - self._reach - self._first)
            self._first += num_done
        self._held = held[:, num_done : held.shape[-1] - self._beyond.shape[-1]].copy()
        return resampled

    def _by_periods(self, held: Samples, begin: int, end: int) -> Samples:
        """Whole periods (`step_in` samples become `step_out`), of which those outside begin..end are dropped."""
        step_in, step_out = self._step_in, self._step_out
        first, last = begin // step_out, (end - 1) // step_out
        matrix = _period_matrix(step_in, step_out)
        channel, sample = held.strides
        # What sliding_window_view gives, without its checks, which take longer than all the rest.
        windows: Samples = np.ndarray(
            (self._num_channels, last - first + 1, len(matrix)),
            np.float32,
            held,
            offset=(first * step_in - self._reach - self._first) * sample,
            strides=(channel, step_in * sample, sample),
        )
        outputs = np.ascontiguousarray(windows) @ matrix
        return outputs.reshape(self._num_channels, -1)[:, begin - first * step_out : end - first * step_out]

    def _by_samples(self, held: Samples, begin: int, end: int) -> Samples:
        indices = np.arange(begin, end)
        starts = indices * self._step_in // self._step_out - self._reach - self._first
        windows = np.lib.stride_tricks.sliding_window_view(held, 2 * self._reach + 2, axis=-1)[:, starts]
        return np.einsum("cmt,mt->cm", windows, _weights(indices, self._step_in, self._step_out))


def is_common_rate(from_rate: int, to_rate: int) -> bool:
    """Whether resampling both ways is the cheap kind: the rates have a useful common divisor."""
    divisor = math.gcd(from_rate, to_rate)
    steps = from_rate // divisor, to_rate // divisor
    return max(_matrix_entries(*steps), _matrix_entries(*steps[::-1])) <= _MAX_MATRIX_ENTRIES


def filter_reach(step_in: int, step_out: int) -> int:
    """How many input samples the filter looks back from the one at or before an output; ahead it is one more."""
    return math.floor(ZERO_CROSSINGS * step_in / (min(step_in, step_out) * ROLLOFF))


def _matrix_entries(step_in: int, step_out: int) -> int:
    return (step_in + 2 * filter_reach(step_in, step_out) + 1) * step_out


@functools.lru_cache(maxsize=16)
def _period_matrix(step_in: int, step_out: int) -> Samples:
    """(window, step_out): what each input sample around a period weighs in each of its outputs."""
    outputs = np.arange(step_out)
    taps = _weights(outputs, step_in, step_out)
    matrix = np.zeros((step_in + taps.shape[1] - 1, step_out), np.float32)
    rows = (outputs * step_in // step_out)[:, None] + np.arange(taps.shape[1])
    matrix[rows, outputs[:, None]] = taps
    return matrix


def _weights(outputs: npt.NDArray[np.int64], step_in: int, step_out: int) -> Samples:
    """(m, taps): what the input samples around each output weigh in it."""
    reach = filter_reach(step_in, step_out)
    bandwidth = min(step_in, step_out) * ROLLOFF / step_in  # of the input's
    past_sample = (outputs * step_in % step_out / step_out)[:, None]
    time = np.clip((np.arange(-reach, reach + 2) - past_sample) * bandwidth, -ZERO_CROSSINGS, ZERO_CROSSINGS)
    window = np.cos(time * np.pi / ZERO_CROSSINGS / 2) ** 2
    return (np.sinc(time) * window * bandwidth).astype(np.float32)


class SampleQueue:
    """Samples in the order in which they came, (C, n) in any pieces. What has been taken is never written to again."""

    def __init__(self, num_channels: int) -> None:
        self._samples: Samples = np.empty((num_channels, 0), np.float32)
        self._first = self._end = 0  # of those that wait

    def push(self, samples_Cn: Samples) -> None:
        end = self._end + samples_Cn.shape[-1]
        if end > self._samples.shape[-1]:
            waiting = self._samples[:, self._first : self._end]
            self._first, self._end, end = 0, waiting.shape[-1], end - self._first
            self._samples = np.empty((len(waiting), 4 * end), np.float32)
            self._samples[:, : self._end] = waiting
        self._samples[:, self._end : end] = samples_Cn
        self._end = end

    def pop(self, num_samples: int) -> Samples:
        first, self._first = self._first, self._first + num_samples
        assert self._first <= self._end, "more samples are wanted than have come"
        return self._samples[:, first : self._first]
