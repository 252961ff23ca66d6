"""Equaliser, band limits and masked bands: one gain for each frequency, phases stay. Both sides are filtered once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np

from ww_data.dsp import FloatArray, convolve, fft_length

BiquadKind = Literal["low shelf", "peak", "high shelf"]

# How long filters ring, before as well as after.
_RING_S = 0.03125
# How wide the edges of bands are: steeper ones ring for longer.
_EDGE_HZ = 120.0


class Biquad(NamedTuple):
    """A second-order filter: `gain_db` below, around or above `frequency_hz`."""

    kind: BiquadKind
    frequency_hz: float
    gain_db: float
    q: float


def mel_of(hz: float) -> float:
    """Mels of a frequency: 2595 log10(1 + f / 700)."""
    return 2595 * math.log10(1 + hz / 700)


def mel_to_hz(mel: float) -> float:
    """The frequency of a value in mels."""
    return 700 * (math.pow(10, mel / 2595) - 1)


def gain_curve(
    num_samples: int,
    sample_rate: int,
    biquads: Sequence[Biquad],
    pass_band_hz: tuple[float, float] | None,
    masked_band_hz: tuple[float, float] | None,
) -> FloatArray:
    """Gains (F,) from 0 Hz to half the sample rate, for `apply_gain_curve` on signals of `num_samples`."""
    hz_F, sine_squared_F = _grid(num_samples, sample_rate)
    gain_F = np.ones_like(hz_F)
    if biquads:
        above_F, below_F = np.ones_like(hz_F), np.ones_like(hz_F)
        for biquad in biquads:
            b, a = coefficients(biquad, sample_rate)
            above_F *= _power(b, sine_squared_F)
            below_F *= _power(a, sine_squared_F)
        gain_F *= np.sqrt(above_F / below_F)
    if pass_band_hz is not None:
        gain_F *= _band(hz_F, *pass_band_hz)
    if masked_band_hz is not None:
        gain_F *= 1 - _band(hz_F, *masked_band_hz)
    return gain_F


def apply_gain_curve(signals: Sequence[FloatArray], gain_F: FloatArray, sample_rate: int) -> FloatArray:
    """N signals (T,) of one length, filtered: (N, T). Nothing is shifted in time."""
    ring, fft_samples = _ring_and_fft_samples(len(signals[0]), sample_rate)
    return convolve(signals, [gain_F], fft_samples, ring)[0]


def _ring_and_fft_samples(num_samples: int, sample_rate: int) -> tuple[int, int]:
    ring = round(_RING_S * sample_rate)
    return ring, fft_length(num_samples, ring, ring)


def coefficients(biquad: Biquad, sample_rate: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(b, a), three each, not normalised.

    R. Bristow-Johnson, Cookbook formulae for audio equalizer biquad filter coefficients (W3C Audio EQ Cookbook).
    """
    amplitude = math.pow(10, biquad.gain_db / 40)
    omega = 2 * math.pi * biquad.frequency_hz / sample_rate
    cosine, alpha = math.cos(omega), math.sin(omega) / (2 * biquad.q)
    if biquad.kind == "peak":
        b = (1 + alpha * amplitude, -2 * cosine, 1 - alpha * amplitude)
        return b, (1 + alpha / amplitude, -2 * cosine, 1 - alpha / amplitude)
    side = 1.0 if biquad.kind == "low shelf" else -1.0
    root = 2 * math.sqrt(amplitude) * alpha
    plus, minus = amplitude + 1, amplitude - 1
    b = (
        amplitude * (plus - side * minus * cosine + root),
        side * 2 * amplitude * (minus - side * plus * cosine),
        amplitude * (plus - side * minus * cosine - root),
    )
    a = (
        plus + side * minus * cosine + root,
        -side * 2 * (minus + side * plus * cosine),
        plus + side * minus * cosine - root,
    )
    return b, a


def _power(c: Sequence[float], sine_squared_F: FloatArray) -> FloatArray:
    """|c0 + c1/z + c2/z²|² on the unit circle, from sin²(w/2), which is exact at low frequencies too."""
    linear = -4 * (c[0] * c[1] + 4 * c[0] * c[2] + c[1] * c[2])
    power_F = sine_squared_F * np.float32(16 * c[0] * c[2])
    power_F += np.float32(linear)
    power_F *= sine_squared_F
    power_F += np.float32((c[0] + c[1] + c[2]) ** 2)
    return power_F


def _band(hz_F: FloatArray, low_hz: float, high_hz: float) -> FloatArray:
    """1 within a band and 0 outside, with even edges around its limits; the band reaches 0 Hz if `low_hz` is 0."""
    rise_F = np.clip((hz_F - low_hz) / _EDGE_HZ + 0.5, 0, 1) if low_hz > 0 else np.ones_like(hz_F)
    return rise_F * np.clip((high_hz - hz_F) / _EDGE_HZ + 0.5, 0, 1)


@lru_cache(maxsize=4)
def _grid(num_samples: int, sample_rate: int) -> tuple[FloatArray, FloatArray]:
    """The frequencies (F,) of a gain curve, and the squared sines of half their angles."""
    _, fft_samples = _ring_and_fft_samples(num_samples, sample_rate)
    hz_F = np.arange(fft_samples // 2 + 1) * (sample_rate / fft_samples)
    return hz_F.astype(np.float32), np.square(np.sin(np.pi / sample_rate * hz_F)).astype(np.float32)
