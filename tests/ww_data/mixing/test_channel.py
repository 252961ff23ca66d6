"""What a channel does to a signal."""

from __future__ import annotations

import numpy as np
import pytest

from tests.ww_data.made_sounds import RATE, syllables
from ww_data.mixing.channel import clipped, gain_over_time, quantised, rumbling, with_dropouts
from ww_data.mixing.draw_effects import Dropouts, GainChange, Quantisation, Rumble


@pytest.mark.parametrize("key", [0, 7, 2**52])
def test_rumble_lies_below_hearing_at_its_level(key: int) -> None:
    rumble = rumbling(Rumble(level_dbfs=-20.0, tones_key=key), 60 * RATE, RATE).astype(np.float64)
    power = np.abs(np.fft.rfft(rumble * np.hanning(len(rumble)))) ** 2
    hz = np.fft.rfftfreq(len(rumble), 1 / RATE)
    assert power[(hz < 1.9) | (hz > 20.1)].sum() < 1e-6 * power.sum()
    assert 10 * np.log10(np.mean(rumble**2)) == pytest.approx(-20, abs=0.1)


def test_a_turned_knob() -> None:
    gain = gain_over_time(GainChange(gain_db=-6.0, position=0.5, seconds=0.1), RATE, RATE)
    assert (gain[: RATE // 2] == 1).all()
    np.testing.assert_allclose(20 * np.log10(gain[RATE // 2 + 1600 :]), -6.0, atol=1e-4)
    assert (np.diff(gain) <= 0).all()


def test_the_noisy_side_is_clipped_below_its_peak() -> None:
    x = syllables(0, 0.5)
    cut = clipped(x, 6.0)
    ceiling = np.abs(x).max() * 10 ** (-6 / 20)
    np.testing.assert_allclose(cut, np.clip(x, -ceiling, ceiling), atol=1e-7)
    assert not clipped(np.zeros(10, np.float32), 6.0).any()


def test_packets_are_lost_as_a_whole_and_as_often_as_asked_for() -> None:
    x = np.ones(400 * 320, np.float32)
    lost = np.concatenate(
        [(with_dropouts(x, Dropouts(0.1, key), RATE).reshape(-1, 320) == 0).mean(axis=1) for key in range(30)]
    )
    assert set(lost.tolist()) == {0.0, 1.0}
    assert lost.mean() == pytest.approx(0.1, abs=0.015)
    assert (x == 1).all()


@pytest.mark.parametrize("mu_law", [False, True])
@pytest.mark.parametrize("bits", [2, 6, 12, 16])
def test_quantisation_leaves_so_many_values(bits: int, mu_law: bool) -> None:
    x = np.linspace(-1, 1, 200_001, dtype=np.float32)
    y = quantised(x, Quantisation(bits, mu_law))
    assert len(np.unique(y)) <= 2**bits + 1  # 0 has two signs
    assert len(np.unique(y)) >= 2**bits - 1 or bits > 6  # of more, x does not reach all
    assert np.abs(y).max() <= 1
    assert (np.diff(y) >= 0).all()
    assert quantised(np.zeros(1, np.float32), Quantisation(bits, mu_law))[0] == 0
    quiet = np.abs(x) < 0.01
    if mu_law and bits >= 6:  # denser where it is quiet
        assert np.abs(y - x)[quiet].max() < 0.3 * 2.0**-bits
    elif not mu_law:
        assert np.abs(y - x).max() <= 2.0 ** (1 - bits) + 1e-6
