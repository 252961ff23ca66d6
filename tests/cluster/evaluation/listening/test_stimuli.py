"""What is heard: matched in loudness, of one length, with anchors as the standard wants them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.evaluation.listening.loudness import block_powers, gate, loudness_lufs
from cluster.evaluation.listening.source import ListeningError
from cluster.evaluation.listening.stimuli import (
    LEVEL_LUFS,
    LOW_ANCHOR,
    MID_ANCHOR,
    PEAK,
    as_pcm,
    check_anchor,
    low_passed,
    make_stimuli,
)
from tests.conftest import SAMPLE_RATE, speech_like

RNG = np.random.default_rng(0)
CLEAN_T = speech_like(RNG, 2.0).astype(np.float32)
NOISE_T = RNG.standard_normal(len(CLEAN_T)).astype(np.float32)


def lufs_while_somebody_speaks(signal_T: np.ndarray) -> float:
    counted_M = gate(block_powers(CLEAN_T, SAMPLE_RATE))
    return loudness_lufs(block_powers(signal_T, SAMPLE_RATE), counted_M)


@settings(max_examples=30)
@given(gain_db=st.floats(-40, 20), noise=st.floats(0, 0.3), level_db=st.floats(-30, 15))
def test_all_are_of_the_references_loudness(gain_db: float, noise: float, level_db: float) -> None:
    level = 10 ** (level_db / 20)
    signals = {
        "noisy": level * (CLEAN_T + noise * NOISE_T),
        "one": level * 10 ** (gain_db / 20) * CLEAN_T,
        "clean": level * CLEAN_T,
    }
    stimuli = make_stimuli(signals, (LOW_ANCHOR,), SAMPLE_RATE, "clip")
    assert set(stimuli) == {*signals, LOW_ANCHOR}
    target = lufs_while_somebody_speaks(stimuli["clean"])
    for name, signal_T in stimuli.items():
        assert abs(lufs_while_somebody_speaks(signal_T) - target) < 0.1, name
        assert len(signal_T) == len(CLEAN_T)
    peak = max(np.abs(signal_T).max() for signal_T in stimuli.values())
    assert peak < PEAK + 1e-4
    assert target == pytest.approx(LEVEL_LUFS, abs=0.1) or peak == pytest.approx(PEAK, abs=1e-4)


def test_what_is_served_is_matched_as_well() -> None:
    """After rounding and dither, too."""
    stimuli = make_stimuli({"one": 0.01 * CLEAN_T, "clean": CLEAN_T}, (LOW_ANCHOR,), SAMPLE_RATE, "clip")
    served = {key: np.frombuffer(as_pcm(x, RNG), "<i2") / 32767 for key, x in stimuli.items()}
    levels = [lufs_while_somebody_speaks(x) for x in served.values()]
    assert np.ptp(levels) < 0.1
    for key, signal_T in served.items():
        assert np.abs(signal_T - stimuli[key]).max() < 2 / 32767


def test_silence_of_a_system_stays_and_that_of_the_reference_is_refused() -> None:
    silent_T = np.zeros_like(CLEAN_T)
    assert not make_stimuli({"one": silent_T, "clean": CLEAN_T}, (), SAMPLE_RATE, "c")["one"].any()
    with pytest.raises(ListeningError, match="c: its reference is silent"):
        make_stimuli({"one": CLEAN_T, "clean": silent_T}, (), SAMPLE_RATE, "c")


@pytest.mark.parametrize("rate", [16_000, 48_000])
def test_the_low_anchor_is_within_the_standards_mask(rate: int) -> None:
    impulse_T = np.zeros(rate, np.float32)
    impulse_T[rate // 2] = 1
    response = low_passed(impulse_T, 3500, rate)
    db = 20 * np.log10(np.abs(np.fft.rfft(response)) + 1e-9)  # a bin is 1 Hz
    assert np.abs(db[50:3450]).max() < 0.1
    assert db[4000:].max() < -25
    assert db[4500:].max() < -50
    assert np.argmax(np.abs(response)) == rate // 2, "it comes later than the reference"


def test_an_anchor_that_would_sound_like_the_reference_is_refused() -> None:
    check_anchor(LOW_ANCHOR, 16_000)
    check_anchor(MID_ANCHOR, 16_000)
    with pytest.raises(ListeningError, match="--mode ab"):
        check_anchor(LOW_ANCHOR, 8_000)
