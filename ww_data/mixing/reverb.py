"""Speech in a room, or with echoes: what is heard, and what of it stays in the clean target."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ww_data.corpus.rooms import RoomResponse
from ww_data.dsp import FloatArray, convolve, fft_length, response_of
from ww_data.mixing.draw_effects import Echo
from ww_data.randomness import scattered

# Echoes come in trains that are uneven in their own ways; a train ends 60 dB below its first echo.
_NUM_TRAINS = 3
_JITTER = 0.1


def in_room(speech_T: npt.NDArray[Any], room: RoomResponse) -> tuple[FloatArray, FloatArray]:
    """(heard_T, target_T): the speech with the whole response and with its early part, direct paths in place."""
    heard_NT, target_NT = convolve(
        (speech_T,), (room.full_F, room.early_F), room.fft_samples, room.num_before
    )
    return heard_NT[0], target_NT[0]


def with_echo(
    speech_T: npt.NDArray[Any], noise_T: npt.NDArray[Any], echo: Echo, sample_rate: int
) -> tuple[FloatArray, FloatArray, FloatArray, float]:
    """(heard_T, target_T, noise_T, energy) with decaying echoes, of which the target keeps the part `echo.kept`.

    `energy`: the power that a sound of power 1 has with its echoes. After RevEcho of `denoiser` (Défossez et al. 2020,
    arXiv 2006.12847).
    """
    num_samples = len(speech_T)
    kernel_L = echo_kernel(echo, sample_rate)[:num_samples]
    fft_samples = fft_length(num_samples, 0, len(kernel_L))
    response_F = response_of(kernel_L, 0, fft_samples)
    ((speech_echoes_T, noise_echoes_T),) = convolve((speech_T, noise_T), (response_F,), fft_samples, 0)
    energy = 1.0 + float(np.square(kernel_L, dtype=np.float64).sum())
    target_T = speech_T + np.float32(echo.kept) * speech_echoes_T
    return speech_T + speech_echoes_T, target_T, noise_T + noise_echoes_T, energy


def echo_kernel(echo: Echo, sample_rate: int) -> FloatArray:
    """The echoes (L,) of a single sample at 0, which itself is not among them."""
    per_echo = math.pow(10, -3 * echo.delay_s / echo.rt60_s)
    per_train = math.ceil(-3 / math.log10(per_echo)) + 1
    jitter_2NE = 1 + _JITTER * (2 * scattered(echo.jitter_key, 2 * _NUM_TRAINS * per_train) - 1)
    delay_NE, decay_NE = jitter_2NE.reshape(2, _NUM_TRAINS, per_train)
    at_NE = np.cumsum(1 + (delay_NE * (echo.delay_s * sample_rate)).astype(np.int64), axis=1)
    # The first echo has the initial gain; each further one is weaker by the attenuation before it.
    gain_NE = echo.initial * np.power(per_echo, np.cumsum(decay_NE, axis=1) - decay_NE[:, :1])
    kernel_L = np.zeros(int(at_NE.max()) + 1, np.float64)
    np.add.at(kernel_L, at_NE.ravel(), gain_NE.ravel())
    return kernel_L.astype(np.float32)
