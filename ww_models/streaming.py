"""Denoising while the sound comes in: one stream (`Streamer`), or many that share each step (`StreamBatch`).

    streamer = model.streamer()                     streams = StreamBatch(model, max_streams=16)
    for chunk in chunks:        # (1, n), any n      caller = streams.join()
        play(streamer.feed(chunk))                  streams.feed(caller, samples)   # whenever some arrive
    play(streamer.flush())                          for who, clean in streams.advance().items(): ...

The k-th sample that comes out is sample k of the output over the whole clip. After n samples in, at least
n - latency_samples are out, and `flush` returns the rest. Memory does not grow with the length of a stream.

Both run on an engine: torch for a model, ONNX Runtime for what `ww_models.runtime` makes of it.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .step_engine import Lanes, Samples, StepEngine, TorchEngine

if TYPE_CHECKING:
    from .denoiser import Denoiser


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
        self._pending = np.zeros((self.batch, self.engine.lead_samples), np.float32)
        self._num_left = 0
        self._to_drop = self.engine.lag_samples
        self._is_flushed = False

    def feed(self, chunk: Tensor | Samples) -> Tensor | Samples:
        """(batch, n), any n >= 1, full scale +-1 -> the samples that are finished, (batch, m), m >= 0."""
        if self._is_flushed:
            raise ValueError("the stream was flushed, it is at its end: call reset() to start a new one")
        samples = check_samples(chunk, (self.batch,))
        self._as_tensor = isinstance(chunk, Tensor)
        self._num_left += samples.shape[-1]
        return self._result(self._advance(samples))

    def flush(self) -> Tensor | Samples:
        """What is left: all that was returned is then as long as all that was fed. Ends the stream."""
        self._is_flushed = True
        hop = self.engine.hop_samples
        num_steps = -(-(self._num_left + self._to_drop) // hop) if self._num_left else 0
        missing = max(0, num_steps * hop - self._pending.shape[-1])
        return self._result(self._advance(np.zeros((self.batch, missing), np.float32)))

    def _advance(self, samples: Samples) -> Samples:
        pending = np.concatenate([self._pending, samples], axis=-1)
        hop = self.engine.hop_samples
        num_steps = pending.shape[-1] // hop
        out = np.empty((self.batch, num_steps * hop), np.float32)
        for step in range(num_steps):
            window = slice(step * hop, (step + 1) * hop)
            self._lanes.chunk[:] = pending[:, window]
            out[:, window] = self._lanes.step(self._rows)
        self._pending = pending[:, num_steps * hop :].copy()
        dropped = min(self._to_drop, out.shape[-1])
        self._to_drop -= dropped
        finished = out[:, dropped : dropped + self._num_left]
        self._num_left -= finished.shape[-1]
        return finished

    def _result(self, samples: Samples) -> Tensor | Samples:
        return torch.from_numpy(samples) if self._as_tensor else samples


class _Caller:
    """One stream of a `StreamBatch`: its row, the samples that wait, and how many outputs are still dropped."""

    def __init__(self, row: int, engine: StepEngine) -> None:
        self.row = row
        self.pending = np.zeros(engine.lead_samples, np.float32)
        self.to_drop = engine.lag_samples
        self.num_left = 0

    def take(self, num_samples: int) -> Samples:
        taken, self.pending = self.pending[:num_samples], self.pending[num_samples:]
        return taken

    def finish(self, output: Samples) -> Samples:
        """What a step gave, without what comes before sample 0 or after the last one."""
        dropped = min(self.to_drop, len(output))
        self.to_drop -= dropped
        finished = output[dropped : dropped + self.num_left].copy()
        self.num_left -= len(finished)
        return finished


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
        self._callers: dict[int, _Caller] = {}
        self._num_joined = 0

    def __len__(self) -> int:
        return len(self._callers)

    def join(self) -> int:
        """A new stream's number, which no other stream of this batch ever gets. ValueError when it is full."""
        if len(self._callers) == self.max_streams:
            raise ValueError(
                f"all {self.max_streams} streams are taken: let one leave first, or make max_streams larger"
            )
        stream = self._num_joined
        self._num_joined += 1
        self._callers[stream] = _Caller(self._lanes.add(), self.engine)
        return stream

    def leave(self, stream: int) -> None:
        """Ends a stream at once; what it has not returned is lost (`flush` returns it)."""
        row = self._caller(stream).row
        moved = self._lanes.remove(row)
        del self._callers[stream]
        for caller in self._callers.values():
            if caller.row == moved:
                caller.row = row

    def feed(self, stream: int, samples: Tensor | Samples) -> None:
        """Queues (n,) float32 samples of one stream, any n >= 1; `advance` works on them."""
        caller = self._caller(stream)
        checked = check_samples(samples, ())
        caller.pending = np.concatenate([caller.pending, checked])
        caller.num_left += len(checked)

    def advance(self) -> dict[int, Samples]:
        """One step of all streams that have a hop waiting: what each finished, (m,). {} if none has."""
        hop = self.engine.hop_samples
        return self._step([who for who, caller in self._callers.items() if len(caller.pending) >= hop])

    def flush(self, stream: int) -> Samples:
        """What is left of a stream, (m,); the stream ends."""
        caller = self._caller(stream)
        finished = []
        while caller.num_left:
            missing = max(0, self.engine.hop_samples - len(caller.pending))
            caller.pending = np.concatenate([caller.pending, np.zeros(missing, np.float32)])
            finished.append(self._step([stream])[stream])
        self.leave(stream)
        return np.concatenate(finished) if finished else np.zeros(0, np.float32)

    def _step(self, streams: list[int]) -> dict[int, Samples]:
        if not streams:
            return {}
        ready = sorted(streams, key=lambda stream: self._callers[stream].row)
        for index, stream in enumerate(ready):
            self._lanes.chunk[index] = self._callers[stream].take(self.engine.hop_samples)
        output = self._lanes.step([self._callers[stream].row for stream in ready])
        return {stream: self._callers[stream].finish(output[index]) for index, stream in enumerate(ready)}

    def _caller(self, stream: int) -> _Caller:
        if stream not in self._callers:
            raise ValueError(f"stream {stream} is not in the batch: it never joined, or it has left")
        return self._callers[stream]


def check_samples(samples: Tensor | Samples, leading: tuple[int, ...]) -> Samples:
    """`samples` as an array (*leading, n). ValueError unless they are finite float32 samples, n >= 1."""
    wanted = f"({', '.join(str(size) for size in (*leading, 'samples'))})"
    if not isinstance(samples, Tensor | np.ndarray):
        raise ValueError(f"a stream takes float32 samples of shape {wanted}, got {type(samples).__name__}")
    if samples.dtype not in (torch.float32, np.dtype(np.float32)):
        raise ValueError(
            f"a stream takes float32 samples, full scale +-1, got {samples.dtype}: convert them first "
            "(16-bit integers are divided by 32768)"
        )
    if samples.ndim != len(leading) + 1 or tuple(samples.shape[:-1]) != leading:
        raise ValueError(
            f"a stream takes mono samples of shape {wanted}, got {tuple(samples.shape)}: "
            "mix several channels down, or give each a stream of its own"
        )
    if samples.shape[-1] == 0:
        raise ValueError("a stream takes at least one sample, got an empty chunk")
    array = samples.detach().cpu().numpy() if isinstance(samples, Tensor) else samples
    if not np.isfinite(array).all():
        raise ValueError(
            f"a stream takes finite samples, got {int(np.count_nonzero(~np.isfinite(array)))} NaN or infinite ones: "
            "nothing of this chunk was taken"
        )
    return array
