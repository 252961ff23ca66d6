"""Mixing speech with noise. Randomness is drawn first (`draw_mixture`) and applied then (`mix`).

Order: crop; speed; room or echo; noise at its SNR, level; on both sides gain change and filters; on the noisy side
alone rumble, clipping, dropouts, quantisation. Up to the filters `noisy - clean` is the scaled noise (and, of a room,
what is to be removed), at exactly the SNR that was drawn; nothing is ever divided by silence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ww_data.audio import resample
from ww_data.corpus.banks import NoiseBank
from ww_data.corpus.rooms import RoomBank, RoomResponse
from ww_data.corpus.segments import SegmentBlock, SegmentRows
from ww_data.dsp import FloatArray, Int16Array, frame_energies, frame_length
from ww_data.mixing.channel import clipped, gain_over_time, quantised, rumbling, with_dropouts
from ww_data.mixing.draw import MixingConfig, MixtureDraw, draw_mixture
from ww_data.mixing.draw_effects import SPEED_STEPS, Augmentation
from ww_data.mixing.equaliser import apply_gain_curve, gain_curve
from ww_data.mixing.levels import gains
from ww_data.mixing.reverb import in_room, with_echo
from ww_data.randomness import PhiloxStreams

BoolArray = npt.NDArray[np.bool_]
PcmArray = npt.NDArray[Any]  # int16, or float32 of the same scale

# Peaks of mixtures that would leave full scale are brought down to this.
_PEAK = 0.999


@dataclass(frozen=True, kw_only=True)
class Mixtures:
    """A block of N mixtures of T samples, float32 at full scale +-1, and their draws.

    `speech_active_N` is False where the crop holds no speech: the clean side is then as recorded and the noise at the
    drawn level. `noise_active_N` is False where the noise is silent: noisy equals clean.
    """

    noisy_NT: FloatArray
    clean_NT: FloatArray
    draws: Sequence[MixtureDraw]
    snr_db_N: npt.NDArray[np.float64]
    speech_active_N: BoolArray
    noise_active_N: BoolArray


def mix_segments(
    segments: SegmentBlock | SegmentRows,
    epochs_N: npt.ArrayLike,
    bank: NoiseBank,
    config: MixingConfig,
    seed: int,
    rooms: RoomBank | None = None,
) -> Mixtures:
    """Draw and mix each segment, for its own epoch, with noise from the bank. Rows are independent."""
    num_rows, segment_samples = len(segments), segments.segment_samples
    epochs = np.broadcast_to(np.asarray(epochs_N), num_rows).tolist()
    num_samples = config.num_samples(segment_samples, bank.sample_rate)
    noisy_NT, clean_NT = (np.empty((num_rows, num_samples), np.float32) for _ in range(2))
    active_2N = np.empty((2, num_rows), np.bool_)
    draws, streams = [], PhiloxStreams()
    columns = (segments.key_N, segments.valid_samples_N, segments.start_N, segments.active_floor_N)
    for row, (key, valid_samples, start, active_floor) in enumerate(
        zip(*(column.tolist() for column in columns), strict=True)
    ):
        draw = draw_mixture(
            streams.at(seed, epochs[row], key),
            config,
            valid_samples=valid_samples,
            sample_rate=bank.sample_rate,
            noise_lengths=bank.lengths_N,
            segment_samples=segment_samples,
            own_noise=bank.own_noise(segments.clip_id_N[row], start) if config.remix < 1 else None,
            num_rooms=len(rooms) if rooms is not None else 0,
        )
        active_2N[:, row] = _mix_into(
            noisy_NT[row],
            clean_NT[row],
            segments.pcm_NT[row][draw.crop_start : draw.crop_start + draw.source_samples],
            bank.crop(draw.noise_index, draw.noise_start, num_samples),
            draw,
            active_floor,
            *_more_sources(draw, bank, rooms),
        )
        draws.append(draw)
    return Mixtures(
        noisy_NT=noisy_NT,
        clean_NT=clean_NT,
        draws=draws,
        snr_db_N=np.array([draw.snr_db for draw in draws], np.float64),
        speech_active_N=active_2N[0],
        noise_active_N=active_2N[1],
    )


def mix(
    speech_T: Int16Array,
    noise_T: Int16Array,
    draw: MixtureDraw,
    *,
    active_floor: int = 0,
    further_noises: Sequence[Int16Array] = (),
    room: RoomResponse | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Mix a crop of speech with as much noise, both int16 PCM: (noisy_T, clean_T) float32 at full scale +-1.

    `speech_T` has `draw.source_samples`. `active_floor`: frames of at least this energy are speech (0: every frame
    with any energy). `further_noises`, `room`: what the augmentation names by index.
    """
    expected = (draw.source_samples, draw.num_samples)
    if (len(speech_T), len(noise_T)) != expected or speech_T.dtype != np.int16 or noise_T.dtype != np.int16:
        raise ValueError(
            f"speech is {speech_T.dtype} {speech_T.shape} and noise {noise_T.dtype} {noise_T.shape}: "
            f"expected int16 PCM of {expected[0]} and {expected[1]} samples"
        )
    noisy_T, clean_T = np.empty(draw.num_samples, np.float32), np.empty(draw.num_samples, np.float32)
    _mix_into(noisy_T, clean_T, speech_T, noise_T, draw, active_floor, further_noises, room)
    return noisy_T, clean_T


