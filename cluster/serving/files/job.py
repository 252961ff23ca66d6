"""One recording on its way through the engine: its sound in messages, a stream through the model, a file of it."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np

from cluster.serving.errors import ApiError
from cluster.serving.files.audio import bad_audio
from cluster.serving.files.messages import END, ERROR, SOUND, START, Message, pack
from cluster.sound.bands import Band
from cluster.sound.encoder import FileEncoder, FormatError, stored_subtype
from cluster.sound.recording import RecordingStream
from cluster.sound.streams import Streams

# What lies between two sockets: enough to keep the model busy while the others do their part.
MAX_WAITING_S = 1.0
MAX_OUTBOX_BYTES = 1 << 18
_ENCODE_FRAMES = 1 << 14


class FileJob:
    """Messages of the decoder in (`receive`), messages for the replica out (`outbox`); `step` moves it on.

    The output's sample k belongs to the input's sample k, and there are as many.
    """

    def __init__(self, streams: Streams, response_format: Any, strength: float, band: Band) -> None:
        self.streams, self._format, self._strength, self._band = streams, response_format, strength, band
        self.outbox = bytearray()
        self.has_ended = False
        self._start: dict[str, Any] | None = None
        self._recording: RecordingStream | None = None  # from the start on
        self._is_fed = False
        self._early: list[Message] = []  # what came before the model had room

    @property
    def wants_input(self) -> bool:
        if self.has_ended or self._is_fed or len(self.outbox) > MAX_OUTBOX_BYTES:
            return False
        if self._recording is None:
            return True
        is_behind = self._recording.num_waiting >= MAX_WAITING_S * self.streams.sample_rate
        return self._recording.is_open and not is_behind

    def receive(self, message: Message) -> None:
        """Takes a message of the decoder. Raises ApiError for what the format has no room for."""
        kind, body = message
        if self.has_ended:
            return
        if kind == ERROR:
            self._end(ERROR, json.loads(body))
        elif kind == START:
            self._begin(json.loads(body))
        elif self._recording is None:
            raise bad_audio("the upload has no beginning: it is damaged")
        elif not self._recording.is_open:
            self._early.append(message)
        elif kind == SOUND:
            samples_TC = np.frombuffer(body, np.float32).reshape(-1, self._num_channels)
            self._recording.feed(np.ascontiguousarray(samples_TC.T))
        elif kind == END:
            self._finish_feeding(self._recording)

    def step(self) -> bool:
        """Takes what the model finished, as far as it goes; whether there is more to do at once."""
        if self._recording is None or self.has_ended:
            return False
        if not self._recording.is_open:
            return self._open(self._recording)
        self._emit(self._recording.take())
        if self._recording.is_done:
            self._finish()
        return self.has_ended

    def _open(self, recording: RecordingStream) -> bool:
        """Takes a place in the model as soon as there is one, and feeds what came before."""
        if not recording.open():
            return False
        early, self._early = self._early, []
        for message in early:
            self.receive(message)
        return True

    def _finish_feeding(self, recording: RecordingStream) -> None:
        assert self._start is not None
        if recording.num_in != self._start["num_frames"]:
            raise bad_audio("the upload decodes to another length each time: it is damaged")
        self._is_fed = True
        recording.finish()

    def fail(self, error: ApiError) -> None:
        """Ends with an error in place of the rest."""
        if not self.has_ended:
            self._end(ERROR, error.as_json())

    def on_decoder_lost(self) -> None:
        """The decoder died: what it was given was too much for it."""
        if not self._is_fed:
            what = (
                "the upload could not be decoded within the limits of time and memory: it is probably damaged"
            )
            self.fail(bad_audio(what))

    def close(self) -> None:
        """Gives back what the model holds for it."""
        if self._recording is not None:
            self._recording.close()

    def _begin(self, start: dict[str, Any]) -> None:
        self._num_channels, sample_rate = start["num_channels"], start["sample_rate"]
        file_format = "WAV" if self._format == "pcm" else self._format.upper()
        subtype, mask = stored_subtype(start.pop("subtype"), file_format), start.pop("channel_mask", 0)
        what = (self._format, subtype, sample_rate, self._num_channels, start["num_frames"], mask)
        try:
            self._encoder = FileEncoder(*what)
        except FormatError as error:
            raise ApiError(422, "invalid_field", f"response_format: {error}") from error
        how = (self._num_channels, self._strength, self._band)
        self._recording = RecordingStream(self.streams, sample_rate, *how)
        self._start = start
        self._began, self._encode_s, self._peak = time.perf_counter(), 0.0, 0.0
        self.outbox += pack(START, {**start, "num_bytes": self._encoder.num_bytes})

    def _emit(self, samples_CT: np.ndarray) -> None:
        started, samples_TC = time.perf_counter(), samples_CT.T
        self._peak = max(self._peak, float(np.abs(samples_CT).max(initial=0.0)))
        for first in range(0, len(samples_TC), _ENCODE_FRAMES):
            if encoded := self._encoder.encode(samples_TC[first : first + _ENCODE_FRAMES]):
                self.outbox += pack(SOUND, encoded)
        self._encode_s += time.perf_counter() - started

    def _finish(self) -> None:
        if rest := self._encoder.finish():
            self.outbox += pack(SOUND, rest)
        in_engine_s = time.perf_counter() - self._began
        steps_s = {"denoise": in_engine_s - self._encode_s, "encode": self._encode_s}
        self._end(END, {"steps_s": steps_s, "peak": self._peak})

    def _end(self, kind: int, content: dict[str, Any]) -> None:
        self.outbox += pack(kind, content)
        self.has_ended = True
        self.close()
