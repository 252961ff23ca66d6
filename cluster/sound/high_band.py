"""The gain of what lies above a model's band: what its own noise floor says, and what the model does just below.

    high_band = HighBand(sample_rate, num_channels)
    turned_CT = high_band.turned(both_CT, dry_CT)   # the model's band, after it and before it, and the recording

By frames of 8 ms:

- The floor of the high band is the least energy of a frame within the last second: speech has pauses in each band,
  noise has none (minimum statistics: R. Martin, IEEE Trans. Speech and Audio Processing 9(5), 2001; of a band so wide
  one frame is a good estimate). What is not far above the floor is noise, and goes as far as the floor of the model's
  own band went.
- Noise that comes in strikes has no floor. Where the model takes much away of all it hears, the gain follows what it
  does to the upper part of its band in each frame. Where it takes little away, it may well be wrong about a frame:
  models take sibilants for noise, and of clean speech they would be lost.

Nothing is waited for: a frame's gain holds at the end of the next one, and lines go from one to the next.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from cluster.sound.resampling import Samples

FRAME_S = 0.008
_FLOOR_FRAMES = 60  # a floor is the least of so many frames, and of as many before them
# Of the least frame to the mean of noise it is a factor of 1.3, and frames of noise scatter by as much again.
_NOISE_PER_FLOOR = 2.0
# The share of the energy that a model takes away: up to the first there may well be no noise at all, from the second on
# there is much of it. The compact model in the box takes 9 to 19 % of clean voices, 19 to 51 % at 10 dB.
_TAKES_LITTLE, _TAKES_MUCH = 0.13, 0.3
_MEMORY_S = 0.4  # over which that is known
_SILENCE = 1e-12  # energy of a sample, so that nothing over nothing is 1


class HighBand:
    """turned (2 C, n), (C, n), any n -> (C, n); all at the recording's rate, sample beside sample."""

    def __init__(self, sample_rate: int, num_channels: int) -> None:
        self._num_channels, self._frame = num_channels, round(FRAME_S * sample_rate)
        rise = np.arange(self._frame) / self._frame
        # What the gains at a frame's ends weigh in it.
        self._line: Samples = np.stack([1 - rise, rise]).astype(np.float32)
        self.restart()

    def restart(self) -> None:
        """Begins a new stream."""
        self._channels = [_Channel(self._frame * _SILENCE) for _ in range(self._num_channels)]
        # What _heard returns, of the frame that has begun, and the two samples before it.
        self._held = np.zeros((5, self._num_channels, 2), np.float32)
        # The gain at the beginning of the present frame, at its end, and what else is known of it.
        self._points: list[list[float]] = [[0.0, 0.0] for _ in range(self._num_channels)]
        self._place = 0  # in the present frame

    def turned(self, both_CT: Samples, dry_CT: Samples) -> Samples:
        """both_CT: the model's band, of all channels after the model and then before it; dry_CT: the recording."""
        heard, num_new = self._heard(both_CT, dry_CT), dry_CT.shape[-1]
        num_frames = (heard.shape[-1] - 2) // self._frame
        end = num_frames * self._frame
        if num_frames:
            frames = heard[..., 2 : end + 2].reshape(5, self._num_channels, num_frames, self._frame)
            energies_C5F = np.vecdot(frames, frames).transpose(1, 0, 2).tolist()
            for channel, points, energies_5F in zip(self._channels, self._points, energies_C5F, strict=True):
                points.extend(map(channel.gain, *energies_5F))
        self._held = heard[..., end:]
        return self._gain(num_new) * heard[2, :, heard.shape[-1] - num_new :]

    def _heard(self, both_CT: Samples, dry_CT: Samples) -> Samples:
        """(5, C, held and new): after the model, before it, above its band, and of the first two the upper part."""
        num_held, num_new = self._held.shape[-1], dry_CT.shape[-1]
        heard = np.empty((5, self._num_channels, num_held + num_new), np.float32)
        heard[..., :num_held] = self._held
        heard[:2, :, num_held:] = both_CT.reshape(2, self._num_channels, num_new)
        np.subtract(dry_CT, heard[1, :, num_held:], out=heard[2, :, num_held:])
        # The second difference.
        slope = heard[:2, :, num_held - 1 :] - heard[:2, :, num_held - 2 : -1]
        np.subtract(slope[..., 1:], slope[..., :-1], out=heard[3:, :, num_held:])
        return heard

    def _gain(self, num_samples: int) -> Samples:
        """Of the next samples, (C, n)."""
        ends = [pair for points in self._points for pair in itertools.pairwise(points)]
        lines = (np.array(ends, np.float32) @ self._line).reshape(self._num_channels, -1)
        gain_CT = lines[:, self._place : self._place + num_samples]
        num_passed, self._place = divmod(self._place + num_samples, self._frame)
        for points in self._points:
            del points[:num_passed]
        return gain_CT


class _Channel:
    """One channel, frame by frame."""

    def __init__(self, silence: float) -> None:
        self._silence = silence  # energy of a frame
        self._keep = math.exp(-FRAME_S / _MEMORY_S)  # of a frame's energy, in the next one
        self._noisy = self._clean = 0.0
        self._high_floor, self._noisy_floor, self._clean_floor = _Floor(), _Floor(), _Floor()

    def gain(self, clean: float, noisy: float, high: float, clean_upper: float, noisy_upper: float) -> float:
        """0 to 1, from energies of a frame: after and before the model, above its band, in the upper part of it."""
        silence = self._silence
        self._noisy = self._keep * self._noisy + noisy
        self._clean = self._keep * self._clean + min(noisy, clean)
        taken = 1 - (self._clean + silence) / (self._noisy + silence)
        trust = min(max((taken - _TAKES_LITTLE) / (_TAKES_MUCH - _TAKES_LITTLE), 0.0), 1.0)
        noisy_upper, clean_upper = noisy_upper + silence, clean_upper + silence
        left = min(clean_upper / noisy_upper, 1.0)
        floor_left = min(self._clean_floor.least(clean_upper) / self._noisy_floor.least(noisy_upper), 1.0)
        # Digital silence is no floor: what comes after it has the noise that came before.
        floor = self._high_floor.least(high if high > silence else math.inf)
        above_floor = 1 - _NOISE_PER_FLOOR * floor / high if high > silence else 1.0
        return min(max(above_floor, math.sqrt(floor_left)), 1 - trust * (1 - math.sqrt(left)))


class _Floor:
    """The least of the last values."""

    def __init__(self) -> None:
        self._now = self._before = math.inf
        self._num_now = 0

    def least(self, value: float) -> float:
        """With this one."""
        if self._num_now == _FLOOR_FRAMES:
            self._before, self._now, self._num_now = self._now, math.inf, 0
        self._num_now += 1
        if value < self._now:
            self._now = value
        return self._now if self._now < self._before else self._before
