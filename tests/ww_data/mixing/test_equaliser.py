"""Filters as gains over frequency."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ww_data.made_sounds import RATE, hiss
from ww_data.mixing.equaliser import Biquad, apply_gain_curve, gain_curve, mel_of, mel_to_hz


@pytest.mark.parametrize("kind", ["low shelf", "peak", "high shelf"])
@pytest.mark.parametrize("gain_db", [-9.0, 6.0])
def test_biquads_have_their_gain_where_it_belongs(kind: str, gain_db: float) -> None:
    curve_db = 20 * np.log10(gain_curve(RATE, RATE, [Biquad(kind, 1000.0, gain_db, 0.7)], None, None))
    at = lambda hz: curve_db[round(hz / (RATE / 2) * (len(curve_db) - 1))]  # noqa: E731
    expected = {
        "low shelf": (gain_db, gain_db / 2, 0),
        "peak": (0, gain_db, 0),
        "high shelf": (0, gain_db / 2, gain_db),
    }
    np.testing.assert_allclose([at(5), at(1000), at(7990)], expected[kind], atol=0.1)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 100), st.integers(1, 20000), st.floats(0, 4000), st.floats(100, 4000))
def test_filters_of_a_signal_do_what_the_curve_says(
    seed: int, num_samples: int, low_hz: float, width_hz: float
) -> None:
    x = np.random.default_rng(seed).standard_normal(num_samples).astype(np.float32)
    bands = [Biquad("peak", 2000.0, 6.0, 1.0)], (300.0, 3400.0), (low_hz, low_hz + width_hz)
    curve = gain_curve(num_samples, RATE, *bands)
    (same,) = apply_gain_curve((x,), np.ones_like(curve), RATE)
    np.testing.assert_allclose(same, x, atol=1e-5)
    filtered, scaled = apply_gain_curve((x, 2 * x), curve, RATE)
    np.testing.assert_allclose(scaled, 2 * filtered, atol=1e-5)
    # Against one FFT over the whole signal, with as much silence around it.
    num_fft = num_samples + 16000
    exact_curve = np.interp(np.fft.rfftfreq(num_fft), np.linspace(0, 0.5, len(curve)), curve)
    exact = np.fft.irfft(np.fft.rfft(x, num_fft) * exact_curve, num_fft)[:num_samples]
    assert np.sqrt(np.mean((filtered - exact) ** 2)) < 0.02 * np.sqrt(np.mean(x**2))


def test_bands_are_passed_and_masked() -> None:
    noise, sides = hiss(0, 2.0), {}
    for name, bands in {"telephone": ((300.0, 3400.0), None), "masked": (None, (1000.0, 2000.0))}.items():
        (sides[name],) = apply_gain_curve((noise,), gain_curve(len(noise), RATE, (), *bands), RATE)
    hz = np.fft.rfftfreq(len(noise), 1 / RATE)
    for name, low, high, is_kept in (
        ("telephone", 400, 3300, True),
        ("telephone", 0, 220, False),
        ("telephone", 3500, 8000, False),
        ("masked", 1100, 1900, False),
        ("masked", 0, 900, True),
        ("masked", 2100, 8000, True),
    ):
        within = (hz >= low) & (hz <= high)
        left = np.linalg.norm(np.fft.rfft(sides[name])[within]) / np.linalg.norm(np.fft.rfft(noise)[within])
        assert left == pytest.approx(1.0, abs=0.02) if is_kept else left < 0.02


@given(st.floats(0, 24000))
def test_mels_are_turned_back(hz: float) -> None:
    assert mel_to_hz(mel_of(hz)) == pytest.approx(hz, abs=1e-6)
