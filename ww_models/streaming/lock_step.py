"""What every stream does, whatever runs it: checks the chunks that come, and returns the kind that it was fed."""

from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

from ww_models.checks import require
from ww_models.streaming.engine import Samples

MAX_PEAK = 1e6


class LockStep(ABC):
    """Base of one stream, or of `batch` streams in lock-step. feed (batch, n) -> (batch, m); flush -> (batch, rest).

    Takes and returns float32 tensors or arrays, whichever it is fed.
    """

    latency_samples: int

    def __init__(self, batch: int, sample_rate: int) -> None:
        require(batch >= 1, f"batch is {batch}: give the number of streams, at least 1")
        self.batch, self.sample_rate = batch, sample_rate
        self._as_tensor = True

    def reset(self) -> None:
        """Forgets everything: the next chunk starts a new stream."""
        self._is_flushed = False

    def feed(self, chunk: Tensor | Samples) -> Tensor | Samples:
        """(batch, n), any n >= 1, full scale +-1 -> the samples that are finished, (batch, m), m >= 0.

        ValueError for what is no chunk (nothing of it is taken) and after `flush`.
        """
        if self._is_flushed:
            raise ValueError("the stream was flushed, it is at its end: call reset() to start a new one")
        samples = check_samples(chunk, (self.batch,))
        self._as_tensor = isinstance(chunk, Tensor)
        return self._joined(self._feed(samples))

    def flush(self) -> Tensor | Samples:
        """What is left: all that was returned is then as long as all that was fed. Ends the stream."""
        finished = [] if self._is_flushed else self._flush()
        self._is_flushed = True
        return self._joined(finished)

    @abstractmethod
    def _feed(self, samples: Samples) -> list[Samples]:
        """Takes (batch, n); the parts that are finished."""

    @abstractmethod
    def _flush(self) -> list[Samples]:
        """The parts that are left."""

    def _joined(self, parts: list[Samples]) -> Tensor | Samples:
        parts = parts or [np.zeros((self.batch, 0), np.float32)]
        samples = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
        return torch.from_numpy(samples) if self._as_tensor else samples


def check_samples(samples: Tensor | Samples, leading: tuple[int, ...]) -> Samples:
    """`samples` as an array (*leading, n). ValueError unless they are finite float32 samples, n >= 1."""
    # No `require`: its messages would be made for every chunk.
    if not isinstance(samples, Tensor | np.ndarray):
        raise ValueError(
            f"a stream takes float32 samples of shape {_shape(leading)}, got {type(samples).__name__}"
        )
    # Not `in` both: to be told from torch's types, numpy's take longer than all the rest here.
    if samples.dtype != (torch.float32 if isinstance(samples, Tensor) else np.float32):
        raise ValueError(
            f"a stream takes float32 samples, full scale +-1, got {samples.dtype}: convert them first "
            "(16-bit integers are divided by 32768)"
        )
    if samples.ndim != len(leading) + 1 or tuple(samples.shape[:-1]) != leading:
        raise ValueError(
            f"a stream takes mono samples of shape {_shape(leading)}, got {tuple(samples.shape)}: "
            "mix several channels down, or give each a stream of its own"
        )
    if samples.shape[-1] == 0:
        raise ValueError("a stream takes at least one sample, got an empty chunk")
    array = samples.detach().cpu().numpy() if isinstance(samples, Tensor) else np.asarray(samples)
    # One comparison for both: NaN is not below anything. Squares of more would stay in the running level.
    if not np.abs(array).max() <= MAX_PEAK:
        num_bad = int(np.count_nonzero(~(np.abs(array) <= MAX_PEAK)))
        raise ValueError(
            f"a stream takes finite samples of full scale +-1, got {num_bad} that are NaN, "
            f"infinite or beyond {MAX_PEAK:g}: nothing of this chunk was taken, scale or clean it first"
        )
    return array


def _shape(leading: tuple[int, ...]) -> str:
    return f"({', '.join(str(size) for size in (*leading, 'samples'))})"
