"""PESQ of any clip: any length, any rate, any signal, and the process goes on."""

import math
import subprocess
import sys

import numpy as np
import pytest
from pesq import pesq
from scipy.signal import resample_poly

from tests.ww_models.samples import noise, speech_like
from ww_models import score_clip
from ww_models.perceptual import PESQ_PIECE_S, pesq_note, pesq_rate

# Bursts of 212 ms every 424 ms: the densest that PESQ takes for utterances. 60 s of them are three times as many as its
# C code has room for, and end the process if it is given them at once.
DENSE = """
import sys
import numpy as np
from ww_models import score_clip
t = np.arange(int(float(sys.argv[1]) * 16000))
clean_T = 0.1 * np.sin(t * 0.3) * (t % 6784 < 3392)
noisy_T = clean_T + 0.001 * np.random.default_rng(0).standard_normal(len(t))
print(score_clip(clean_T, noisy_T, 16000).pesq)
"""


@pytest.fixture(scope="module")
def clean_T() -> np.ndarray:
    return speech_like(48_000)[0, 0].numpy()


@pytest.fixture(scope="module")
def noisy_T(clean_T: np.ndarray) -> np.ndarray:
    return clean_T + noise(48_000, rms=0.02)[0, 0].numpy()


@pytest.mark.parametrize("seconds", [PESQ_PIECE_S, 60.0])
def test_no_number_of_utterances_ends_the_process(seconds: float) -> None:
    done = subprocess.run([sys.executable, "-c", DENSE, str(seconds)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 1 < float(done.stdout) < 4.7


def test_a_long_clip_scores_the_mean_of_its_pieces(clean_T: np.ndarray, noisy_T: np.ndarray) -> None:
    clean_RT, noisy_RT = np.tile(clean_T, (12, 1)), np.tile(noisy_T, (12, 1))  # 36 s, pieces of 18 s
    noisy_RT[6:] = clean_RT[6:]
    whole = score_clip(clean_RT.reshape(-1), noisy_RT.reshape(-1), 16_000).pesq
    halves = [
        score_clip(clean_RT[rows].reshape(-1), noisy_RT[rows].reshape(-1), 16_000).pesq
        for rows in (slice(6), slice(6, 12))
    ]
    assert halves[1] - halves[0] > 1
    assert whole == pytest.approx(np.mean(halves), abs=1e-6)


def test_silence_in_a_long_clip_is_left_out_and_a_muted_piece_has_no_score(
    clean_T: np.ndarray, noisy_T: np.ndarray
) -> None:
    clean_RT, noisy_RT = np.tile(clean_T, (12, 1)), np.tile(noisy_T, (12, 1))
    spoken = score_clip(clean_RT[:6].reshape(-1), noisy_RT[:6].reshape(-1), 16_000).pesq
    clean_RT[6:] = 0
    assert score_clip(clean_RT.reshape(-1), noisy_RT.reshape(-1), 16_000).pesq == pytest.approx(
        spoken, abs=1e-6
    )
    noisy_RT[:6] = 0
    assert math.isnan(score_clip(clean_RT.reshape(-1), noisy_RT.reshape(-1), 16_000).pesq)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_sound_has_no_score(clean_T: np.ndarray, noisy_T: np.ndarray, bad: float) -> None:
    broken_T = clean_T.copy()
    broken_T[100] = bad
    for signals in ((broken_T, noisy_T), (noisy_T, broken_T)):
        assert all(math.isnan(value) for value in vars(score_clip(*signals, 16_000)).values())


@pytest.mark.parametrize("sample_rate", [22_050, 44_100, 48_000])
def test_higher_rates_are_scored_at_16_khz(
    clean_T: np.ndarray, noisy_T: np.ndarray, sample_rate: int
) -> None:
    expected = pesq(16_000, clean_T, noisy_T, "wb")
    up_clean_T, up_noisy_T = (resample_poly(x_T, sample_rate, 16_000) for x_T in (clean_T, noisy_T))
    assert score_clip(up_clean_T, up_noisy_T, sample_rate).pesq == pytest.approx(expected, abs=0.03)
    assert pesq_note(sample_rate) == f"PESQ is that of the sound at 16000 Hz, converted from {sample_rate} Hz"


def test_pesq_is_nan_at_rates_it_is_not_defined_for(clean_T: np.ndarray, noisy_T: np.ndarray) -> None:
    quality = score_clip(clean_T, noisy_T, 11_025)
    assert math.isnan(quality.pesq)
    assert math.isfinite(quality.stoi)
    assert "not defined at 11025 Hz" in pesq_note(11_025)
    assert [pesq_rate(rate) for rate in (8_000, 11_025, 16_000)] == [8_000, None, 16_000]
    assert pesq_note(8_000) == pesq_note(16_000) == ""
