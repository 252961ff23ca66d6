"""STOI and ESTOI are pystoi's, at any rate."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pystoi import stoi

from tests.ww_models.samples import noise, speech_like
from ww_models.stoi import stoi_scores


@pytest.mark.parametrize("sample_rate", [8_000, 10_000, 16_000, 44_100, 48_000])
@pytest.mark.parametrize("num_samples", [40_000, 40_192])  # a whole number of frames, among others
def test_scores_are_those_of_the_package(sample_rate: int, num_samples: int) -> None:
    clean_T = speech_like(num_samples)[0, 0].numpy().astype(np.float64)
    noisy_T = clean_T + noise(num_samples, rms=0.05)[0, 0].numpy()
    expected = [stoi(clean_T, noisy_T, sample_rate, extended=extended) for extended in (False, True)]
    assert stoi_scores(clean_T, noisy_T, sample_rate) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("num_samples", [0, 1, 256, 257, 3000])
def test_what_has_less_than_a_segment_of_speech_is_nan(num_samples: int) -> None:
    clean_T = speech_like(32_000)[0, 0].numpy().astype(np.float64)[:num_samples]
    assert all(math.isnan(score) for score in stoi_scores(clean_T, clean_T, 10_000))
