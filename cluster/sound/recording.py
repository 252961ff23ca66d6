"""One recording on its way through a model, piece by piece: as it comes in, so it comes out, in bounded memory."""

from __future__ import annotations

import numpy as np

from cluster.sound.bands import Band, back_to
from cluster.sound.offset import OffsetRemover
from cluster.sound.resampling import SampleQueue, Samples, StreamResampler
from cluster.sound.streams import BatchedRecording, Streams, WindowedRecording


class RecordingStream:
    """open, feed (C, n) any n, finish; take returns what is done, (C, m), until `is_done`.

    Each channel is denoised by itself, without its offset, at the model's rate, gets back what lies above the model's
    band (`bands`), and is mixed with what it was. The k-th sample out belongs to the k-th in, and there are as many. At
    strength 0 they are those that came, bit for bit.
    """

    def __init__(
        self, streams: Streams, sample_rate: int, num_channels: int, strength: float, band: Band = "full"
    ) -> None:
        """strength: share of the denoised sound, 0 to 1; the rest is the input. band: see `back_to`."""
        self._streams, self._num_channels, self._strength = streams, num_channels, strength
        self._offset = OffsetRemover(sample_rate, num_channels)
        self._to_model = StreamResampler(sample_rate, streams.sample_rate, num_channels)
        self._from_model = back_to(band, sample_rate, streams.sample_rate, num_channels)
        self._dry = SampleQueue(num_channels)
        self._recording: BatchedRecording | WindowedRecording | None = None
        self._is_fed = False
        self.num_in = self.num_out = 0

    @property
    def is_open(self) -> bool:
        """Whether it can be fed."""
        return self._recording is not None or self._strength == 0

    def open(self) -> bool:
        """Takes a place in the model if there is one; whether it can be fed."""
        if not self.is_open and self._streams.has_room(self._num_channels):
            self._recording = self._streams.open(self._num_channels)
        return self.is_open

    @property
    def num_waiting(self) -> int:
        """Samples of a channel, at the model's rate, that it has still to work on."""
        return 0 if self._recording is None else self._recording.num_waiting

    @property
    def is_done(self) -> bool:
        """Whether all has been taken."""
        return self._is_fed and self.num_out == self.num_in

    def feed(self, samples_CT: Samples) -> None:
        self.num_in += samples_CT.shape[-1]
        if self._strength < 1:
            self._dry.push(samples_CT)
        if self._recording is not None:
            dry_CT = self._offset.feed(samples_CT)
            self._feed_model(dry_CT, self._to_model.feed(dry_CT))

    def finish(self) -> None:
        """All was fed."""
        self._is_fed = True
        if self._recording is not None:
            rest_CT = self._to_model.flush()
            self._feed_model(rest_CT[:, :0], rest_CT)
            self._recording.finish()

    def take(self) -> Samples:
        """What is done by now. Of a model that runs in steps, `streams.advance` does them."""
        num_left = self.num_in - self.num_out
        if self._recording is None:
            done_CT = self._dry.pop(num_left)
        else:
            wet_CT = self._from_model.feed(self._recording.take())
            if self._recording.is_done:
                # Rounding there and back can leave a sample too many or, at the very end, too few.
                wet_CT = np.concatenate([wet_CT, self._from_model.flush()], axis=-1)[:, :num_left]
                wet_CT = np.pad(wet_CT, ((0, 0), (0, num_left - wet_CT.shape[-1])))
            done_CT = self._mixed(wet_CT)
        self.num_out += done_CT.shape[-1]
        return done_CT

    def close(self) -> None:
        """Gives back what the model holds for it."""
        if self._recording is not None:
            self._recording.close()
            self._recording = None

    def _feed_model(self, dry_CT: Samples, samples_CT: Samples) -> None:
        """dry_CT: at the recording's rate; samples_CT: what has become of it, and of what came before, by now."""
        assert self._recording is not None
        self._from_model.hear(dry_CT, samples_CT)
        if samples_CT.shape[-1]:
            self._recording.feed(np.ascontiguousarray(samples_CT, dtype=np.float32))

    def _mixed(self, wet_CT: Samples) -> Samples:
        if self._strength == 1:
            return wet_CT
        dry_CT = self._dry.pop(wet_CT.shape[-1])
        return np.float32(self._strength) * wet_CT + np.float32(1 - self._strength) * dry_CT
