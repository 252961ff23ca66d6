"""Models for recordings: each recording gets a stream per channel, and streams advance together."""

from __future__ import annotations

import numpy as np

from ww_models import Denoiser, StreamBatch
from ww_models.streaming.engine import Samples, StepEngine
from ww_models.streaming.onnx_engine import OnnxEngine
from ww_models.streaming.onnx_export import Precision
from ww_models.streaming.overlap import OverlapStreamer

# Of models that need the whole clip: seconds that a window gives, and of context around them (see OverlapStreamer).
WINDOW_HOP_S = 3.0
# Of a network in a step.
MAX_FRAMES = 32


def recording_engine(
    model: Denoiser, step_s: float, precision: Precision = "fp32", num_threads: int = 1
) -> OnnxEngine:
    """The engine of a model that runs in steps: of some hops each, `step_s` seconds at most, which take less time in
    all.

    A recurrent layer is in its graph once for each frame of a step: with very many the graph takes minutes to make.
    """
    num_hops = round(step_s * model.sample_rate / model.hop_samples)
    num_hops = max(1, min(num_hops, MAX_FRAMES * model.stride // model.hop_samples))
    return OnnxEngine.from_model(model, precision, num_hops, num_threads)


class BatchedStreams:
    """A causal model: the channels of all its recordings are rows of one batch."""

    def __init__(self, engine: StepEngine, num_rows: int) -> None:
        self.sample_rate = engine.sample_rate
        self._batch = StreamBatch(engine, num_rows)
        self._finished: dict[int, list[Samples]] = {}

    def has_room(self, num_channels: int) -> bool:
        return len(self._batch) + num_channels <= self._batch.max_streams

    def open(self, num_channels: int) -> BatchedRecording:
        return BatchedRecording(self._batch, self._finished, num_channels)

    def advance(self) -> bool:
        """One step of every stream that has one waiting; whether any had."""
        finished = self._batch.advance()
        for stream, samples_T in finished.items():
            self._finished[stream].append(samples_T)
        return bool(finished)


class BatchedRecording:
    """One recording at the model's rate. feed (C, n), then finish; take returns what `advance` finished, (C, m)."""

    def __init__(self, batch: StreamBatch, finished: dict[int, list[Samples]], num_channels: int) -> None:
        self._batch, self._finished = batch, finished
        self._streams = [batch.join() for _ in range(num_channels)]
        finished.update({stream: [] for stream in self._streams})
        self._num_fed = self._num_taken = 0
        self._is_at_end = False
        self.is_done = False

    @property
    def num_waiting(self) -> int:
        """Samples of a channel that were fed and not taken, without those that a stream always waits for."""
        return self._num_fed - self._num_taken - self._batch.latency_samples

    def feed(self, samples_CT: Samples) -> None:
        self._num_fed += samples_CT.shape[-1]
        for stream, samples_T in zip(self._streams, samples_CT, strict=True):
            self._batch.feed(stream, samples_T)

    def finish(self) -> None:
        """All was fed."""
        self._is_at_end = True

    def take(self) -> Samples:
        channels = []
        for stream in self._streams:
            channels.append(np.concatenate([np.zeros(0, np.float32), *self._finished[stream]]))
            self._finished[stream].clear()
        self._num_taken += len(channels[0])
        taken_CT = np.stack(channels)
        # What is left is a few steps: not worth waiting for company.
        if self._is_at_end and self.num_waiting <= 0:
            rest_CT = np.stack([self._batch.flush(stream) for stream in self._streams])
            taken_CT = np.concatenate([taken_CT, rest_CT], axis=-1)
            self._forget()
            self.is_done = True
        return taken_CT

    def close(self) -> None:
        """Ends the streams wherever they are."""
        for stream in self._streams:
            self._batch.leave(stream)
        self._forget()

    def _forget(self) -> None:
        for stream in self._streams:
            del self._finished[stream]
        self._streams = []


class WindowedStreams:
    """A model that needs the whole clip: each recording by itself, in windows that overlap."""

    def __init__(self, model: Denoiser, hop_s: float = WINDOW_HOP_S) -> None:
        """hop_s: that a window gives; longer ones take less time in all, and more memory."""
        self._model, self._hop_s = model.requires_grad_(False), hop_s
        self.sample_rate = model.sample_rate

    def has_room(self, num_channels: int) -> bool:
        return True

    def open(self, num_channels: int) -> WindowedRecording:
        return WindowedRecording(self._model, num_channels, self._hop_s)

    def advance(self) -> bool:
        return False


class WindowedRecording:
    """Like a BatchedRecording; `feed` does the work."""

    def __init__(self, model: Denoiser, num_channels: int, hop_s: float) -> None:
        self._streamer = OverlapStreamer(model, num_channels, hop_s=hop_s)
        self._finished: list[Samples] = []
        self.num_waiting = 0
        self.is_done = False

    def feed(self, samples_CT: Samples) -> None:
        self._finished.append(np.asarray(self._streamer.feed(samples_CT)))

    def finish(self) -> None:
        self._finished.append(np.asarray(self._streamer.flush()))
        self.is_done = True

    def take(self) -> Samples:
        empty_CT = np.zeros((self._streamer.batch, 0), np.float32)
        taken_CT, self._finished = np.concatenate([empty_CT, *self._finished], axis=-1), []
        return taken_CT

    def close(self) -> None:
        pass


Streams = BatchedStreams | WindowedStreams
