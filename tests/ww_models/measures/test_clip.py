"""All measures of a clip: against the packages, at the edges, and with stand-ins for what is not installed."""

from __future__ import annotations

import math
import sys
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.ww_models.samples import noise, speech_like
from ww_models import score_clip
from ww_models.measures.clip import STANDARD, WITHOUT_CLEAN, measure_clip
from ww_models.measures.dnsmos import require_dnsmos
from ww_models.quality import MEASURES, VALIDATION_MEASURES

# With a little hiss, as recordings have: linear prediction of digital silence is a matter of rounding.
CLEAN_T = (speech_like(32_000) + noise(32_000, seed=2, rms=0.002))[0, 0].numpy()
NOISY_T = CLEAN_T + noise(32_000, rms=0.02)[0, 0].numpy()


def test_they_are_those_of_the_packages_and_of_validation() -> None:
    from pesq import pesq
    from pystoi import stoi

    found = measure_clip(CLEAN_T, NOISY_T, 16_000)
    assert list(found) == list(STANDARD) == [name for name in MEASURES if name in STANDARD]
    assert found["pesq"] == pytest.approx(pesq(16_000, CLEAN_T, NOISY_T, "wb"), abs=1e-3)
    assert found["stoi"] == pytest.approx(stoi(CLEAN_T, NOISY_T, 16_000), abs=1e-5)
    assert found["estoi"] == pytest.approx(stoi(CLEAN_T, NOISY_T, 16_000, extended=True), abs=1e-5)
    target_T = (NOISY_T @ CLEAN_T) / (CLEAN_T @ CLEAN_T) * CLEAN_T
    by_hand_db = 10 * np.log10(np.sum(target_T**2) / np.sum((NOISY_T - target_T) ** 2))
    assert found["si_sdr_db"] == pytest.approx(by_hand_db, abs=1e-3)
    quality = vars(score_clip(CLEAN_T, NOISY_T, 16_000))
    assert {name: found[name] for name in VALIDATION_MEASURES} == pytest.approx(quality, abs=1e-8)


def test_the_clean_side_has_the_best_of_all() -> None:
    found = measure_clip(CLEAN_T, CLEAN_T, 16_000)
    assert found["pesq"] == pytest.approx(4.644, abs=1e-3)
    assert found["stoi"] == pytest.approx(1)
    assert found["estoi"] == pytest.approx(1)
    assert (found["csig"], found["cbak"], found["covl"], found["lsd_db"]) == (5, 5, 5, 0)


def test_less_noise_is_better_by_every_measure() -> None:
    worse, better = (
        measure_clip(CLEAN_T, CLEAN_T + gain * (NOISY_T - CLEAN_T), 16_000) for gain in (0.5, 0.1)
    )
    for name in STANDARD:
        assert MEASURES[name].higher_is_better == (better[name] > worse[name]), name


def test_what_is_asked_for_is_measured_and_nothing_else() -> None:
    assert list(measure_clip(CLEAN_T, NOISY_T, 16_000, ["si_sdr_db", "covl"])) == ["si_sdr_db", "covl"]
    assert measure_clip(CLEAN_T, NOISY_T, 16_000, ["covl"])["covl"] >= 1


def test_lengths_that_differ_are_an_error() -> None:
    with pytest.raises(ValueError, match="equal length"):
        measure_clip(CLEAN_T, NOISY_T[:-1], 16_000)


@settings(max_examples=25)
@given(
    hnp.arrays(
        np.float32,
        st.integers(0, 4000),
        elements=st.sampled_from([0.0, 1.0, -1.0, 1e-30, 1e30, 0.1, math.nan, math.inf]),
        fill=st.nothing(),
    ),
    st.sampled_from([8_000, 11_025, 16_000, 48_000]),
    st.booleans(),
)
def test_no_signal_is_an_exception(signal_T: np.ndarray, rate: int, is_clean: bool) -> None:
    other_T = CLEAN_T[: len(signal_T)]
    pair = (signal_T, other_T) if is_clean else (other_T, signal_T)
    assert set(measure_clip(*pair, rate)) == set(STANDARD)


def test_silence_is_nan() -> None:
    silence_T = np.zeros_like(CLEAN_T)
    assert all(math.isnan(value) for value in measure_clip(silence_T, NOISY_T, 16_000).values())
    muted = measure_clip(CLEAN_T, silence_T, 16_000)
    assert {name for name, value in muted.items() if not math.isnan(value)} == {"snr_db", "seg_snr_db"}


def test_words_are_those_that_the_recogniser_hears() -> None:
    heard_at = []

    def recogniser(signal_T: np.ndarray, sample_rate: int) -> str:
        heard_at.append((signal_T.dtype, sample_rate))
        return "One two, four"

    found = measure_clip(
        CLEAN_T, NOISY_T, 16_000, ["wer"], recogniser=recogniser, said=["one", "two", "three", "four"]
    )
    assert found == {"wer": 25.0}
    assert heard_at == [(np.float32, 16_000)]


def test_dnsmos_needs_no_clean_side(monkeypatch: pytest.MonkeyPatch) -> None:
    package, module = ModuleType("speechmos"), ModuleType("speechmos.dnsmos")

    def run(signal_T: np.ndarray, sr: int) -> dict[str, float]:
        assert (signal_T.dtype, sr, len(signal_T)) == (np.float32, 16_000, len(CLEAN_T))
        assert np.abs(signal_T).max() <= 1
        return {"sig_mos": 3.5, "bak_mos": 4.0, "ovrl_mos": 3.0, "p808_mos": 3.2}

    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "speechmos", package)
    monkeypatch.setitem(sys.modules, "speechmos.dnsmos", module)
    require_dnsmos()
    found = measure_clip(None, 50 * NOISY_T.repeat(3), 48_000, WITHOUT_CLEAN)
    assert found == {"dnsmos_sig": 3.5, "dnsmos_bak": 4.0, "dnsmos_ovrl": 3.0}
    assert math.isnan(measure_clip(None, NOISY_T, 16_000, ["pesq"])["pesq"])


def test_dnsmos_that_is_not_installed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "speechmos", None)
    with pytest.raises(ValueError, match=r"not installed .* pip install 'wave-wizard\[dnsmos\]'"):
        require_dnsmos()
