"""The streams of one model, each some rows of a batch that is stepped as one."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable

import numpy as np

from cluster.serving.models import ServedModel
from cluster.sound.resampling import Samples
from ww_models import StreamBatch
from ww_models.streaming.onnx_engine import OnnxEngine

# A stream that was not stepped for so many hops is not waited for: it is muted, or its network is stuck.
_ALIVE_HOPS = 4

OnClean = Callable[[Samples, float], None]  # (C, m), compute_s
OnError = Callable[[Exception], None]  # the last call


@dataclasses.dataclass(eq=False)
class LiveStream:
    """The channels of one call, each a row of its model's batch; made by `Stepper.open`, for the event loop.

    on_clean and on_error are called in the event loop.
    """

    send: Callable[[LiveStream, Samples | None], None]  # to the stepper; None is the end
    model: ServedModel  # which lives, and its batch with it, as long as its streams
    batch: Batch
    num_channels: int
    on_clean: OnClean
    on_error: OnError
    # Under the stepper's lock. num_waiting: samples that no step has taken, those in the inbox included.
    num_waiting: int
    is_open: bool = True
    # Of the thread:
    rows: list[int] = dataclasses.field(default_factory=list)
    stepped_at: float = -math.inf

    @property
    def is_ready(self) -> bool:
        return self.is_open and self.num_waiting >= self.batch.hop_samples

    def feed(self, samples_Cn: Samples) -> None:
        """(C, n) at the model's rate, full scale +-1."""
        if samples_Cn.shape[-1]:
            self.send(self, samples_Cn)

    def close(self) -> None:
        """Ends the stream at once; what it has not returned is lost."""
        self.send(self, None)


class Batch:
    """The streams of one model. `note_*` and `due` are called under the stepper's lock, the rest by its thread."""

    def __init__(self, engine: OnnxEngine, max_streams: int) -> None:
        self.hop_samples, self.lead_samples = engine.hop_samples, engine.lead_samples
        assert self.lead_samples < self.hop_samples, "a stream would be ready before its first sample"
        self._engine, self._max_streams = engine, max_streams
        self._hop_s = engine.hop_samples / engine.sample_rate
        # num_alive: streams that were stepped a moment ago. ready_since: when the first of those ready became so.
        self._num_ready = self._num_alive = 0
        # complete_since: when all became ready that are alive.
        self._ready_since = self._complete_since = math.inf
        self._is_behind = False
        self._streams: StreamBatch | None = None  # made by the thread: it takes milliseconds
        self._members: dict[int, LiveStream] = {}  # by row

    def due(self) -> float:
        """When to step: at once if all are ready that are alive, else half a hop after the first was."""
        if not self._num_ready:
            return math.inf
        return self._ready_since + (0 if self._is_complete else self._hop_s / 2)

    def due_since(self) -> float:
        """Since when a step is due, which need not be now; never, if no stream is ready."""
        if not self._num_ready:
            return math.inf
        return min(self._complete_since, self._ready_since + self._hop_s / 2)

    def note_samples(self, stream: LiveStream, num_samples: int) -> bool:
        """Whether that makes a step due, or due earlier than the thread knows."""
        was_ready = stream.is_ready
        stream.num_waiting += num_samples
        if was_ready or not stream.is_ready:
            return False
        self._num_ready += 1
        if self._num_ready == 1:
            self._ready_since = time.monotonic()
        if self._num_ready >= self._num_alive:
            self._complete_since = min(self._complete_since, time.monotonic())
            return True
        return self._num_ready == 1

    def note_end(self, stream: LiveStream) -> None:
        self._num_ready -= stream.is_ready
        stream.is_open = False

    def note_step(self, stepped: list[LiveStream], now: float) -> None:
        """now: when the step began; who became ready since then waits for the next one."""
        for stream in stepped:
            was_ready = stream.is_ready
            stream.num_waiting -= self.hop_samples
            self._num_ready -= was_ready and not stream.is_ready
            stream.stepped_at = now
        alive_since = now - _ALIVE_HOPS * self._hop_s
        self._num_alive = sum(stream.stepped_at > alive_since for stream in self._open_streams())
        self._is_behind = any(stream.is_ready for stream in stepped)
        self._ready_since = now
        self._complete_since = now if self._is_complete else math.inf

    def take(self, stream: LiveStream, samples_Cn: Samples | None) -> None:
        """Adds samples to a stream, which joins with its first; None removes it. ValueError when all is full."""
        if self._streams is None:
            self._streams = StreamBatch(self._engine, self._max_streams)
        streams = self._streams
        if samples_Cn is None or not stream.is_open:
            for row in stream.rows:
                streams.leave(row)
                del self._members[row]
            stream.rows = []
            return
        while len(stream.rows) < stream.num_channels:
            row = streams.join()
            stream.rows.append(row)
            self._members[row] = stream
        for row, samples in zip(stream.rows, samples_Cn, strict=True):
            streams.feed(row, samples)

    def advance(self) -> list[tuple[LiveStream, Samples]]:
        """One hop of all streams that are ready: what each finished, (C, m)."""
        finished = {} if self._streams is None else self._streams.advance()
        result = []
        for row, samples in finished.items():
            stream = self._members[row]
            if stream.num_channels == 1:
                result.append((stream, samples[None]))
            elif row == stream.rows[0]:  # channels are fed alike, so they are ready together
                result.append((stream, np.stack([finished[each] for each in stream.rows])))
        return result

    def clear(self) -> list[LiveStream]:
        """Forgets all streams, after an error that has left their states unknown; returns them."""
        streams = self._open_streams()
        for stream in streams:
            stream.rows = []
        self._streams = None
        self._members.clear()
        return streams

    @property
    def _is_complete(self) -> bool:
        return self._is_behind or self._num_ready >= self._num_alive

    def _open_streams(self) -> list[LiveStream]:
        return list(dict.fromkeys(self._members.values()))
