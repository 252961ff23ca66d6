"""How much speech and noise are amplified so that a mixture has its SNR and its level. Silence is never divided by."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ww_data.dsp import FRAME_S, frame_length
from ww_data.mixing.draw import MixtureDraw

FloatArray64 = npt.NDArray[np.float64]

# Speech is active if it is so for this long; a word's last 20 ms alone would be blown up to the level of speech.
_MIN_ACTIVE_S = 0.1


class Gains(NamedTuple):
    """Gains from PCM to full scale +-1. Without active speech it stays as recorded and the noise takes the level."""

    speech: float
    noise: float
    speech_active: bool
    noise_active: bool


def gains(
    speech_energy_M: FloatArray64, noise_energy_M: FloatArray64, draw: MixtureDraw, active_floor: float
) -> Gains:
    """From the energies (M,) of 20 ms frames of PCM; those of speech count from `active_floor` on."""
    speech_power = _speech_power(speech_energy_M, draw, active_floor)
    noise_power = math.fsum(noise_energy_M.tolist()) / draw.num_samples
    noise_active = noise_power >= 1.0  # below, there is nothing but rounding
    level = 10 ** (draw.level_dbfs / 20)
    if speech_power > 0:
        speech_gain, noise_level = level / math.sqrt(speech_power), level * 10 ** (draw.snr_db / -20)
    else:
        speech_gain, noise_level = 1 / 32768, level
    noise_gain = noise_level / math.sqrt(noise_power) if noise_active else 0.0
    return Gains(speech_gain, noise_gain, speech_power > 0, noise_active)


def _speech_power(energy_M: FloatArray64, draw: MixtureDraw, active_floor: float) -> float:
    """Mean square of the speech that the SNR refers to; 0 without any."""
    energies = energy_M.tolist()  # of few frames: quicker than arrays
    floor = max(active_floor, 1)
    active = [energy for energy in energies if energy >= floor]
    if not active or len(active) < min(round(_MIN_ACTIVE_S / FRAME_S), len(energies)):
        return 0.0
    if draw.snr_over == "clip":
        return math.fsum(energies) / draw.valid_samples
    frame = frame_length(draw.sample_rate)
    count = len(active) * frame
    if energies[-1] >= floor:
        count -= len(energies) * frame - draw.num_samples  # the last frame may be a short one
    return math.fsum(active) / count
