"""The draw of what is done to a mixture beyond speech, noise and levels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ww_data.mixing.augment import AugmentConfig, Range
from ww_data.mixing.equaliser import Biquad, BiquadKind, mel_of, mel_to_hz

# Speeds are multiples of one over this, so that resampling to them is quick.
SPEED_STEPS = 40
_MEL_FROM_HZ = 40.0  # band masks lie above


class Echo(NamedTuple):
    """Trains of echoes. `jitter_key` stands for the unevenness of their delays and gains."""

    initial: float
    delay_s: float
    rt60_s: float
    kept: float
    jitter_key: int


class FurtherNoise(NamedTuple):
    """One more noise of the bank: `level_db` relative to the first. `noise_start` in samples."""

    noise_index: int
    noise_start: int
    level_db: float


class GainChange(NamedTuple):
    """From 0 dB to `gain_db`, beginning at the part `position` of the crop, within `seconds`."""

    gain_db: float
    position: float
    seconds: float


class Dropouts(NamedTuple):
    """The part `share` of all packets is lost; `packets_key` stands for which."""

    share: float
    packets_key: int


class Quantisation(NamedTuple):
    """To 2**bits values, evenly or on the mu-law."""

    bits: int
    mu_law: bool


class Rumble(NamedTuple):
    """Sound below hearing, of `level_dbfs`; `tones_key` stands for what it is made of."""

    level_dbfs: float
    tones_key: int


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What was drawn for one mixture; None, or what does nothing, where an effect was not."""

    room_index: int | None = None
    early_ms: float = 50.0
    echo: Echo | None = None
    further_noises: tuple[FurtherNoise, ...] = ()
    noise_only: bool = False
    clean_only: bool = False
    gain_change: GainChange | None = None
    biquads: tuple[Biquad, ...] = ()
    pass_band_hz: Range | None = None
    masked_band_hz: Range | None = None
    clipping_db: float | None = None
    dropouts: Dropouts | None = None
    quantisation: Quantisation | None = None
    rumble: Rumble | None = None


# One uniform number each, always all of them: changing one probability leaves the other draws as they are.
# New ones are added at the end.
DRAWS = (
    *("remix", "speed", "speed_factor", "room", "room_index"),
    *("echo", "echo_initial", "echo_delay_ms", "echo_rt60_s", "echo_jitter"),
    *("second_noise", "second_index", "second_start", "second_db"),
    *("third_noise", "third_index", "third_start", "third_db", "content"),
    *("gain_change", "gain_change_db", "gain_change_position", "gain_change_s"),
    *("equaliser", "low_shelf_hz", "low_shelf_db", "peak_hz", "peak_db", "peak_q"),
    *("high_shelf_hz", "high_shelf_db"),
    *("telephone", "low_pass", "low_pass_hz", "band_mask", "band_mask_width", "band_mask_position"),
    *("clipping", "clipping_db", "dropouts", "dropout_share", "dropout_packets"),
    *("quantisation", "quantisation_bits", "quantisation_mu_law"),
    *("rumble", "rumble_dbfs", "rumble_tones"),
)
Draws = dict[str, float]


def between(bounds: Range, position: float) -> float:
    """The value at a position (0 to 1) within bounds."""
    return bounds[0] + (bounds[1] - bounds[0]) * position


def draw_speed(config: AugmentConfig, u: Draws) -> float:
    """How much faster speech is played: a multiple of 1/40; 1 where it stays as it is."""
    if u["speed"] >= config.chances["speed"]:
        return 1.0
    return round(between(config.speed_factor, u["speed_factor"]) * SPEED_STEPS) / SPEED_STEPS


def noise_crop(u_start: float, noise_length: int, num_samples: int) -> int:
    """Where a crop of noise starts. A clip that is long enough is never looped; a shorter one may start anywhere."""
    num_starts = noise_length - num_samples + 1 if noise_length >= num_samples else noise_length
    return int(u_start * num_starts)


