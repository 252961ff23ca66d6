"""Denoising while the sound comes in: one stream (`Streamer`), or many that share each step (`StreamBatch`).

    streamer = model.streamer()                     streams = StreamBatch(model, max_streams=16)
    for chunk in chunks:        # (1, n), any n      caller = streams.join()
        play(streamer.feed(chunk))                  streams.feed(caller, samples)   # whenever some arrive
    play(streamer.flush())                          while finished := streams.advance():
                                                        for who, clean in finished.items(): ...

The k-th sample that comes out is sample k of the output over the whole clip. After n samples in, at least
n - latency_samples are out (of a batch: once `advance` has returned {}), and `flush` returns the rest. Memory
does not grow with the length of a stream. A streamer or a batch is for one thread at a time; several may share an
engine.

Both run on an engine: torch for a model, ONNX Runtime for what `ww_models.streaming.onnx_engine` makes of it.
"""

from collections import deque
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ww_models.streaming.engine import Lanes, Samples, StepEngine, TorchEngine

if TYPE_CHECKING:
    from ww_models.denoiser import Denoiser

MAX_PEAK = 1e6


class Streamer:
    """One stream, or `batch` streams in lock-step. feed (batch, n) -> (batch, m); flush -> (batch, rest).

    Takes and returns float32 tensors or arrays, whichever it is fed.
    """

    def __init__(self, engine: StepEngine, batch: int = 1) -> None:
        if batch < 1:
            raise ValueError(f"batch is {batch}: give the number of streams, at least 1")
        self.engine, self.batch = engine, batch
        self.sample_rate, self.latency_samples = engine.sample_rate, engine.latency_samples
        self._lanes = Lanes(engine, batch)
        self._rows = [self._lanes.add() for _ in range(batch)]
        self._as_tensor = True
        self.reset()

    def reset(self) -> None:
        """Forgets everything: the next chunk starts a new stream."""
        for row in self._rows:
            self._lanes.reset(row)
        self._framing = _Framing(self.engine, (self.batch,))
        self._is_flushed = False

    def feed(self, chunk: Tensor | Samples) -> Tensor | Samples:
        """(batch, n), any n >= 1, full scale +-1 -> the samples that are finished, (batch, m), m >= 0."""
        if self._is_flushed:
            raise ValueError("the stream was flushed, it is at its end: call reset() to start a new one")
        self._framing.push(check_samples(chunk, (self.batch,)))
        self._as_tensor = isinstance(chunk, Tensor)
        return self._advance()

    def flush(self) -> Tensor | Samples:
        """What is left: all that was returned is then as long as all that was fed. Ends the stream."""
        self._is_flushed = True
        self._framing.push_silence()
        return self._advance()

    def _advance(self) -> Tensor | Samples:
        finished = []
        while self._framing.is_ready:
            self._lanes.chunk[:] = self._framing.take()
            finished.append(self._framing.finish(self._lanes.step(self._rows)))
        finished = finished or [np.zeros((self.batch, 0), np.float32)]
        samples = finished[0] if len(finished) == 1 else np.concatenate(finished, axis=-1)
        return torch.from_numpy(samples) if self._as_tensor else samples


class _Framing:
    """Cuts what comes into hops, and drops what a stream gives before its first sample and after its last."""

    def __init__(self, engine: StepEngine, leading: tuple[int, ...] = ()) -> None:
        """leading: the dimensions before time."""
        self._hop, self._leading = engine.hop_samples, leading
        self._waiting = deque([np.zeros((*leading, engine.lead_samples), np.float32)])
        self._num_waiting = engine.lead_samples
        self._to_drop = engine.lag_samples
        self.num_left = 0

    @property
    def is_ready(self) -> bool:
        """Whether there is a whole hop, of which something will be wanted."""
        return self._num_waiting >= self._hop and self.num_left > 0

    def push(self, samples: Samples) -> None:
        """(..., n); a copy is kept."""
        self._append(samples.copy())
        self.num_left += samples.shape[-1]

    def push_silence(self) -> None:
        """As much as it takes to get everything out."""
        missing = -(-(self.num_left + self._to_drop) // self._hop) * self._hop - self._num_waiting
        self._append(np.zeros((*self._leading, max(0, missing)), np.float32))

    def take(self) -> Samples:
        """The next hop, (..., hop)."""
        parts, missing = [], self._hop
        while missing:
            first = self._waiting.popleft()
            if first.shape[-1] > missing:
                rest = first[..., missing:]
                # What is left over of a long chunk must not keep all of it in memory.
                self._waiting.appendleft(rest.copy() if rest.shape[-1] < self._hop else rest)
                first = first[..., :missing]
            parts.append(first)
            missing -= first.shape[-1]
        self._num_waiting -= self._hop
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)

    def finish(self, output: Samples) -> Samples:
        """What is wanted of the output of a step, (..., hop) -> (..., m)."""
        dropped = min(self._to_drop, self._hop)
        self._to_drop -= dropped
        finished = output[..., dropped : dropped + self.num_left].copy()
        self.num_left -= finished.shape[-1]
        return finished

    def _append(self, samples: Samples) -> None:
        self._waiting.append(samples)
        self._num_waiting += samples.shape[-1]


