"""Denoising while the sound comes in: one stream (`stream`), or many that share each step (`StreamBatch`).

    streamer = stream(model)                        streams = StreamBatch(model, max_streams=16)
    for chunk in chunks:        # (1, n), any n      caller = streams.join()
        play(streamer.feed(chunk))                  streams.feed(caller, samples)   # whenever some arrive
    play(streamer.flush())                          while finished := streams.advance():
                                                        for who, clean in finished.items(): ...

The k-th sample that comes out is sample k of the output over the whole clip. After n samples in, at least
n - latency_samples are out (of a batch: once `advance` has returned {}), and `flush` returns the rest. Memory does not
grow with the length of a stream. A streamer or a batch is for one thread at a time; several may share an engine: torch
for a model, or what `ww_models.streaming.onnx_engine` makes of it.
"""

from collections import deque

import numpy as np
from torch import Tensor

from ww_models.checks import require
from ww_models.denoiser import Denoiser
from ww_models.streaming.engine import Lanes, Samples, StepEngine, engine_of
from ww_models.streaming.lock_step import LockStep, check_samples
from ww_models.streaming.overlap import OverlapStreamer


class Streamer(LockStep):
    """A stream, or `batch` streams in lock-step, of a model that runs in steps, or of an engine."""

    def __init__(self, source: Denoiser | StepEngine, batch: int = 1) -> None:
        self.engine = engine_of(source)
        super().__init__(batch, self.engine.sample_rate)
        self.latency_samples = self.engine.latency_samples
        self._lanes = Lanes(self.engine, batch)
        self._rows = [self._lanes.add() for _ in range(batch)]
        self.reset()

    def reset(self) -> None:
        super().reset()
        for row in self._rows:
            self._lanes.reset(row)
        self._framing = _Framing(self.engine, (self.batch,))

    def _feed(self, samples: Samples) -> list[Samples]:
        self._framing.push(samples)
        return self._advance()

    def _flush(self) -> list[Samples]:
        self._framing.push_silence()
        return self._advance()

    def _advance(self) -> list[Samples]:
        finished = []
        while self._framing.is_ready:
            self._lanes.chunk[:] = self._framing.take()
            finished.append(self._framing.finish(self._lanes.step(self._rows)))
        return finished


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

    def __init__(self, source: Denoiser | StepEngine, max_streams: int) -> None:
        require(max_streams >= 1, f"max_streams is {max_streams}: give at least 1")
        self.engine, self.max_streams = engine_of(source), max_streams
        self.sample_rate, self.latency_samples = self.engine.sample_rate, self.engine.latency_samples
        self._lanes = Lanes(self.engine, max_streams)
        self._rows: dict[int, int] = {}
        self._framings: dict[int, _Framing] = {}
        self._num_joined = 0

    def __len__(self) -> int:
        return len(self._rows)

    def join(self) -> int:
        """A new stream's number, which no other stream of this batch ever gets. ValueError when it is full."""
        hint = "let one leave first, or make max_streams larger"
        require(len(self) < self.max_streams, f"all {self.max_streams} streams are taken: {hint}")
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
        require(stream in self._rows, f"stream {stream} is not in the batch: it never joined, or it has left")


def stream(source: Denoiser | StepEngine, batch: int = 1) -> Streamer | OverlapStreamer:
    """Starts a stream, or `batch` of them in lock-step. The weights of a model are those of now.

    A model that needs the whole clip, or looks both ways, is run in windows: see `ww_models.streaming.overlap`.
    """
    if isinstance(source, Denoiser) and source.latency_samples is None:
        return OverlapStreamer(source, batch)
    return Streamer(source, batch)
