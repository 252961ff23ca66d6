"""From the model's rate back to the recording's: with what lies above the model's band, or without it.

    back = back_to(band, sample_rate, model_rate, num_channels)
    back.hear(dry_CT, noisy_CT)     # at the recording's rate, and what the model is given of it
    wet_CT = back.feed(clean_CT)    # what the model has made of that
    wet_CT = back.flush()           # the rest, and a new stream begins

A model at 16 kHz hears nothing above 8 kHz. There the sound is kept as it came, sample beside sample, and turned by a
gain that follows what the model does just below: hiss goes with the noise, sibilants stay. It waits for nothing: the
gain lags by 8 to 16 ms instead.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from cluster.sound.resampling import SampleQueue, Samples, StreamResampler

Band = Literal["full", "model"]
BANDS: tuple[Band, ...] = ("full", "model")

_FRAME_S, _MEMORY_S = 0.008, 0.008  # of the gain

_SILENCE = 1e-12  # energy of a sample, so that nothing over nothing is 1


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
    """And what lies above it.

    up(clean) + gain * (dry - up(noisy)), which is up(clean - gain * noisy) + gain * dry: a straight line goes through
    the filter of the resampler unchanged.
    """

    def __init__(self, sample_rate: int, model_rate: int, num_channels: int) -> None:
        self._num_channels, self._rate_ratio = num_channels, model_rate / sample_rate
        self._gains = _Gains(round(_FRAME_S * model_rate), num_channels)
        self.resampler = StreamResampler(model_rate, sample_rate, num_channels)
        self._begin()

    def _begin(self) -> None:
        self._dry, self._noisy = SampleQueue(self._num_channels), SampleQueue(self._num_channels)
        self._num_dry = self._num_clean = self._num_out = 0
        self._gains.restart()

    def hear(self, dry_CT: Samples, noisy_CT: Samples) -> None:
        self._num_dry += dry_CT.shape[-1]
        self._dry.push(dry_CT)
        self._noisy.push(noisy_CT)

    def feed(self, clean_CT: Samples) -> Samples:
        noisy_CT = self._noisy.pop(clean_CT.shape[-1])
        self._gains.hear(noisy_CT, clean_CT)
        gain_CT = self._gains.at(self._num_clean, clean_CT.shape[-1], 1.0)
        self._num_clean += clean_CT.shape[-1]
        return self._with_dry(self.resampler.feed(clean_CT - gain_CT * noisy_CT))

    def flush(self) -> Samples:
        rest_CT = self._with_dry(self.resampler.flush())
        self._begin()
        return rest_CT

    def restart(self) -> None:
        """Begins a new stream, wherever this one is."""
        self.resampler.flush()
        self._begin()

    def _with_dry(self, change_CT: Samples) -> Samples:
        # Rounding there and back can leave a sample too many.
        change_CT = change_CT[:, : self._num_dry - self._num_out]
        num_samples = change_CT.shape[-1]
        gain_CT = self._gains.at(self._num_out, num_samples, self._rate_ratio)
        self._gains.forget_before(self._num_out * self._rate_ratio)
        self._num_out += num_samples
        return change_CT + gain_CT * self._dry.pop(num_samples)


class _Gains:
    """Of each channel a gain at the beginning of each frame, and a straight line from one to the next."""

    def __init__(self, frame: int, num_channels: int) -> None:
        self._frame, self._num_channels = frame, num_channels
        self._keep = math.exp(-_FRAME_S / _MEMORY_S)  # of a frame's energy, in the next one
        self.restart()

    def restart(self) -> None:
        # Two signals, the one before the model and the one after it, of each channel.
        self._held = np.zeros(
            (2, self._num_channels, 2), np.float32
        )  # samples that a frame's end still needs
        self._memory = np.zeros((2, self._num_channels))
        # A frame's energies are known at its end, and are reached by the end of the next one.
        self._first, self._points = 0, np.zeros((self._num_channels, 2))

    def hear(self, noisy_CT: Samples, clean_CT: Samples) -> None:
        """At the model's rate: what it was given, and what it has made of that."""
        signals = np.concatenate([self._held, np.array((noisy_CT, clean_CT))], axis=-1)
        num_frames = (signals.shape[-1] - 2) // self._frame
        end = num_frames * self._frame
        self._held = signals[..., end:]
        if not num_frames:
            return
        # The second difference: of the model's band, the upper part.
        high = signals[..., 2 : end + 2] - 2 * signals[..., 1 : end + 1] + signals[..., :end]
        frames = high.reshape(2, self._num_channels, num_frames, self._frame)
        energies = np.vecdot(frames, frames).astype(np.float64)
        for number in range(num_frames):  # a few of them, but for files
            self._memory = self._keep * self._memory + energies[..., number]
            energies[..., number] = self._memory
        noisy, clean = energies + self._frame * _SILENCE
        self._points = np.concatenate([self._points, np.minimum(1, np.sqrt(clean / noisy))], axis=-1)

    def at(self, first: int, num_samples: int, step: float) -> Samples:
        """(C, n): of samples from `first` on, each of so many of the model's."""
        frames = (step / self._frame) * np.arange(first, first + num_samples)
        places = np.arange(self._first, self._first + self._points.shape[-1])
        return np.array([np.interp(frames, places, points) for points in self._points], np.float32)

    def forget_before(self, sample: float) -> None:
        """What lies before a sample of the model's is asked for no more."""
        num_passed = max(0, int(sample / self._frame) - self._first)
        self._first, self._points = self._first + num_passed, self._points[:, num_passed:]