class StreamBatch:
    """Up to `max_streams` independent streams; those that have a whole hop waiting advance in one batched step.

    A stream's output does not depend on the others, on when they come, go or fall behind.
    """

    def __init__(self, model: "Denoiser | StepEngine", max_streams: int) -> None:
        if max_streams < 1:
            raise ValueError(f"max_streams is {max_streams}: give at least 1")
        self.engine: StepEngine = TorchEngine(model) if isinstance(model, torch.nn.Module) else model
        self.max_streams = max_streams
        self.sample_rate, self.latency_samples = self.engine.sample_rate, self.engine.latency_samples
        self._lanes = Lanes(self.engine, max_streams)
        self._rows: dict[int, int] = {}
        self._framings: dict[int, _Framing] = {}
        self._num_joined = 0

    def __len__(self) -> int:
        return len(self._rows)

    def join(self) -> int:
        """A new stream's number, which no other stream of this batch ever gets. ValueError when it is full."""
        if len(self) == self.max_streams:
            raise ValueError(
                f"all {self.max_streams} streams are taken: let one leave first, or make max_streams larger"
            )
        stream = self._num_joined
        self._num_joined += 1
        self._rows[stream], self._framings[stream] = self._lanes.add(), _Framing(self.engine)
        return stream

    def leave(self, stream: int) -> None:
        """Ends a stream at once; what it has not returned is lost (`flush` returns it)."""
        self._check(stream)
        row = self._rows.pop(stream)
        del self._framings[stream]
        moved = self._lanes.remove(row)
        self._rows = {other: row if place == moved else place for other, place in self._rows.items()}

    def feed(self, stream: int, samples: Tensor | Samples) -> None:
        """Queues (n,) float32 samples of one stream, any n >= 1; `advance` works on them."""
        self._check(stream)
        self._framings[stream].push(check_samples(samples, ()))

    def advance(self) -> dict[int, Samples]:
        """One step of all streams that have a hop waiting: what each finished, (m,). {} if none has."""
        return self._step([stream for stream, framing in self._framings.items() if framing.is_ready])

    def flush(self, stream: int) -> Samples:
        """What is left of a stream, (m,); the stream ends."""
        self._check(stream)
        framing = self._framings[stream]
        framing.push_silence()
        finished = [np.zeros(0, np.float32)]
        while framing.is_ready:
            finished.append(self._step([stream])[stream])
        self.leave(stream)
        return np.concatenate(finished)

    def _step(self, streams: list[int]) -> dict[int, Samples]:
        if not streams:
            return {}
        streams = sorted(streams, key=self._rows.__getitem__)
        for index, stream in enumerate(streams):
            self._lanes.chunk[index] = self._framings[stream].take()
        output = self._lanes.step([self._rows[stream] for stream in streams])
        return {stream: self._framings[stream].finish(output[index]) for index, stream in enumerate(streams)}

    def _check(self, stream: int) -> None:
        if stream not in self._rows:
            raise ValueError(f"stream {stream} is not in the batch: it never joined, or it has left")


def check_samples(samples: Tensor | Samples, leading: tuple[int, ...]) -> Samples:
    """`samples` as an array (*leading, n). ValueError unless they are finite float32 samples, n >= 1."""
    if not isinstance(samples, Tensor | np.ndarray):
        raise ValueError(
            f"a stream takes float32 samples of shape {_shape(leading)}, got {type(samples).__name__}"
        )
    if samples.dtype not in (torch.float32, np.dtype(np.float32)):
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
