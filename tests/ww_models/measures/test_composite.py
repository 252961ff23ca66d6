"""CSIG, CBAK and COVL: the regressions of the paper, and what is known of them."""

from __future__ import annotations

import math

import pytest

from tests.ww_models.measures.test_spectral import PUBLISHED, voice
from ww_models.measures.composite import combine, composite_scores
from ww_models.perceptual import pesq_score


def test_the_regressions_by_hand() -> None:
    found = combine(pesq=2.0, llr=0.5, wss=30.0, seg_snr_db=5.0)
    assert found == pytest.approx({"csig": 3.5145, "cbak": 2.695, "covl": 2.738})


def test_clean_speech_has_five_of_all_and_ruin_has_one() -> None:
    assert set(combine(pesq=4.64, llr=0.0, wss=0.0, seg_snr_db=35.0).values()) == {5.0}
    assert set(combine(pesq=1.0, llr=4.0, wss=150.0, seg_snr_db=-10.0).values()) == {1.0}


def test_of_a_clip_they_are_the_published_parts_put_together() -> None:
    clean_T, noisy_T = voice(16_000)
    seg_snr_db, llr, wss = PUBLISHED[16_000]
    pesq = pesq_score(clean_T, noisy_T, 16_000)
    expected = combine(pesq=pesq, llr=llr, wss=wss, seg_snr_db=seg_snr_db)
    assert composite_scores(clean_T, noisy_T, 16_000, pesq) == pytest.approx(expected, rel=1e-6)


def test_narrow_band_goes_in_on_the_old_scale() -> None:
    """P.862.1: 0.999 + 4 / (1 + exp(4.6607 - 1.4945 x)) is the score of a raw 2.5."""
    clean_T, noisy_T = voice(8_000)
    seg_snr_db, llr, wss = PUBLISHED[8_000]
    score = 0.999 + 4 / (1 + math.exp(4.6607 - 1.4945 * 2.5))
    expected = combine(pesq=2.5, llr=llr, wss=wss, seg_snr_db=seg_snr_db)
    assert composite_scores(clean_T, noisy_T, 8_000, score) == pytest.approx(expected, rel=1e-6)


def test_without_pesq_there_are_none() -> None:
    clean_T, noisy_T = voice(16_000)
    assert all(math.isnan(value) for value in composite_scores(clean_T, noisy_T, 16_000, math.nan).values())
    assert all(math.isnan(value) for value in composite_scores(clean_T, noisy_T, 11_025, 2.0).values())