def _more_sources(
    draw: MixtureDraw, bank: NoiseBank, rooms: RoomBank | None
) -> tuple[list[Int16Array], RoomResponse | None]:
    """The further noises and the room that a draw names."""
    augmentation = draw.augmentation
    if augmentation is None:
        return [], None
    further = augmentation.further_noises
    noises = [bank.crop(noise.noise_index, noise.noise_start, draw.num_samples) for noise in further]
    if augmentation.room_index is None or rooms is None:
        return noises, None
    return noises, rooms.response(augmentation.room_index, draw.num_samples, augmentation.early_ms)


def _mix_into(
    noisy_T: FloatArray,
    clean_T: FloatArray,
    speech_T: Int16Array,
    noise_T: Int16Array,
    draw: MixtureDraw,
    active_floor: float,
    further_noises: Sequence[Int16Array],
    room: RoomResponse | None,
) -> tuple[bool, bool]:
    """Mixes into the arrays given; whether the speech and the noise are active."""
    augmentation, frame = draw.augmentation, frame_length(draw.sample_rate)
    sources = _Sources(_at_speed(speech_T, draw), None, noise_T, active_floor)
    if augmentation is not None:
        sources = _augmented(sources, draw, augmentation, further_noises, room)
    speech_energy_M, noise_energy_M = (
        frame_energies(x_T, frame) for x_T in (sources.heard_T, sources.noise_T)
    )
    gain = gains(speech_energy_M, noise_energy_M, draw, sources.active_floor)
    _add(noisy_T, clean_T, sources, gain.speech, gain.noise)
    peak = max(_peak(noisy_T), _peak(clean_T))
    if peak > 1.0:
        _add(noisy_T, clean_T, sources, gain.speech * (_PEAK / peak), gain.noise * (_PEAK / peak))
    if augmentation is not None:
        _through_channel(noisy_T, clean_T, augmentation, draw.sample_rate)
    return gain.speech_active, gain.noise_active


class _Sources(NamedTuple):
    """What is added up, as PCM. `target_T`: what the clean side holds of the speech; None: just what is heard."""

    heard_T: PcmArray
    target_T: PcmArray | None
    noise_T: PcmArray
    active_floor: float


def _at_speed(speech_T: Int16Array, draw: MixtureDraw) -> PcmArray:
    if draw.speed == 1.0 and len(speech_T) == draw.num_samples:
        return speech_T
    played_T = np.zeros(draw.num_samples, np.float32)
    rate = 1000 * SPEED_STEPS  # any two rates in the ratio of the speed
    resampled_T = resample(speech_T, round(rate * draw.speed), rate)[: draw.num_samples]
    played_T[: len(resampled_T)] = resampled_T  # a whole segment that is played faster ends early
    return played_T


