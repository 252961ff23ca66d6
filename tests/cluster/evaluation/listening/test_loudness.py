"""Loudness: the standard's own figures."""

from __future__ import annotations

import numpy as np
import pytest

from cluster.evaluation.listening.loudness import block_powers, gate, k_weighting, loudness_lufs


def sine(amplitude: float, seconds: float, rate: int = 48_000, hz: float = 997.0) -> np.ndarray:
    return amplitude * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate)


def lufs(signal_T: np.ndarray, rate: int = 48_000) -> float:
    powers_M = block_powers(signal_T, rate)
    return loudness_lufs(powers_M, gate(powers_M))


def test_the_filters_are_those_of_the_standard_at_48_khz() -> None:
    shelf, high_pass = k_weighting(48_000)
    b, a = [1.53512485958697, -2.69169618940638, 1.19839281085285], [1, -1.69065929318241, 0.73248077421585]
    np.testing.assert_allclose(shelf, [*b, *a], atol=1e-10)
    np.testing.assert_allclose(high_pass, [1, -2, 1, 1, -1.99004745483398, 0.99007225036621], atol=1e-10)


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
def test_a_sine_at_full_scale_is_at_minus_3_01(rate: int) -> None:
    assert lufs(sine(1.0, 3, rate), rate) == pytest.approx(-3.01, abs=0.05)
    assert lufs(sine(0.1, 3, rate), rate) == pytest.approx(-23.01, abs=0.05)


def test_silence_and_what_is_far_quieter_do_not_count() -> None:
    loud_T = sine(0.1, 5)
    with_pauses_T = np.concatenate([loud_T, np.zeros(5 * 48_000), sine(0.001, 5)])
    assert lufs(with_pauses_T) == pytest.approx(lufs(loud_T), abs=0.2)
    assert lufs(np.zeros(48_000)) == -np.inf


def test_a_clip_shorter_than_a_block_is_one_block() -> None:
    assert len(block_powers(sine(0.1, 0.2), 48_000)) == 1
    assert lufs(sine(0.1, 0.2)) == pytest.approx(-23, abs=0.5)
