"""One thread that advances all live streams of a process together, so that each step reads the weights once for all.

When the first stream has a whole hop of sound, the thread waits for the others that are alive, half a hop at most, and
then steps all that are ready. A stream with more than that waiting takes part in every step, with one hop: it catches
up as fast as the machine allows, and never takes more than its share. Each model has a batch of its own.

What a step made goes to the event loop in one call for all streams. What fails in a step ends the streams of that
model, not the thread.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import math
import threading
import time
import weakref
from collections.abc import Callable

import numpy as np

from cluster.serving.models import ServedModel
from cluster.sound.resampling import Samples
from ww_models import StreamBatch
from ww_models.streaming.onnx_engine import OnnxEngine

logger = logging.getLogger(__name__)

# A stream that was not stepped for so many hops is not waited for: it is muted, or its network is stuck.
_ALIVE_HOPS = 4


OnClean = Callable[[Samples, float], None]  # (C, m), compute_s
OnError = Callable[[Exception], None]  # the last call
OnStep = Callable[[ServedModel, int, float, float], None]  # the model, channels, waited_s, worked_s


@dataclasses.dataclass(eq=False)
class LiveStream:
    """The channels of one call, each a row of its model's batch; made by `Stepper.open`, for the event loop.

    on_clean and on_error are called in the event loop.
    """

    stepper: Stepper
    model: ServedModel  # which lives, and its batch with it, as long as its streams
    batch: _Batch
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
            self.stepper.send(self, samples_Cn)

    def close(self) -> None:
        """Ends the stream at once; what it has not returned is lost."""
        self.stepper.send(self, None)


class Stepper:
    """Steps the streams of one process, all of one event loop.

    on_step: called there after each step. waited_s: from when it was due, until the thread began with it, and from its
        end until the loop took what it had made; worked_s: for the rest, until all of that was handed on.
    """

    def __init__(self) -> None:
        self.on_step: OnStep = lambda model, num_channels, waited_s, worked_s: None
        self._lock = threading.Condition()
        # What the loop has for the thread, in order; None ends a stream, which does not wait for the next step.
        self._inbox: list[tuple[LiveStream, Samples | None]] = []
        self._has_ended = False
        # When the last step was over, and since when the one is due that is being done.
        self._free_since, self._due_since = -math.inf, math.inf
        # A batch goes when its model does, which is when nobody serves it and no stream is open any more.
        self._batches: weakref.WeakKeyDictionary[ServedModel, _Batch] = weakref.WeakKeyDictionary()
        self._is_closed = False
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(
        self, model: ServedModel, num_channels: int, max_streams: int, on_clean: OnClean, on_error: OnError
    ) -> LiveStream:
        """A new stream of a model that can run live.

        max_streams: channels that all streams of this model may have together, as the first call says; a stream that
            finds them taken gets an `on_error`.
        """
        assert model.engine is not None, "a model that needs the whole clip cannot run live"
        self._loop = asyncio.get_running_loop()
        with self._lock:
            if model not in self._batches:
                self._batches[model] = _Batch(model.engine, max_streams)
            batch = self._batches[model]
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="stepper", daemon=True)
            self._thread.start()
        return LiveStream(self, model, batch, num_channels, on_clean, on_error, batch.lead_samples)

    def close(self) -> None:
        """Ends the thread; streams that are open get nothing more."""
        with self._lock:
            self._is_closed = True
            self._lock.notify()
        if self._thread is not None:
            self._thread.join()

    def overdue_s(self) -> float:
        """How long ago the step should have begun that is being done, or waits; 0 where there is none."""
        with self._lock:
            waiting_since = min((batch.due_since() for batch in self._batches.values()), default=math.inf)
            return max(0.0, time.monotonic() - min(self._due_since, waiting_since))

    def send(self, stream: LiveStream, samples_Cn: Samples | None) -> None:
        """Puts samples, or None for the end, into the inbox; wakes the thread if a step became due or nearer."""
        with self._lock:
            if not stream.is_open:
                return
            self._inbox.append((stream, samples_Cn))
            if samples_Cn is None:
                stream.batch.note_end(stream)
                self._has_ended = True
                self._lock.notify()
            elif stream.batch.note_samples(stream, samples_Cn.shape[-1]):
                self._lock.notify()

    def _run(self) -> None:
        while self._turn():
            pass

    def _turn(self) -> bool:
        """Waits for something to do and does it; False once the stepper is closed."""
        with self._lock:
            # Nothing is held here while it waits that would keep a batch alive whose model is gone.
            while (wait_s := self._seconds_to_wait()) > 0:
                self._lock.wait(None if wait_s == math.inf else wait_s)
            if self._is_closed:
                return False
            inbox, self._inbox, self._has_ended = self._inbox, [], False
            batch = min(self._batches.values(), key=_Batch.due, default=None)
            is_due = batch is not None and batch.due() <= time.monotonic()
            if batch is not None and is_due:
                self._due_since = max(self._free_since, batch.due_since())
        for stream, samples_Cn in inbox:
            self._take(stream, samples_Cn)
        if batch is not None and is_due:
            self._step(batch)
        return True

    def _seconds_to_wait(self) -> float:
        if self._is_closed or self._has_ended:
            return 0
        return min((batch.due() for batch in self._batches.values()), default=math.inf) - time.monotonic()

    def _take(self, stream: LiveStream, samples_Cn: Samples | None) -> None:
        try:
            stream.batch.take(stream, samples_Cn)
        except Exception as error:
            self._fail([stream], error)
            stream.batch.take(stream, None)

    def _step(self, batch: _Batch) -> None:
        started = time.monotonic()
        try:
            finished = batch.advance()
        except Exception as error:
            self._fail(batch.clear(), error)
            finished = []
        ended = time.monotonic()
        with self._lock:
            batch.note_step([stream for stream, _ in finished], started)
            due, self._due_since, self._free_since = self._due_since, math.inf, ended
        if finished:
            self._call(self._deliver, finished, max(0.0, started - due), ended - started, ended)

    def _fail(self, streams: list[LiveStream], error: Exception) -> None:
        logger.error("live streams ended by an error", exc_info=error)
        with self._lock:
            for stream in streams:
                stream.batch.note_end(stream)
        self._call(_report, streams, error)

    def _deliver(
        self, finished: list[tuple[LiveStream, Samples]], waited_s: float, compute_s: float, ended: float
    ) -> None:
        """In the event loop: hands each stream what it finished, and its share of the time that this took."""
        began = time.monotonic()
        num_channels = sum(stream.num_channels for stream, _ in finished)
        for stream, samples_Cm in finished:
            if not stream.is_open:
                continue
            try:
                stream.on_clean(samples_Cm, compute_s / num_channels * stream.num_channels)
            except Exception as error:  # of one call; the others' go on
                logger.exception("a live call failed")
                stream.close()
                stream.on_error(error)
        worked_s = compute_s + time.monotonic() - began
        self.on_step(finished[0][0].model, num_channels, waited_s + began - ended, worked_s)

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            logger.debug("the event loop is closed: the process ends")


class _Batch:
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


def _report(streams: list[LiveStream], error: Exception) -> None:
    for stream in streams:
        stream.on_error(error)