def draw_effects(
    config: AugmentConfig,
    u: Draws,
    *,
    num_samples: int,
    sample_rate: int,
    noise_lengths: npt.NDArray[np.int64],
    num_rooms: int,
) -> Augmentation | None:
    """The effects on one mixture from a uniform number for each of `DRAWS`; None if there are none."""
    found: dict[str, object] = {}
    chances = config.chances
    if num_rooms and u["room"] < chances["room"]:
        found.update(room_index=int(u["room_index"] * num_rooms), early_ms=config.early_ms)
    elif u["echo"] < chances["echo"]:
        found["echo"] = Echo(
            between(config.echo_initial, u["echo_initial"]),
            between(config.echo_delay_ms, u["echo_delay_ms"]) / 1000,
            between(config.echo_rt60_s, u["echo_rt60_s"]),
            config.echo_kept,
            _key(u["echo_jitter"]),
        )
    if u["second_noise"] < chances["second_noise"]:
        ranks = ("second", "third") if u["third_noise"] < chances["third_noise"] else ("second",)
        noises = []
        for rank in ranks:
            index = int(u[f"{rank}_index"] * len(noise_lengths))
            start = noise_crop(u[f"{rank}_start"], int(noise_lengths[index]), num_samples)
            noises.append(FurtherNoise(index, start, between(config.further_noise_db, u[f"{rank}_db"])))
        found["further_noises"] = tuple(noises)
    if u["content"] < chances["noise_only"]:
        found["noise_only"] = True
    elif u["content"] >= 1 - chances["clean_only"]:
        found["clean_only"] = True
    if u["gain_change"] < chances["gain_change"]:
        found["gain_change"] = GainChange(
            between(config.gain_change_db, u["gain_change_db"]),
            u["gain_change_position"],
            between(config.gain_change_s, u["gain_change_s"]),
        )
    _draw_filters(config, u, sample_rate, found)
    _draw_noisy_side(config, u, found)
    return Augmentation(**found) if found else None  # type: ignore[arg-type]


def _draw_filters(config: AugmentConfig, u: Draws, sample_rate: int, found: dict[str, object]) -> None:
    chances, nyquist_hz = config.chances, sample_rate / 2
    if u["equaliser"] < chances["equaliser"]:
        highest_hz = min(0.8 * nyquist_hz, 8000.0)

        def biquad(kind: BiquadKind, low_hz: float, high_hz: float, q: float) -> Biquad:
            name = kind.replace(" ", "_")
            hz = low_hz * math.pow(high_hz / low_hz, u[f"{name}_hz"])
            return Biquad(kind, hz, between(config.equaliser_db, u[f"{name}_db"]), q)

        found["biquads"] = (
            biquad("low shelf", 60.0, 400.0, 0.7),
            biquad("peak", 200.0, 0.8 * highest_hz, 0.5 + 2.5 * u["peak_q"]),
            biquad("high shelf", 0.3 * highest_hz, highest_hz, 0.7),
        )
    if u["telephone"] < chances["telephone"]:
        found["pass_band_hz"] = (300.0, min(3400.0, nyquist_hz))
    elif u["low_pass"] < chances["low_pass"]:
        found["pass_band_hz"] = (0.0, min(between(config.low_pass_hz, u["low_pass_hz"]), nyquist_hz))
    if u["band_mask"] < chances["band_mask"]:
        lowest, highest = mel_of(_MEL_FROM_HZ), mel_of(nyquist_hz)
        width = (highest - lowest) * config.band_mask_width * u["band_mask_width"]
        low = lowest + (highest - lowest - width) * u["band_mask_position"]
        found["masked_band_hz"] = (mel_to_hz(low), mel_to_hz(low + width))


def _draw_noisy_side(config: AugmentConfig, u: Draws, found: dict[str, object]) -> None:
    chances = config.chances
    if u["clipping"] < chances["clipping"]:
        found["clipping_db"] = between(config.clipping_db, u["clipping_db"])
    if u["dropouts"] < chances["dropouts"]:
        share = between(config.dropout_share, u["dropout_share"])
        found["dropouts"] = Dropouts(share, _key(u["dropout_packets"]))
    if u["quantisation"] < chances["quantisation"]:
        low, high = config.quantisation_bits
        bits = low + int((high - low + 1) * u["quantisation_bits"])
        found["quantisation"] = Quantisation(bits, u["quantisation_mu_law"] < 0.5)
    if u["rumble"] < chances["rumble"]:
        found["rumble"] = Rumble(between(config.rumble_dbfs, u["rumble_dbfs"]), _key(u["rumble_tones"]))


def _key(uniform: float) -> int:
    """The 53 bits that a uniform number was made of."""
    return int(uniform * (1 << 53))
