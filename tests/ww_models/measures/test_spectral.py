"""Segmental SNR, LLR and WSS, against their authors' code in another's hands and by hand; the spectral distance."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from scipy.linalg import solve_toeplitz, toeplitz

from ww_models.measures import spectral
from ww_models.measures.spectral import (
    log_likelihood_ratio,
    lsd_db,
    seg_snr_db,
    weighted_spectral_slope,
)


def voice(rate: int) -> tuple[np.ndarray, np.ndarray]:
    """A second of three syllables with a little hiss, and the same in more of it."""
    rng = np.random.default_rng(1)
    t = np.arange(rate) / rate
    partials = sum(np.sin(2 * np.pi * 130 * k * t) / k for k in range(1, 30 if rate > 8000 else 25))
    clean_T = 0.1 * partials * np.clip(np.sin(2 * np.pi * 3 * t), 0.05, None)
    clean_T += 0.001 * rng.standard_normal(rate)
    return clean_T, clean_T + 0.02 * rng.standard_normal(rate)


# What the port of the published code to Python that pysepm is gives for these signals.
PUBLISHED = {
    16_000: (-0.8401042273, 1.8458930936, 32.9708637846),
    8_000: (-0.9093125357, 1.1488685120, 37.3765730918),
}


@pytest.mark.parametrize("rate", PUBLISHED)
def test_they_are_those_of_the_published_code(rate: int) -> None:
    clean_T, noisy_T = voice(rate)
    found = [
        measure(clean_T, noisy_T, rate)
        for measure in (seg_snr_db, log_likelihood_ratio, weighted_spectral_slope)
    ]
    assert found == pytest.approx(PUBLISHED[rate], rel=1e-6)


def test_llr_is_the_ratio_of_prediction_errors() -> None:
    """One frame that counts, from the definition with scipy's solver."""
    clean_T, noisy_T = (each[4000 : 4000 + 480 + 120] for each in voice(16_000))
    window = np.hanning(482)[1:-1]

    def lags(x_T: np.ndarray) -> np.ndarray:
        frame = x_T[:480] * window
        return np.array([frame[: 480 - lag] @ frame[lag:] for lag in range(17)])

    def predictor(r: np.ndarray) -> np.ndarray:
        return np.concatenate([[1.0], -solve_toeplitz(r[:-1], r[1:])])

    of_clean, of_noisy, covariance = (
        predictor(lags(clean_T)),
        predictor(lags(noisy_T)),
        toeplitz(lags(clean_T)),
    )
    expected = math.log((of_noisy @ covariance @ of_noisy) / (of_clean @ covariance @ of_clean))
    assert expected > 0.1
    assert log_likelihood_ratio(clean_T, noisy_T, 16_000) == pytest.approx(expected, rel=1e-6)


def test_segmental_snr_by_hand() -> None:
    clean_T, _ = voice(16_000)
    assert seg_snr_db(clean_T, 0.9 * clean_T, 16_000) == pytest.approx(20, abs=1e-6)  # in every frame
    assert seg_snr_db(clean_T, clean_T, 16_000) == 35
    assert seg_snr_db(clean_T, -9 * clean_T, 16_000) == -10


def test_a_gain_is_no_spectral_change_but_a_distance() -> None:
    clean_T, noisy_T = voice(16_000)
    assert log_likelihood_ratio(clean_T, 2 * clean_T, 16_000) == pytest.approx(0, abs=1e-9)
    assert weighted_spectral_slope(clean_T, 2 * clean_T, 16_000) == pytest.approx(0, abs=1e-9)
    assert lsd_db(noisy_T, 2 * noisy_T, 16_000) == pytest.approx(20 * math.log10(2), abs=1e-3)
    assert lsd_db(clean_T, clean_T, 16_000) == 0


@pytest.mark.parametrize("measure", [seg_snr_db, log_likelihood_ratio, weighted_spectral_slope, lsd_db])
@pytest.mark.parametrize("num_samples", [0, 1, 400, 480])
def test_too_short_is_nan(measure, num_samples: int) -> None:  # type: ignore[no-untyped-def]
    clean_T, noisy_T = (each[:num_samples] for each in voice(16_000))
    assert math.isnan(measure(clean_T, noisy_T, 16_000))


def test_digital_silence_in_either_side_is_no_accident() -> None:
    clean_T, noisy_T = voice(16_000)
    for half in (slice(None, 8000), slice(8000, None)):
        with_gap_T = clean_T.copy()
        with_gap_T[half] = 0
        for pair in ((with_gap_T, noisy_T), (clean_T, with_gap_T)):
            for measure in (seg_snr_db, log_likelihood_ratio, weighted_spectral_slope, lsd_db):
                assert math.isfinite(measure(*pair, 16_000))


@pytest.mark.parametrize("measure", [seg_snr_db, log_likelihood_ratio, weighted_spectral_slope, lsd_db])
def test_frames_in_pieces_are_all_frames(measure, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    signals = voice(16_000)
    expected = measure(*signals, 16_000)
    for frames_at_once in (1, 7, 64):
        monkeypatch.setattr(spectral, "_FRAMES_AT_ONCE", frames_at_once)
        assert measure(*signals, 16_000) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("measure", [seg_snr_db, log_likelihood_ratio, weighted_spectral_slope, lsd_db])
def test_memory_does_not_grow_with_frames(measure) -> None:  # type: ignore[no-untyped-def]
    """Of ten minutes, all frames of one side would take 0.3 GB, and their spectra as much again."""
    clean_T, noisy_T = (np.tile(each, 600) for each in voice(16_000))
    tracemalloc.start()
    measure(clean_T, noisy_T, 16_000)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 250e6
