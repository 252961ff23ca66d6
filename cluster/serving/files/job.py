"""One recording on its way through the engine: resampled, denoised, mixed with its dry sound, encoded."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np

from cluster.enhancement import stored_subtype
from cluster.serving.errors import ApiError
from cluster.serving.files.audio import bad_audio
from cluster.serving.files.encoder import FileEncoder
from cluster.serving.files.messages import END, ERROR, SOUND, START, Message, pack
from cluster.serving.files.streams import BatchedRecording, Streams, WindowedRecording
from cluster.serving.resampling import SampleQueue, StreamResampler

# What lies between two sockets: enough to keep the model busy while the others do their part.
MAX_WAITING_S = 1.0
MAX_OUTBOX_BYTES = 1 << 18
_ENCODE_FRAMES = 1 << 14


class FileJob:
    """Messages of the decoder in (`receive`), messages for the replica out (`outbox`); `step` moves it on.

    The output's sample k belongs to the input's sample k, and there are as many.
    """

    def __init__(self, streams: Streams, response_format: Any, strength: float) -> None:
        self.streams, self._format, self._strength = streams, response_format, strength
        self.outbox = bytearray()
        self.has_ended = False
        self._start: dict[str, Any] | None = None
        self._recording: BatchedRecording | WindowedRecording | None = None
        self._num_in = self._num_out = 0
        self._is_fed = False
        self._early: list[Message] = []  # what came before the model had room

    @property
    def wants_input(self) -> bool:
        if self.has_ended or self._is_fed or len(self.outbox) > MAX_OUTBOX_BYTES:
            return False
        if self._recording is None:
            return self._start is None or self._strength == 0
        return self._recording.num_waiting < MAX_WAITING_S * self.streams.sample_rate

    def receive(self, message: Message) -> None:
        """Takes a message of the decoder. Raises ApiError for what the format has no room for."""
        kind, body = message
        if self.has_ended:
            return
        if kind == ERROR:
            self._end(ERROR, json.loads(body))
        elif kind == START:
            self._begin(json.loads(body))
        elif self._recording is None and self._strength > 0:
            self._early.append(message)
        elif kind == SOUND:
            self._feed(np.frombuffer(body, np.float32).reshape(-1, self._num_channels))
        elif kind == END:
            self._finish_feeding()

    def step(self) -> bool:
        """Takes what the model finished, as far as it goes; whether there is more to do at once."""
        if self._start is None or self.has_ended:
            return False
        if self._strength == 0:
            self._emit(self._dry.pop(self._num_in - self._num_out))
            self._finish_if(self._is_fed)
            return self.has_ended
        if self._recording is None:
            return self._open_recording()
        wet_CT = self._from_model.feed(self._recording.take())
        if self._recording.is_done:
            wet_CT = np.concatenate([wet_CT, self._from_model.flush()], axis=-1)
            missing = self._start["num_frames"] - self._num_out - wet_CT.shape[-1]
            wet_CT = np.pad(wet_CT, ((0, 0), (0, max(0, missing))))
        self._emit(self._mixed(wet_CT[:, : self._start["num_frames"] - self._num_out]))
        self._finish_if(self._recording.is_done)
        return self.has_ended

    def _open_recording(self) -> bool:
        """Takes a place in the model as soon as there is one, and feeds what came before."""
        if not self.streams.has_room(self._num_channels):
            return False
        self._recording = self.streams.open(self._num_channels)
        early, self._early = self._early, []
        for message in early:
            self.receive(message)
        return True

    def _finish_feeding(self) -> None:
        assert self._start is not None
        if self._num_in != self._start["num_frames"]:
            raise bad_audio("the upload decodes to another length each time: it is damaged")
        self._is_fed = True
        if self._recording is not None:
            self._feed_recording(self._to_model.flush())
            self._recording.finish()

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
            self._recording = None

    def _begin(self, start: dict[str, Any]) -> None:
        self._num_channels, sample_rate = start["num_channels"], start["sample_rate"]
        file_format = "WAV" if self._format == "pcm" else self._format.upper()
        subtype, mask = stored_subtype(start.pop("subtype"), file_format), start.pop("channel_mask", 0)
        what = (self._format, subtype, sample_rate, self._num_channels, start["num_frames"], mask)
        self._encoder = FileEncoder(*what)
        self._to_model = StreamResampler(sample_rate, self.streams.sample_rate, self._num_channels)
        self._from_model = StreamResampler(self.streams.sample_rate, sample_rate, self._num_channels)
        self._dry = SampleQueue(self._num_channels)
        self._start = start
        self._began, self._encode_s = time.perf_counter(), 0.0
        self.outbox += pack(START, {**start, "num_bytes": self._encoder.num_bytes})

    def _feed(self, samples_TC: np.ndarray) -> None:
        self._num_in += len(samples_TC)
        samples_CT = np.ascontiguousarray(samples_TC.T)
        if self._strength < 1:
            self._dry.push(samples_CT)
        if self._recording is not None:
            self._feed_recording(self._to_model.feed(samples_CT))

    def _feed_recording(self, samples_CT: np.ndarray) -> None:
        assert self._recording is not None
        if samples_CT.shape[-1]:
            self._recording.feed(np.ascontiguousarray(samples_CT, dtype=np.float32))

    def _mixed(self, wet_CT: np.ndarray) -> np.ndarray:
        if self._strength == 1:
            return wet_CT
        dry_CT = self._dry.pop(wet_CT.shape[-1])
        return np.float32(self._strength) * wet_CT + np.float32(1 - self._strength) * dry_CT

    def _emit(self, samples_CT: np.ndarray) -> None:
        started, samples_TC = time.perf_counter(), samples_CT.T
        for first in range(0, len(samples_TC), _ENCODE_FRAMES):
            if encoded := self._encoder.encode(samples_TC[first : first + _ENCODE_FRAMES]):
                self.outbox += pack(SOUND, encoded)
        self._num_out += len(samples_TC)
        self._encode_s += time.perf_counter() - started

    def _finish_if(self, is_done: bool) -> None:
        if is_done:
            if rest := self._encoder.finish():
                self.outbox += pack(SOUND, rest)
            in_engine_s = time.perf_counter() - self._began
            self._end(END, {"denoise": in_engine_s - self._encode_s, "encode": self._encode_s})

    def _end(self, kind: int, content: dict[str, Any]) -> None:
        self.outbox += pack(kind, content)
        self.has_ended = True
        self.close()
