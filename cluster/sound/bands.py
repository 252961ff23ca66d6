"""From the model's rate back to the recording's: with what lies above the model's band, or without it.

    back = back_to(band, sample_rate, model_rate, num_channels)
    back.hear(dry_CT, noisy_CT)     # at the recording's rate, and what the model is given of it
    wet_CT = back.feed(clean_CT)    # what the model has made of that
    wet_CT = back.flush()           # the rest, and a new stream begins

A model at 16 kHz hears nothing above 8 kHz. There the sound is kept as it came, sample beside sample, and turned by a
gain (`high_band`): hiss goes with the noise, sibilants stay.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from cluster.sound.high_band import HighBand
from cluster.sound.resampling import SampleQueue, Samples, StreamResampler

Band = Literal["full", "model"]
BANDS: tuple[Band, ...] = ("full", "model")


def back_to(band: Band, sample_rate: int, model_rate: int, num_channels: int) -> ModelBand | FullBand:
    """band: "full" keeps what the recording has above the model's band, where it has any."""
    kind = FullBand if band == "full" and sample_rate > model_rate else ModelBand
    return kind(sample_rate, model_rate, num_channels)


def clip_back(
    band: Band, dry_T: Samples, noisy_T: Samples, clean_T: Samples, sample_rate: int, model_rate: int
) -> Samples:
    """A whole clip back at its own rate, as long as it was. dry_T: at that rate, without its offset; noisy_T, clean_T:
    at the model's, before and after it."""
    back = back_to(band, sample_rate, model_rate, 1)
    back.hear(dry_T[None], noisy_T[None])
    wet_T = np.concatenate([back.feed(clean_T[None]), back.flush()], axis=-1)[0, : len(dry_T)]
    # Rounding there and back may leave a sample too many or, at the very end, too few.
    return np.pad(wet_T, (0, len(dry_T) - len(wet_T)))


class ModelBand:
    """The model's band alone."""

    def __init__(self, sample_rate: int, model_rate: int, num_channels: int) -> None:
        self.resampler = StreamResampler(model_rate, sample_rate, num_channels)

    def hear(self, dry_CT: Samples, noisy_CT: Samples) -> None:
        """Needs nothing of it."""

    def feed(self, clean_CT: Samples) -> Samples:
        return self.resampler.feed(clean_CT)

    def flush(self) -> Samples:
        return self.resampler.flush()

    def restart(self) -> None:
        """Begins a new stream, wherever this one is."""
        self.resampler.flush()


class FullBand:
    """And what lies above it: the recording without what the model was given, sample beside sample."""

    def __init__(self, sample_rate: int, model_rate: int, num_channels: int) -> None:
        self._num_channels = num_channels
        self._high_band = HighBand(sample_rate, num_channels)
        self.resampler = StreamResampler(
            model_rate, sample_rate, 2 * num_channels
        )  # after the model, and before
        self._begin()

    def _begin(self) -> None:
        self._dry, self._noisy = SampleQueue(self._num_channels), SampleQueue(self._num_channels)
        self._num_left = 0  # samples of the recording that have not come out
        self._high_band.restart()

    def hear(self, dry_CT: Samples, noisy_CT: Samples) -> None:
        self._num_left += dry_CT.shape[-1]
        self._dry.push(dry_CT)
        self._noisy.push(noisy_CT)

    def feed(self, clean_CT: Samples) -> Samples:
        noisy_CT = self._noisy.pop(clean_CT.shape[-1])
        return self._joined(self.resampler.feed(np.concatenate([clean_CT, noisy_CT])))

    def flush(self) -> Samples:
        rest_CT = self._joined(self.resampler.flush())
        self._begin()
        return rest_CT

    def restart(self) -> None:
        """Begins a new stream, wherever this one is."""
        self.resampler.flush()
        self._begin()

    def _joined(self, both_CT: Samples) -> Samples:
        # Rounding there and back can leave a sample too many.
        both_CT = both_CT[:, : self._num_left]
        self._num_left -= both_CT.shape[-1]
        turned_CT = self._high_band.turned(both_CT, self._dry.pop(both_CT.shape[-1]))
        turned_CT += both_CT[: self._num_channels]
        return turned_CT