def _augmented(
    sources: _Sources,
    draw: MixtureDraw,
    augmentation: Augmentation,
    further_noises: Sequence[Int16Array],
    room: RoomResponse | None,
) -> _Sources:
    """The sources of one mixture with room or echo, and with all noises in one."""
    heard_T, target_T, noise_T, active_floor = sources
    if augmentation.noise_only:
        heard_T = np.zeros_like(heard_T)
    if further_noises:
        noise_T = _sum_of_noises(noise_T, further_noises, augmentation)
    if augmentation.clean_only:
        noise_T = np.zeros_like(noise_T)
    if room is not None:
        heard_T, target_T = in_room(heard_T, room)
        active_floor *= room.energy  # reverberation lifts speech and its pauses alike
    elif augmentation.echo is not None:
        echo = augmentation.echo
        heard_T, target_T, noise_T, energy = with_echo(heard_T, noise_T, echo, draw.sample_rate)
        active_floor *= energy
    return _Sources(heard_T, target_T, noise_T, active_floor)


def _sum_of_noises(
    noise_T: PcmArray, further_noises: Sequence[Int16Array], augmentation: Augmentation
) -> FloatArray:
    """The first noise with the others at their levels relative to it; beside silence they stay as they are."""
    power = _power(noise_T)
    sum_T = noise_T.astype(np.float32)
    for further_T, drawn in zip(further_noises, augmentation.further_noises, strict=True):
        further_power = _power(further_T)
        gain = 1.0
        if power >= 1 and further_power >= 1:
            gain = math.sqrt(power / further_power) * 10 ** (drawn.level_db / 20)
        sum_T += further_T * np.float32(gain)
    return sum_T


def _add(
    noisy_T: FloatArray, clean_T: FloatArray, sources: _Sources, speech_gain: float, noise_gain: float
) -> None:
    """clean = target x gain, noisy = heard x gain + noise x gain, into the arrays given."""
    heard_T, target_T, noise_T, _ = sources
    np.multiply(heard_T if target_T is None else target_T, np.float32(speech_gain), out=clean_T)
    np.multiply(noise_T, np.float32(noise_gain), out=noisy_T)
    noisy_T += clean_T if target_T is None else heard_T * np.float32(speech_gain)


def _through_channel(
    noisy_T: FloatArray, clean_T: FloatArray, augmentation: Augmentation, sample_rate: int
) -> None:
    """Linear effects on both sides, then those that spoil the noisy side alone."""
    if augmentation.gain_change is not None:
        gain_T = gain_over_time(augmentation.gain_change, len(noisy_T), sample_rate)
        noisy_T *= gain_T
        clean_T *= gain_T
    if augmentation.biquads or augmentation.pass_band_hz or augmentation.masked_band_hz:
        bands = augmentation.biquads, augmentation.pass_band_hz, augmentation.masked_band_hz
        gain_F = gain_curve(len(noisy_T), sample_rate, *bands)
        noisy_T[:], clean_T[:] = apply_gain_curve((noisy_T, clean_T), gain_F, sample_rate)
    if augmentation.rumble is not None:
        noisy_T += rumbling(augmentation.rumble, len(noisy_T), sample_rate)
    peak = max(_peak(noisy_T), _peak(clean_T))
    if peak > 1.0:
        noisy_T *= np.float32(_PEAK / peak)
        clean_T *= np.float32(_PEAK / peak)
    if augmentation.clipping_db is not None:
        noisy_T[:] = clipped(noisy_T, augmentation.clipping_db)
    if augmentation.dropouts is not None:
        noisy_T[:] = with_dropouts(noisy_T, augmentation.dropouts, sample_rate)
    if augmentation.quantisation is not None:
        noisy_T[:] = quantised(noisy_T, augmentation.quantisation)


def _peak(x_T: FloatArray) -> float:
    return max(float(x_T.max()), -float(x_T.min()))


def _power(pcm_T: Int16Array) -> float:
    return float(frame_energies(pcm_T, 1 << 10).sum()) / len(pcm_T)
