"""Mixing speech with noise. Randomness is drawn first (`draw_mixture`) and applied then (`mix`).

A draw is keyed by (seed, epoch, segment), so that a run sees the same mixtures on one worker or on
sixty-four. `noisy - clean` is the scaled noise, at exactly the SNR that was drawn; nothing is ever divided by
silence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ww_data.activity import FRAME_S, frame_energies, frame_length
from ww_data.keyed import philox
from ww_data.noise_bank import NoiseBank
from ww_data.segments import SegmentBlock

FloatArray = npt.NDArray[np.float32]
FloatArray64 = npt.NDArray[np.float64]
Int16Array = npt.NDArray[np.int16]
BoolArray = npt.NDArray[np.bool_]
SnrOver = Literal["active", "clip"]

# Peaks of mixtures that would leave full scale are brought down to this.
_PEAK = 0.999
# Speech is active if it is so for this long; a word's last 20 ms alone would be blown up to the level of
# speech.
_MIN_ACTIVE_S = 0.1
# Rows that are mixed at once: their intermediate results stay in the cache.
_ROWS_AT_ONCE = 4


@dataclass(frozen=True, kw_only=True)
class MixingConfig:
    """What mixtures are drawn from. Ranges are uniform, in dB.

    `crop_s`: seconds of each mixture; None takes whole segments.
    `snr_db`: speech power over noise power. `snr_over`: "active" takes the speech's power over its active
    frames (not its pauses), "clip" over the whole crop; the noise's is always over the whole crop.
    `level_dbfs`: RMS of that same speech in the mixture, before peaks beyond full scale scale everything
    down.
    """

    crop_s: float | None = 1.5
    snr_db: tuple[float, float] = (-5.0, 25.0)
    level_dbfs: tuple[float, float] = (-35.0, -15.0)
    snr_over: SnrOver = "active"

    def __post_init__(self) -> None:
        if self.crop_s is not None and not 0.1 <= self.crop_s < math.inf:
            raise ValueError(f"crop_s is {self.crop_s}: expected at least 0.1 s, or None for whole segments")
        for name, low, high in (("snr_db", -60, 120), ("level_dbfs", -90, 0)):
            values = getattr(self, name)
            if len(values) != 2 or not low <= values[0] <= values[1] <= high:
                raise ValueError(f"{name} is {values}: expected (lowest, highest) within {low} and {high}")
            object.__setattr__(self, name, (float(values[0]), float(values[1])))
        if self.snr_over not in ("active", "clip"):
            raise ValueError(f"snr_over is {self.snr_over!r}: expected 'active' or 'clip'")

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
class MixtureParams:
    """Everything random about one mixture. Starts and lengths are in samples."""

    crop_start: int
    num_samples: int
    valid_samples: int  # of the crop: what lies behind it is padding
    noise_index: int
    noise_start: int
    snr_db: float
    level_dbfs: float
    snr_over: SnrOver
    sample_rate: int


@dataclass(frozen=True, kw_only=True)
class Mixtures:
    """A block of N mixtures of T samples, float32 at full scale +-1.

    `speech_active_N` is False where the crop holds no speech: the clean side is then as recorded and the
    noise at the drawn level. `noise_active_N` is False where the noise is silent: noisy equals clean.
    """

    noisy_NT: FloatArray
    clean_NT: FloatArray
    params: Sequence[MixtureParams]
    speech_active_N: BoolArray
    noise_active_N: BoolArray


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
) -> MixtureParams:
    """Draw one mixture for a segment with `valid_samples` of `segment_samples` (default: all valid).

    `noise_lengths` (K,) are those of the noise bank; each of its clips is as likely as any other.
    """
    # New effects draw behind these five, so that what is drawn today stays as it is.
    where, which, noise_where, snr, level = rng.random(5).tolist()
    num_samples = config.num_samples(segment_samples or valid_samples, sample_rate)
    crop_start = int(where * (max(valid_samples - num_samples, 0) + 1))
    noise_index = int(which * len(noise_lengths))
    noise_length = int(noise_lengths[noise_index])
    # A clip that is long enough is never looped; a shorter one may start anywhere in its loop.
    num_starts = noise_length - num_samples + 1 if noise_length >= num_samples else noise_length
    return MixtureParams(
        crop_start=crop_start,
        num_samples=num_samples,
        valid_samples=min(valid_samples - crop_start, num_samples),
        noise_index=noise_index,
        noise_start=int(noise_where * num_starts),
        snr_db=_between(config.snr_db, snr),
        level_dbfs=_between(config.level_dbfs, level),
        snr_over=config.snr_over,
        sample_rate=sample_rate,
    )


def mix(
    speech_T: Int16Array, noise_T: Int16Array, params: MixtureParams, *, active_floor: int = 0
) -> tuple[FloatArray, FloatArray]:
    """Mix a crop of speech with as much noise, both int16 PCM: (noisy_T, clean_T) float32 at full scale +-1.

    `active_floor`: frames of at least this energy are speech (0: every frame with any energy).
    """
    mixtures = mix_crops(speech_T[None], noise_T[None], [params], np.array([active_floor]))
    return mixtures.noisy_NT[0], mixtures.clean_NT[0]


def mix_segments(
    block: SegmentBlock, epochs_N: npt.ArrayLike, bank: NoiseBank, config: MixingConfig, seed: int
) -> Mixtures:
    """Draw and mix each segment of a block, for its own epoch, with noise from the bank."""
    epochs = np.broadcast_to(np.asarray(epochs_N), len(block)).tolist()
    segment_samples = block.pcm_NS.shape[1]
    num_samples = config.num_samples(segment_samples, bank.sample_rate)
    params = [
        draw_mixture(
            mixture_rng(seed, epoch, key),
            config,
            valid_samples=valid_samples,
            sample_rate=bank.sample_rate,
            noise_lengths=bank.lengths_N,
            segment_samples=segment_samples,
        )
        for epoch, key, valid_samples in zip(
            epochs, block.key_N.tolist(), block.valid_samples_N.tolist(), strict=True
        )
    ]
    speech_NT = np.empty((len(block), num_samples), np.int16)
    noise_NT = np.empty((len(block), num_samples), np.int16)
    for row, draw in enumerate(params):
        speech_NT[row] = block.pcm_NS[row, draw.crop_start : draw.crop_start + num_samples]
        noise_NT[row] = bank.crop(draw.noise_index, draw.noise_start, num_samples)
    return mix_crops(speech_NT, noise_NT, params, block.active_floor_N)


def mix_crops(
    speech_NT: Int16Array,
    noise_NT: Int16Array,
    params: Sequence[MixtureParams],
    active_floor_N: npt.NDArray[np.int64],
) -> Mixtures:
    """Mix N crops (int16 PCM) with as much noise each. Rows do not depend on their neighbours."""
    if speech_NT.shape != noise_NT.shape or speech_NT.dtype != np.int16 or noise_NT.dtype != np.int16:
        raise ValueError(
            f"speech is {speech_NT.dtype} {speech_NT.shape} and noise {noise_NT.dtype} {noise_NT.shape}: "
            "expected int16 PCM of one shape"
        )
    frame = frame_length(params[0].sample_rate) if params else 1
    speech_energy_NF, noise_energy_NF = _by_chunks(speech_NT, frame), _by_chunks(noise_NT, frame)
    gain_2N, active_2N = _gains(speech_energy_NF, noise_energy_NF, params, active_floor_N, speech_NT.shape[1])
    noisy_NT, clean_NT = np.empty(speech_NT.shape, np.float32), np.empty(speech_NT.shape, np.float32)
    peak_N = np.empty(len(speech_NT))
    for rows in _chunks(len(speech_NT)):
        _apply(speech_NT[rows], noise_NT[rows], gain_2N[:, rows], noisy_NT[rows], clean_NT[rows])
        peak_N[rows] = np.maximum(_peak(noisy_NT[rows]), _peak(clean_NT[rows]))
    for row in np.flatnonzero(peak_N > 1.0).tolist():
        rows = slice(row, row + 1)
        lower_2N = gain_2N[:, rows] * (_PEAK / peak_N[row])
        _apply(speech_NT[rows], noise_NT[rows], lower_2N, noisy_NT[rows], clean_NT[rows])
    return Mixtures(
        noisy_NT=noisy_NT,
        clean_NT=clean_NT,
        params=params,
        speech_active_N=active_2N[0],
        noise_active_N=active_2N[1],
    )


def _chunks(num_rows: int) -> list[slice]:
    return [slice(first, first + _ROWS_AT_ONCE) for first in range(0, num_rows, _ROWS_AT_ONCE)]


def _by_chunks(x_NT: Int16Array, frame: int) -> FloatArray64:
    """Frame energies (N, F)."""
    parts = [frame_energies(x_NT[rows], frame) for rows in _chunks(len(x_NT))]
    return np.concatenate(parts) if parts else np.empty((0, 0))


def _gains(
    speech_energy_NF: FloatArray64,
    noise_energy_NF: FloatArray64,
    params: Sequence[MixtureParams],
    active_floor_N: npt.NDArray[np.int64],
    num_samples: int,
) -> tuple[FloatArray64, BoolArray]:
    """Gains (2, N) from PCM to full scale +-1 for speech and noise, and whether each of them is active."""
    speech_power_N, speech_active_N = _speech_power(speech_energy_NF, params, active_floor_N, num_samples)
    noise_power_N = noise_energy_NF.sum(axis=1) / num_samples
    noise_active_N = noise_power_N >= 1.0  # below, there is nothing but rounding
    level_N = 10 ** (np.array([draw.level_dbfs for draw in params]) / 20)
    noise_to_speech_N = 10 ** (np.array([draw.snr_db for draw in params]) / -20)
    speech_gain_N = np.where(speech_active_N, level_N / np.sqrt(speech_power_N), 1 / 32768)
    noise_level_N = np.where(speech_active_N, level_N * noise_to_speech_N, level_N)
    noise_gain_N = np.where(noise_active_N, noise_level_N / np.sqrt(np.maximum(noise_power_N, 1.0)), 0.0)
    return np.stack([speech_gain_N, noise_gain_N]), np.stack([speech_active_N, noise_active_N])


def _speech_power(
    energy_NF: FloatArray64,
    params: Sequence[MixtureParams],
    active_floor_N: npt.NDArray[np.int64],
    num_samples: int,
) -> tuple[FloatArray64, BoolArray]:
    """Mean square (N,) of the speech that the SNR refers to (1 without any), and whether there is any."""
    num_frames = energy_NF.shape[1]
    frame_samples_F = np.full(num_frames, frame_length(params[0].sample_rate) if params else 1)
    frame_samples_F[-1:] = num_samples - frame_samples_F[:-1].sum()
    is_speech_NF = energy_NF >= np.maximum(active_floor_N, 1)[:, None]
    min_active = min(round(_MIN_ACTIVE_S / FRAME_S), num_frames)
    active_N = is_speech_NF.sum(axis=1) >= min_active
    over_clip_N = np.array([draw.snr_over == "clip" for draw in params], np.bool_)
    valid_N = np.array([draw.valid_samples for draw in params], np.int64)
    energy_N = np.where(over_clip_N, energy_NF.sum(axis=1), (energy_NF * is_speech_NF).sum(axis=1))
    count_N = np.where(over_clip_N, valid_N, is_speech_NF @ frame_samples_F)
    return np.where(active_N, energy_N / np.maximum(count_N, 1), 1.0), active_N


def _apply(
    speech_nT: Int16Array,
    noise_nT: Int16Array,
    gain_2n: FloatArray64,
    noisy_nT: FloatArray,
    clean_nT: FloatArray,
) -> None:
    """clean = speech x gain, noisy = clean + noise x gain, into the arrays given."""
    speech_gain_n1, noise_gain_n1 = gain_2n.astype(np.float32)[:, :, None]
    np.multiply(speech_nT, speech_gain_n1, out=clean_nT)
    np.multiply(noise_nT, noise_gain_n1, out=noisy_nT)
    noisy_nT += clean_nT


def _peak(x_nT: FloatArray) -> FloatArray:
    return np.maximum(x_nT.max(axis=1), -x_nT.min(axis=1))


def _between(bounds: tuple[float, float], position: float) -> float:
    return bounds[0] + (bounds[1] - bounds[0]) * position
