"""One live call: a WebSocket on one side, its sound and its rows in the stepper on the other.

One task reads messages and sees at once when the caller has gone; sound that the model can be given goes there, all
else into the inbox, from which one task takes it. One sends what waits in the outbox, one looks after the time. What
the model has finished comes in between, called by the stepper. No sound is dropped and nothing grows: a caller who is
far ahead of the model is held back or, where the server takes what comes whether it is read or not, sent away; too much
that waits for the caller ends the call as well.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from typing import Any, TypeGuard

from starlette.websockets import WebSocket

from cluster.monitoring.metrics import LIVE_ERRORS, LIVE_OVERRUNS
from cluster.serving.config import LiveConfig
from cluster.serving.errors import ApiError, our_fault
from cluster.serving.live.admission import Place
from cluster.serving.live.batch import LiveStream
from cluster.serving.live.protocol import CallOptions, Close, ProtocolError, as_protocol_error, parse_text
from cluster.serving.live.queues import Inbox, Outbox
from cluster.serving.live.sound import CallSound
from cluster.serving.live.stats import LiveStats
from cluster.serving.live.stepper import Stepper
from cluster.serving.models import ServedModel
from cluster.sound.resampling import Samples

logger = logging.getLogger(__name__)

# A long message is worked on in pieces, so that it does not hold up the other calls.
_PIECE_S = 0.1


class LiveCall:
    """One accepted WebSocket; `run` returns when it is over. All of it happens in the event loop.

    model: the one that the call began with, whatever is served by its end.
    max_streams: see `Stepper.open`. holds_callers: see `LiveCalls`. place: what the call begins at its first sound.
    """

    def __init__(
        self,
        websocket: WebSocket,
        model: ServedModel,
        options: CallOptions,
        config: LiveConfig,
        stepper: Stepper,
        max_streams: int,
        holds_callers: bool,
        place: Place,
    ) -> None:
        assert model.engine is not None, "a model that needs the whole clip cannot run live"
        self.id = uuid.uuid4().hex
        self.model, self.options = model, options
        self._websocket, self._config, self._stepper = websocket, config, stepper
        self._max_streams, self._holds_callers, self._place = max_streams, holds_callers, place
        self._sound = CallSound(options, model.sample_rate, model.engine.latency_samples)
        self._stats = LiveStats(self._sound, config.overrun_ms / 1000, self._unfed_s)
        bytes_per_s = options.bytes_per_sample * options.sample_rate
        self._hop_samples = model.engine.hop_samples
        self._piece_bytes = max(1, round(_PIECE_S * options.sample_rate)) * options.bytes_per_sample
        self._max_behind = config.max_backlog_s * model.sample_rate
        self._inbox = Inbox(max(config.max_waiting_bytes, round(config.max_backlog_s * bytes_per_s)))
        self._outbox = Outbox(websocket, max_bytes=config.max_unsent_bytes)
        self._stream: LiveStream | None = None  # the first sound of a stream opens it
        self._has_room, self._is_flushed = asyncio.Event(), asyncio.Event()
        self._active_at = time.monotonic()
        self._is_ended = False

    async def run(self) -> None:
        self.send(self._created())
        others = [asyncio.create_task(each) for each in (self._read(), self._work(), self._watch())]
        try:
            await self._outbox.run()
        finally:
            self._stop()
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            self._stats.publish(self.model.id)

    def send(self, message: dict[str, Any]) -> None:
        """Sends a JSON message after all that waits."""
        self._post(json.dumps(message))

    def end(self, error: ProtocolError, *, now: bool = False) -> None:
        """Tells the caller what is wrong, and closes."""
        if not self._is_ended:
            LIVE_ERRORS.add(code=error.code)
        self.close(error.close, error_message(error, self.id), now=now)

    def close(self, code: Close, last_message: str = "", *, now: bool = False) -> None:
        """Closes with `code` after all that waits, or `now` instead of it."""
        if not self._is_ended:
            self._stop()
            self._outbox.close(code, last_message, now=now)

    async def _read(self) -> None:
        """Reads to the end, also what nobody wants any more: that the caller has left comes behind it."""
        try:
            while (message := await self._websocket.receive())["type"] == "websocket.receive":
                if not self._is_ended:
                    data = message.get("bytes")
                    self._take_in(message["text"] if data is None else data)
                if len(self._inbox) > 1 or self._is_ended:
                    await asyncio.sleep(0)  # where much has come already, receive() does not let others in
                if self._holds_callers:
                    await self._inbox.until_below(self._config.max_message_bytes)
        except Exception as error:
            self._fail(error)
        else:
            self._stop()
            self._outbox.hang_up()

    def _take_in(self, message: str | bytes) -> None:
        self._active_at = time.monotonic()
        limit = self._config.max_message_bytes
        if len(message) > limit:
            what = f"a message of {len(message)} bytes; the limit is {limit}: send several"
            self.end(ProtocolError("message_too_big", what, Close.TOO_BIG))
        elif self._can_be_fed(message):
            try:
                self._feed(self._sound.feed(message))
            except ProtocolError as error:
                self.end(error)
        elif not self._inbox.put(message):
            waiting_s, most_s = self._stats.buffered_ms / 1000, self._config.max_backlog_s
            what = f"{waiting_s:.1f} s of sound wait for the model: send at most {most_s:g} s ahead of the results"
            self.end(ProtocolError("too_fast", what, Close.REFUSED))

    def _can_be_fed(self, message: str | bytes) -> TypeGuard[bytes]:
        """Whether there is nothing to wait for before this piece: so it is in a call, and a task less is woken."""
        return (
            isinstance(message, bytes)
            and len(message) <= self._piece_bytes
            and self._place.has_begun
            and self._inbox.is_idle
            and self._sound.behind_samples < self._max_behind
        )

    async def _work(self) -> None:
        try:
            while not self._is_ended:
                message = await self._inbox.take()
                if isinstance(message, bytes):
                    await self._on_samples(message)
                else:
                    await self._on_text(message)
        except Exception as error:
            self._fail(error)

    async def _on_samples(self, data: bytes) -> None:
        await self._place.begin()
        for start in range(0, len(data), self._piece_bytes):
            if start:
                await asyncio.sleep(0)
            while self._sound.behind_samples >= self._max_behind and not self._is_ended:
                self._has_room.clear()
                await self._has_room.wait()
            if self._is_ended:
                return
            piece = data[start : start + self._piece_bytes]
            self._feed(self._sound.feed(piece))
            self._inbox.fed(len(piece))

    def _feed(self, samples_Cn: Samples) -> None:
        if self._stream is None:
            self._stream = self._stepper.open(
                self.model, self.options.num_channels, self._max_streams, self._on_clean, self._fail
            )
        self._stream.feed(samples_Cn)
        self._stats.came()

    async def _on_text(self, text: str) -> None:
        kind, update = parse_text(text)
        if kind == "session.update":
            self._sound.update(update)
            self.send(
                {"type": "session.updated", "strength": self._sound.strength, "bypass": self._sound.bypass}
            )
        elif kind == "ping":
            self.send({"type": "pong"})
        else:
            await self._flush()
            if kind == "close":
                self.close(Close.DONE)

    async def _flush(self) -> None:
        """Ends the stream; returns when all of it is in the outbox, `flushed` included."""
        self._is_flushed.clear()
        rest = self._sound.end()
        if not self._sound.is_over:
            self._feed(rest)
            await self._is_flushed.wait()
        if self._is_ended:
            return
        if self._stats.has_news:
            self._send_stats()
        self.send({"type": "flushed", "samples_in": self._sound.num_in, "samples_out": self._sound.num_out})
        self._close_stream()
        self._sound.restart()
        self._stats.restarted()

    def _on_clean(self, clean_Cn: Samples, compute_s: float) -> None:
        """The model has finished samples."""
        if self._is_ended:
            return
        if data := self._sound.finish(clean_Cn):
            self._post(data)
        self._stats.finished(clean_Cn.shape[-1], compute_s)
        self._active_at = time.monotonic()
        self._send_overrun()
        self._has_room.set()
        if self._sound.is_over:
            self._is_flushed.set()

    def _fail(self, error: Exception) -> None:
        """The end by the caller's fault or ours; of ours the log has the details, and the caller none."""
        if isinstance(error, ApiError):
            error = as_protocol_error(error)
        elif not isinstance(error, ProtocolError):
            logger.error("live session %s failed", self.id, exc_info=error)
            error = as_protocol_error(our_fault())
        self.end(error)

    async def _watch(self) -> None:
        """Statistics, and an end to calls that nobody uses."""
        while True:
            await asyncio.sleep(self._config.stats_interval_s)
            self._outbox.give_up_after(self._config.stuck_s)
            self._send_stats()
            self._send_overrun()
            idle_s = self._config.idle_s
            if time.monotonic() - self._active_at > idle_s:
                self.end(ProtocolError("idle", f"neither sound nor message for {idle_s:g} s", Close.REFUSED))

    def _send_stats(self) -> None:
        self._stats.publish(self.model.id)
        self.send(self._stats.message())

    def _send_overrun(self) -> None:
        if overrun := self._stats.overrun_changed():
            self.send(overrun)
            if self._stats.is_overrun:
                LIVE_OVERRUNS.add()

    def _unfed_s(self) -> float:
        """Seconds of sound that have come and that the model has not been given."""
        return self._inbox.num_sound_bytes / self.options.bytes_per_sample / self.options.sample_rate

    def _post(self, message: str | bytes) -> None:
        if self._is_ended or self._outbox.post(message):
            return
        what = f"{self._outbox.num_bytes} bytes wait to be read: read faster"
        self.end(ProtocolError("too_slow", what, Close.REFUSED), now=True)

    def _stop(self) -> None:
        """Nothing is taken from the caller or the model any more."""
        self._is_ended = True
        self._close_stream()
        self._inbox.clear()
        self._has_room.set()
        self._is_flushed.set()

    def _close_stream(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _created(self) -> dict[str, Any]:
        rate, model_rate = self.options.sample_rate, self.model.sample_rate
        latency_samples = self._sound.latency_samples()
        return {
            "type": "session.created",
            "session_id": self.id,
            "model": self.model.id,
            "evidence": self.model.evidence,
            "encoding": self.options.encoding,
            "channels": self.options.num_channels,
            "input_sample_rate": rate,
            "model_sample_rate": model_rate,
            "frame_samples": round(self._hop_samples * rate / model_rate),
            "frame_ms": 1000 * self._hop_samples / model_rate,
            "latency_ms": round(1000 * latency_samples / rate, 2),
            "latency_samples": latency_samples,
            "max_message_bytes": self._config.max_message_bytes,
        }


def error_message(error: ProtocolError, session_id: str) -> str:
    """The `error` message that comes before a close."""
    fields = {"code": error.code, "message": str(error), "session_id": session_id, **error.fields}
    return json.dumps({"type": "error", **fields})
