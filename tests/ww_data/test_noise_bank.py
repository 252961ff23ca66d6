"""The noise bank gives back what was written, loops without a click, and travels as its path."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ww_data import NoiseBank
from ww_data.noise_bank import loop_period, write_noise_bank
from ww_data.shards import to_pcm

from .made_sounds import RATE, hiss

CLIPS = {
    f"noise {index}": to_pcm(hiss(index, seconds)) for index, seconds in enumerate((0.5, 2.0, 0.001, 1.0))
}


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> NoiseBank:
    path = tmp_path_factory.mktemp("bank") / "train.arrow"
    write_noise_bank(path, ((name, f"recording of {name}", pcm) for name, pcm in CLIPS.items()), RATE)
    return NoiseBank(path)


def test_what_was_written_is_there(bank: NoiseBank) -> None:
    assert (bank.ids, bank.sample_rate, len(bank)) == (list(CLIPS), RATE, 4)
    assert bank.recordings == [f"recording of {name}" for name in CLIPS]
    for index, pcm in enumerate(CLIPS.values()):
        assert bank.lengths_N[index] == len(pcm)
        np.testing.assert_array_equal(bank.pcm(index), pcm)
        np.testing.assert_array_equal(bank.crop(index, 5, 10), pcm[5:15])


def test_samples_are_mapped_not_loaded(bank: NoiseBank) -> None:
    crop = bank.crop(1, 100, 1000)
    assert not crop.flags.owndata
    assert not crop.flags.writeable


def test_it_pickles_as_its_path(bank: NoiseBank) -> None:
    data = pickle.dumps(bank)
    assert len(data) < 1000
    np.testing.assert_array_equal(pickle.loads(data).pcm(1), bank.pcm(1))


@given(st.integers(2, 3000), st.integers(0, 3000), st.integers(1, 20000), st.integers(0, 100))
def test_a_loop_goes_round_without_a_click(length: int, start: int, num_samples: int, seed: int) -> None:
    """A slow sine has small steps: the loop must have none that are much larger, wherever it is entered."""
    wave = (8000 * np.sin(2 * np.pi * np.arange(length) / 1000 + seed)).astype(np.int16)
    period = loop_period(wave, 160)
    assert len(period) == length - min(160, length // 4)
    twice = np.concatenate([period, period]).astype(np.int64)
    if length >= 1000:
        assert np.abs(np.diff(twice)).max() < 400


def test_a_short_clip_is_looped_to_any_length(bank: NoiseBank) -> None:
    period = loop_period(CLIPS["noise 0"], 160)
    crop = bank.crop(0, 7000, 40000)
    np.testing.assert_array_equal(crop, np.tile(period, 7)[7000:47000])
    # The cross-fade keeps the power of noise.
    assert np.std(period[:160].astype(float)) == pytest.approx(np.std(period.astype(float)), rel=0.2)
