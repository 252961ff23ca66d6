"""The noise bank gives back what was written, from however many files, loops without a click, travels as its paths."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ww_data.made_sounds import RATE, hiss
from ww_data import NoiseBank
from ww_data.corpus.banks import BankRow, loop_period
from ww_data.corpus.rooms import RoomBank
from ww_data.write.pieces import to_pcm

CLIPS = {
    f"noise {index}": to_pcm(hiss(index, seconds)) for index, seconds in enumerate((0.5, 2.0, 0.001, 1.0))
}


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> NoiseBank:
    path = tmp_path_factory.mktemp("bank") / "train.arrow"
    NoiseBank.write(path, rows_of(CLIPS), RATE)
    return NoiseBank(path)


def rows_of(clips: dict[str, np.ndarray]) -> list[BankRow]:
    return [BankRow(name, f"recording of {name}", 0, pcm) for name, pcm in clips.items()]


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


def test_it_pickles_as_its_paths(bank: NoiseBank) -> None:
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


def test_the_order_does_not_depend_on_the_files(tmp_path: Path) -> None:
    rows = [
        BankRow(f"noise/{n}", f"r{n % 3}", start, np.full(50, n, np.int16))
        for n in range(6)
        for start in (0, 50)
    ]
    NoiseBank.write(tmp_path / "all", rows, RATE)
    shuffled = [rows[index] for index in np.random.default_rng(0).permutation(12)]
    for part in range(3):
        NoiseBank.write(tmp_path / f"{part}", shuffled[part::3], RATE)
    one, three = NoiseBank(tmp_path / "all"), NoiseBank([tmp_path / f"{part}" for part in (2, 0, 1)])
    expected = sorted((row.recording, row.id, row.start) for row in rows)
    for bank in (one, three, pickle.loads(pickle.dumps(three))):
        assert list(zip(bank.recordings, bank.ids, bank.starts, strict=True)) == expected
        assert [int(bank.pcm(index)[0]) for index in range(12)] == [int(name[-1]) for _, name, _ in expected]


def test_the_noise_of_a_pair_is_found_at_the_same_place(tmp_path: Path) -> None:
    ramp = np.arange(1000, dtype=np.int16)
    pieces = [BankRow("noise/p1.wav", "p1", start, ramp[start : start + 400]) for start in (0, 400, 800)]
    NoiseBank.write(tmp_path / "bank", [BankRow("noise/other.wav", "a", 0, ramp), *pieces], RATE)
    bank = NoiseBank(tmp_path / "bank")
    for start in (0, 399, 400, 799, 800, 999):
        found = bank.own_noise("speech/p1.wav", start)
        assert found is not None
        assert bank.pcm(found[0])[found[1]] == start
    assert bank.own_noise("speech/p1.wav", 1000) is None
    assert bank.own_noise("speech/p2.wav", 0) is None


@pytest.mark.parametrize("pcm", [np.zeros(0, np.int16), np.zeros((2, 5), np.int16), np.zeros(5, np.float32)])
def test_what_is_no_pcm_is_refused(pcm: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"noise/x: came as .* expected samples"):
        NoiseBank.write(tmp_path / "bank", [BankRow("noise/x", "x", 0, pcm)], RATE)


def test_files_that_are_no_such_bank_are_refused(tmp_path: Path) -> None:
    NoiseBank.write(tmp_path / "a", rows_of(CLIPS), RATE)
    NoiseBank.write(tmp_path / "b", rows_of(CLIPS), 8000)
    with pytest.raises(pa.ArrowInvalid, match="several sample rates"):
        NoiseBank([tmp_path / "a", tmp_path / "b"])
    with pytest.raises(pa.ArrowInvalid, match="not a bank of float32 samples"):
        RoomBank(tmp_path / "a")
    with pytest.raises(pa.ArrowInvalid, match="without files"):
        NoiseBank([])
    (tmp_path / "cut").write_bytes((tmp_path / "a").read_bytes()[:-100])
    with pytest.raises(pa.ArrowInvalid):
        NoiseBank(tmp_path / "cut")
