"""Rooms: the direct path stays in place, early reflections are the target's, and nothing depends on who reads them."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ww_data.made_sounds import RATE, syllables
from tests.ww_data.mixing.made_blocks import room_bank, room_response
from ww_data.corpus.banks import BankRow
from ww_data.corpus.rooms import RoomBank, aligned
from ww_data.mixing.reverb import in_room
from ww_data.write.pieces import to_pcm


def bank_of(folder: Path, response_T: np.ndarray) -> RoomBank:
    RoomBank.write(folder / "rooms", [BankRow("rir/a", "a", 0, response_T)], RATE)
    return RoomBank(folder / "rooms")


def test_a_room_without_reflections_changes_nothing(tmp_path: Path) -> None:
    """Wherever its direct path lies, however loud it is, whichever its sign."""
    for direct, gain in ((0, 1.0), (7, -0.01), (3000, 0.3)):
        response = np.zeros(direct + 500, np.float32)
        response[direct] = gain
        speech = to_pcm(syllables(0, 1.0))
        room = bank_of(tmp_path, response).response(0, len(speech), 50.0)
        for heard in in_room(speech, room):
            np.testing.assert_allclose(heard, speech, atol=0.02)  # of 16000
        assert room.energy == pytest.approx(1.0)


def test_speech_is_convolved_with_the_response(tmp_path: Path) -> None:
    response, speech = room_response(1, direct=40), to_pcm(syllables(1, 0.5))
    room = bank_of(tmp_path, response).response(0, len(speech), 20.0)
    heard, target = in_room(speech, room)
    early = response.astype(np.float64)
    early[40 + 320 + 1 :] = 0
    for result, kernel in ((heard, response), (target, early)):
        expected = np.convolve(speech.astype(np.float64), kernel / response[40])[40 : 40 + len(speech)]
        assert (
            np.abs(result - expected).max() < 0.003 * np.abs(expected).max()
        )  # a tail 60 dB down was cut off
    assert np.abs(heard - target).max() > 10


@given(st.integers(0, 2000), st.floats(-1, 1).filter(lambda gain: abs(gain) > 1e-3), st.integers(0, 20))
def test_responses_are_aligned(direct: int, gain: float, seed: int) -> None:
    response = room_response(seed, direct, gain=gain)
    kernel, lead = aligned(np.concatenate([response, np.zeros(20000, np.float32)]), RATE)
    assert lead == min(direct, 40)
    assert kernel[lead] == 1.0
    assert np.abs(kernel).max() == 1.0
    assert len(kernel) <= lead + len(response) - direct  # without the silence behind


def test_what_is_written_is_there_and_travels_as_paths(tmp_path: Path) -> None:
    bank = room_bank(tmp_path)
    again = pickle.loads(pickle.dumps(bank))
    assert (again.ids, len(again), again.sample_rate) == (["r0", "r1", "r2"], 3, RATE)
    for seed in range(3):
        np.testing.assert_array_equal(again.pcm(seed), room_response(seed))
        here, there = (one.response(seed, 8000, 50.0) for one in (bank, again))
        np.testing.assert_array_equal(here.full_F, there.full_F)
        np.testing.assert_array_equal(here.early_F, there.early_F)


@pytest.mark.parametrize("wrong", [np.zeros(100), np.array([0, np.nan, 1])])
def test_silent_responses_are_refused(wrong: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rir/a: is silent or not finite"):
        bank_of(tmp_path, wrong)
