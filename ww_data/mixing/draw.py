"""Everything random about a mixture, drawn before any sound is touched, and keyed by (seed, epoch, segment)."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from ww_data.mixing.augment import AugmentConfig, is_within, range_of
from ww_data.mixing.draw_effects import DRAWS, Augmentation, between, draw_effects, draw_speed, noise_crop
from ww_data.randomness import philox

SnrOver = Literal["active", "clip"]
_LIMITS = {"snr_db": (-60.0, 120.0), "level_dbfs": (-90.0, 0.0)}


@dataclass(frozen=True, kw_only=True)
class MixingConfig:
    """What mixtures are drawn from. Ranges are uniform, in dB.

    `crop_s`: seconds of each mixture; None takes whole segments.
    `snr_db`: speech power over noise power; `snr_levels_db`, if there are any, are drawn instead of that range.
    `snr_over`: "active" takes the speech's power over its active frames (not its pauses), "clip" over the whole crop;
    the noise's is always over the whole crop.
    `level_dbfs`: RMS of that same speech in the mixture, before peaks beyond full scale scale everything down.
    `remix`: the probability of noise from anywhere in the bank; else it is the segment's own, where a corpus of pairs
    has recorded one.
    """

    crop_s: float | None = 1.5
    snr_db: tuple[float, float] = (-5.0, 25.0)
    snr_levels_db: tuple[float, ...] = ()
    level_dbfs: tuple[float, float] = (-35.0, -15.0)
    snr_over: SnrOver = "active"
    remix: float = 1.0
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        if self.crop_s is not None and not is_within(self.crop_s, (0.1, sys.float_info.max)):
            raise ValueError(
                f"crop_s is {self.crop_s!r}: expected at least 0.1 s, or None for whole segments"
            )
        for name, limits in _LIMITS.items():
            object.__setattr__(self, name, range_of(name, getattr(self, name), limits))
        levels = self.snr_levels_db
        if not isinstance(levels, Iterable) or not all(is_within(x, _LIMITS["snr_db"]) for x in levels):
            raise ValueError(f"snr_levels_db is {levels!r}: expected a list of values within -60 and 120")
        object.__setattr__(self, "snr_levels_db", tuple(float(level) for level in levels))
        if self.snr_over not in ("active", "clip"):
            raise ValueError(f"snr_over is {self.snr_over!r}: expected 'active' or 'clip'")
        if not is_within(self.remix, (0, 1)):
            raise ValueError(f"remix is {self.remix!r}: expected a probability, 0 to 1")
        if not isinstance(self.augment, AugmentConfig):
            raise ValueError(f"augment is {self.augment!r}: expected an AugmentConfig")

    def num_samples(self, segment_samples: int, sample_rate: int) -> int:
        """Samples of a mixture from segments of this length; a crop longer than those is a ValueError."""
        if self.crop_s is None:
            return segment_samples
        num_samples = round(self.crop_s * sample_rate)
        if num_samples > segment_samples:
            raise ValueError(
                f"crop_s is {self.crop_s} but the segments have {segment_samples / sample_rate:g} s: "
                "take a shorter crop or prepare the corpus with a longer segment_s"
            )
        return num_samples


@dataclass(frozen=True, kw_only=True)
class MixtureDraw:
    """Everything random about one mixture. Starts and lengths are in samples."""

    crop_start: int
    num_samples: int
    valid_samples: int  # of the mixture: what lies behind it is padding
    noise_index: int
    noise_start: int
    snr_db: float
    level_dbfs: float
    snr_over: SnrOver
    sample_rate: int
    speed: float = 1.0
    augmentation: Augmentation | None = None

    @property
    def source_samples(self) -> int:
        """How much of a segment is cropped: played at its speed, it lasts for `num_samples`."""
        return math.ceil(self.num_samples * self.speed)


def mixture_rng(seed: int, epoch: int, key: int) -> np.random.Generator:
    """The generator of one draw. It depends on nothing but these three (seed and epoch below 2**32)."""
    return np.random.Generator(philox(seed, epoch, key))


def draw_mixture(
    rng: np.random.Generator,
    config: MixingConfig,
    *,
    valid_samples: int,
    sample_rate: int,
    noise_lengths: npt.NDArray[np.int64],
    segment_samples: int | None = None,
    own_noise: tuple[int, int] | None = None,
    num_rooms: int = 0,
) -> MixtureDraw:
    """Draw one mixture for a segment with `valid_samples` of `segment_samples` (default: all valid).

    `noise_lengths` (K,) are those of the noise bank; each of its clips is as likely as any other. `own_noise`: where
    in the bank (row, sample) the noise begins that was recorded with the segment.
    """
    # Further effects draw behind these five, so that these stay as they are.
    where, which, noise_where, snr, level = rng.random(5).tolist()
    num_samples = config.num_samples(segment_samples or valid_samples, sample_rate)
    augmentation, speed, remixed = None, 1.0, True
    if config.remix < 1 or not config.augment.is_off:
        u = dict(zip(DRAWS, rng.random(len(DRAWS)).tolist(), strict=True))
        remixed = own_noise is None or u["remix"] < config.remix
        speed = draw_speed(config.augment, u)
        augmentation = draw_effects(
            config.augment,
            u,
            num_samples=num_samples,
            sample_rate=sample_rate,
            noise_lengths=noise_lengths,
            num_rooms=num_rooms,
        )
    source_samples = math.ceil(num_samples * speed)
    crop_start = int(where * (max(valid_samples - source_samples, 0) + 1))
    if remixed or own_noise is None:
        noise_index = int(which * len(noise_lengths))
        noise_start = noise_crop(noise_where, int(noise_lengths[noise_index]), num_samples)
    else:
        noise_index = own_noise[0]
        last_start = max(int(noise_lengths[noise_index]) - num_samples, 0)
        noise_start = min(own_noise[1] + crop_start, last_start)
    levels = config.snr_levels_db
    return MixtureDraw(
        crop_start=crop_start,
        num_samples=num_samples,
        valid_samples=min(math.ceil((valid_samples - crop_start) / speed), num_samples),
        noise_index=noise_index,
        noise_start=noise_start,
        snr_db=levels[int(snr * len(levels))] if levels else between(config.snr_db, snr),
        level_dbfs=between(config.level_dbfs, level),
        snr_over=config.snr_over,
        sample_rate=sample_rate,
        speed=speed,
        augmentation=augmentation,
    )
