"""One thread that advances all live streams of a process together, so that each step reads the weights once for all.

When the first stream has a whole hop of sound, the thread waits for the others that are alive, half a hop at most, and
then steps all that are ready. A stream with more than that waiting takes part in every step, with one hop: it catches
up as fast as the machine allows, and never takes more than its share. Each model has a batch of its own.

What a step made goes to the event loop in one call for all streams. What fails in a step ends the streams of that
model, not the thread.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
import weakref
from collections.abc import Callable

from cluster.serving.live.batch import Batch, LiveStream, OnClean, OnError
from cluster.serving.models import ServedModel
from cluster.sound.resampling import Samples

logger = logging.getLogger(__name__)

OnStep = Callable[[ServedModel, int, float, float], None]  # the model, channels, waited_s, worked_s


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
        self._batches: weakref.WeakKeyDictionary[ServedModel, Batch] = weakref.WeakKeyDictionary()
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
                self._batches[model] = Batch(model.engine, max_streams)
            batch = self._batches[model]
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="stepper", daemon=True)
            self._thread.start()
        return LiveStream(self.send, model, batch, num_channels, on_clean, on_error, batch.lead_samples)

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
            batch = min(self._batches.values(), key=Batch.due, default=None)
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

    def _step(self, batch: Batch) -> None:
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


def _report(streams: list[LiveStream], error: Exception) -> None:
    for stream in streams:
        stream.on_error(error)
