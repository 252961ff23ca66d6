"""Measures of quality, against other implementations and at the edges."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio, signal_noise_ratio

from tests.ww_models.samples import noise, speech_like
from ww_models import Quality, score_clip, si_sdr_db, snr_db
from ww_models.quality import MEASURES, VALIDATION_MEASURES


@pytest.fixture(scope="module")
def clean_T() -> np.ndarray:
    return speech_like(32_000)[0, 0].numpy()


@pytest.fixture(scope="module")
def noise_T() -> np.ndarray:
    return noise(32_000, rms=0.02)[0, 0].numpy()


def test_ratios_agree_with_torchmetrics() -> None:
    clean = speech_like(8000, batch=4)[:, 0]
    estimate = 0.7 * clean + noise(8000, batch=4)[:, 0]
    torch.testing.assert_close(
        si_sdr_db(clean, estimate), scale_invariant_signal_distortion_ratio(estimate, clean)
    )
    torch.testing.assert_close(snr_db(clean, estimate), signal_noise_ratio(estimate, clean))


def test_ratios_take_numpy_too(clean_T: np.ndarray, noise_T: np.ndarray) -> None:
    both = torch.from_numpy(clean_T), torch.from_numpy(clean_T + noise_T)
    assert snr_db(clean_T, clean_T + noise_T) == snr_db(*both)


@pytest.mark.parametrize("snr", [-20.0, 0.0, 17.5])
def test_snr_is_the_one_that_was_mixed(snr: float, clean_T: np.ndarray, noise_T: np.ndarray) -> None:
    gain = np.sqrt(np.mean(clean_T**2) / np.mean(noise_T**2) / 10 ** (snr / 10))
    assert float(snr_db(clean_T, clean_T + gain * noise_T)) == pytest.approx(snr, abs=1e-4)


def test_si_sdr_does_not_see_the_level(clean_T: np.ndarray, noise_T: np.ndarray) -> None:
    estimate_T = clean_T + noise_T
    assert float(si_sdr_db(clean_T, 0.01 * estimate_T) - si_sdr_db(clean_T, estimate_T)) == pytest.approx(
        0, abs=1e-3
    )
    assert snr_db(clean_T, 0.01 * estimate_T) < 1


def test_scores_agree_with_the_libraries(clean_T: np.ndarray, noise_T: np.ndarray) -> None:
    from pesq import pesq
    from pystoi import stoi

    estimate_T = clean_T + noise_T
    quality = score_clip(clean_T, estimate_T, 16_000)
    assert quality.pesq == pytest.approx(pesq(16_000, clean_T, estimate_T, "wb"), abs=1e-3)
    assert quality.stoi == pytest.approx(stoi(clean_T, estimate_T, 16_000), abs=1e-5)
    narrow = score_clip(clean_T[::2], estimate_T[::2], 8000)
    assert narrow.pesq == pytest.approx(pesq(8000, clean_T[::2], estimate_T[::2], "nb"), abs=1e-3)


def test_less_noise_scores_better(clean_T: np.ndarray, noise_T: np.ndarray) -> None:
    worse, better = (score_clip(clean_T, clean_T + gain * noise_T, 16_000) for gain in (3, 0.1))
    for measure in VALIDATION_MEASURES.values():
        assert measure.higher_is_better == (getattr(better, measure.name) > getattr(worse, measure.name))


def test_the_table_of_measures_names_all_that_is_scored() -> None:
    assert list(VALIDATION_MEASURES) == [field.name for field in dataclasses.fields(Quality)]
    assert all(name == measure.name for name, measure in MEASURES.items())
    assert [measure.label for measure in VALIDATION_MEASURES.values()] == [
        "PESQ",
        "STOI",
        "SNR dB",
        "SI-SDR dB",
    ]


def test_a_perfect_estimate_has_finite_scores(clean_T: np.ndarray) -> None:
    quality = score_clip(clean_T, clean_T, 16_000)
    assert quality.pesq > 4.6
    assert quality.stoi == pytest.approx(1, abs=1e-6)
    assert quality.snr_db == quality.si_sdr_db == 100.0


def all_nan(quality: Quality) -> bool:
    return all(math.isnan(value) for value in vars(quality).values())


def test_silence_is_nan_and_never_an_exception(clean_T: np.ndarray) -> None:
    silent_T = np.zeros_like(clean_T)
    assert all_nan(score_clip(silent_T, clean_T, 16_000))
    assert all_nan(score_clip(silent_T, silent_T, 16_000))
    assert all_nan(score_clip(silent_T[:0], silent_T[:0], 16_000))
    muted = score_clip(clean_T, silent_T, 16_000)
    assert math.isnan(muted.pesq)
    assert math.isnan(muted.stoi)
    assert math.isnan(muted.si_sdr_db)
    assert muted.snr_db == pytest.approx(0)


def test_a_broken_estimate_is_nan(clean_T: np.ndarray) -> None:
    broken_T = clean_T.copy()
    broken_T[7] = np.inf
    assert all_nan(score_clip(clean_T, broken_T, 16_000))


@pytest.mark.parametrize("num_samples", [1, 100, 3000, 6000])
def test_clips_too_short_for_a_measure_are_nan_in_it(
    num_samples: int, clean_T: np.ndarray, noise_T: np.ndarray
) -> None:
    part = slice(1000, 1000 + num_samples)
    quality = score_clip(clean_T[part], (clean_T + noise_T)[part], 16_000)
    assert math.isfinite(quality.snr_db)
    if num_samples <= 3000:
        assert math.isnan(quality.pesq)
        assert math.isnan(quality.stoi)


def test_lengths_that_differ_are_an_error(clean_T: np.ndarray) -> None:
    with pytest.raises(ValueError, match="equal length"):
        score_clip(clean_T, clean_T[:-1], 16_000)
