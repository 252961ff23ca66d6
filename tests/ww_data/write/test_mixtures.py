"""Stored mixtures: the same file every time, all speakers, noises and SNRs in turn, and pairs as they were recorded."""

from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.ww_data.made_sounds import RATE, hiss, syllables
from ww_data import NoiseBank, SegmentBlock
from ww_data.corpus.banks import BankRow
from ww_data.corpus.segments import segment_key, write_shard
from ww_data.corpus.stored_mixtures import read_sources
from ww_data.dsp import active_floor
from ww_data.manifest import CorpusError
from ww_data.storage import Storage
from ww_data.write.mixtures import Candidate, write_mixtures
from ww_data.write.pieces import to_pcm

SNRS = (0.0, 10.0)


def shard_of(speaker: int) -> SegmentBlock:
    """Two clips of one speaker, a segment of 1 s each."""
    pcm_NT = np.stack([to_pcm(0.2 * syllables(10 * speaker + n, 1.0)) for n in range(2)])
    clips = [f"speech/s{speaker}/{n}.wav" for n in range(2)]
    return SegmentBlock(
        pcm_NT=pcm_NT,
        valid_samples_N=np.full(2, RATE),
        key_N=np.array([segment_key("val", clip, 0) for clip in clips], np.uint64),
        start_N=np.zeros(2, np.int64),
        active_floor_N=np.array([active_floor(pcm_T, RATE) for pcm_T in pcm_NT]),
        clip_id_N=np.array(clips, object),
        speaker_N=np.full(2, f"s{speaker}", object),
    )


def candidates_in(folder: Path, num_speakers: int = 3) -> tuple[Storage, list[Candidate]]:
    (folder / "speech").mkdir(parents=True)
    candidates = []
    for speaker in range(num_speakers):
        block, name = shard_of(speaker), f"speech/{speaker}.parquet"
        write_shard(folder / name, block)
        candidates += [
            Candidate(
                shard=name,
                row=row,
                key=int(key),
                clip_id=clip_id,
                start=0,
                speaker=f"s{speaker}",
                activity=0.6,
                valid_fraction=1.0,
            )
            for row, (key, clip_id) in enumerate(zip(block.key_N, block.clip_id_N, strict=True))
        ]
    return Storage(folder), candidates


def bank_of(folder: Path, names: list[str], seconds: float = 3.0) -> NoiseBank:
    rows = (BankRow(name, name, 0, to_pcm(hiss(index, seconds))) for index, name in enumerate(names))
    NoiseBank.write(folder / "bank", rows, RATE)
    return NoiseBank(folder / "bank")


def write(
    folder: Path, storage: Storage, candidates: list[Candidate], bank: NoiseBank, count: int = 12
) -> pa.Table:
    path = folder / "mixtures.parquet"
    num_written = write_mixtures(
        path,
        storage,
        candidates,
        bank,
        split="val",
        num_mixtures=count,
        snr_db=SNRS,
        seed=3,
        manifest_hash="abc",
    )
    table = pq.read_table(path)
    assert table.num_rows == num_written
    return table


def samples(table: pa.Table, name: str) -> np.ndarray:
    return np.asarray(table[name].combine_chunks().to_numpy_ndarray())


def test_they_take_turns_and_say_what_they_are_made_of(tmp_path: Path) -> None:
    storage, candidates = candidates_in(tmp_path / "corpus")
    table = write(tmp_path, storage, candidates, bank_of(tmp_path, ["noise/a", "noise/b"]))
    assert table.schema.metadata[b"manifest_hash"] == b"abc"
    assert Counter(table["speaker"].to_pylist()) == {f"s{n}": 4 for n in range(3)}
    assert Counter(table["clip_id"].to_pylist()) == {
        f"speech/s{n}/{m}.wav": 2 for n in range(3) for m in range(2)
    }
    assert Counter(table["noise_id"].to_pylist()) == {"noise/a": 6, "noise/b": 6}
    assert Counter(table["snr_db"].to_pylist()) == {0.0: 6, 10.0: 6}
    sources = {f"speech/s{n}/{m}.wav" for n in range(3) for m in range(2)} | {"noise/a", "noise/b"}
    assert read_sources(Storage(tmp_path), "mixtures.parquet") == sources
    noisy, clean = samples(table, "noisy"), samples(table, "clean")
    assert noisy.dtype == clean.dtype == np.float32
    blocks = {clip: shard_of(n) for n in range(3) for clip in shard_of(n).clip_id_N}
    for row, (clip, snr) in enumerate(
        zip(table["clip_id"].to_pylist(), table["snr_db"].to_pylist(), strict=True)
    ):
        block = blocks[clip]
        pcm_T, floor = block.pcm_NT[int(clip[-5])], block.active_floor_N[0]
        frames = pcm_T.astype(np.float64).reshape(-1, 320)
        active = (frames**2).sum(axis=1) >= block.active_floor_N[int(clip[-5])]
        assert floor > 1
        speech_power = np.mean(clean[row].astype(np.float64).reshape(-1, 320)[active] ** 2)
        noise_power = np.mean((noisy[row].astype(np.float64) - clean[row]) ** 2)
        assert 10 * np.log10(speech_power / noise_power) == pytest.approx(snr, abs=1e-3)


def test_the_file_depends_on_nothing_else(tmp_path: Path) -> None:
    storage, candidates = candidates_in(tmp_path / "corpus")
    bank = bank_of(tmp_path, ["noise/a", "noise/b"])
    first = write(tmp_path, storage, candidates, bank)
    again = write(
        tmp_path, *pickle.loads(pickle.dumps((storage, candidates))), pickle.loads(pickle.dumps(bank))
    )
    assert first.equals(again, check_metadata=True)
    assert len(pickle.dumps(candidates[0])) < 300


def test_pairs_are_mixed_as_they_were_recorded(tmp_path: Path) -> None:
    storage, candidates = candidates_in(tmp_path / "corpus", num_speakers=2)
    bank = bank_of(tmp_path, ["noise/s0/0.wav", "noise/s0/1.wav", "noise/s1/0.wav"], seconds=1.0)
    table = write(tmp_path, storage, candidates, bank, count=8)
    noisy, clean = samples(table, "noisy"), samples(table, "clean")
    for row, clip in enumerate(table["clip_id"].to_pylist()):
        own = clip.replace("speech/", "noise/")
        if own not in bank.ids:  # s1/1 has none
            assert table["snr_db"][row].as_py() in SNRS
            continue
        assert table["noise_id"][row].as_py() == own
        speech_T = shard_of(int(clip[8])).pcm_NT[int(clip[-5])]
        noise_T = bank.pcm(bank.ids.index(own))
        np.testing.assert_array_equal(clean[row], speech_T / np.float32(32768))
        np.testing.assert_allclose(noisy[row], (speech_T + noise_T.astype(np.float64)) / 32768, atol=1e-7)
        frames, active_from = speech_T.astype(np.float64).reshape(-1, 320), active_floor(speech_T, RATE)
        active = (frames**2).sum(axis=1) >= active_from
        level = 10 * np.log10(np.mean(frames[active] ** 2))
        expected = level - 10 * np.log10(np.mean(noise_T.astype(np.float64) ** 2))
        assert table["snr_db"][row].as_py() == pytest.approx(expected, abs=1e-6)
        assert table["level_dbfs"][row].as_py() == pytest.approx(level - 20 * np.log10(32768), abs=1e-6)
    found = Counter(table["clip_id"].to_pylist())
    assert found == {"speech/s0/0.wav": 1, "speech/s0/1.wav": 1, "speech/s1/0.wav": 1, "speech/s1/1.wav": 5}
    others = [row for row, clip in enumerate(table["clip_id"].to_pylist()) if clip == "speech/s1/1.wav"]
    assert len({noisy[row].tobytes() for row in others}) == 5  # mixed, each time with a crop of its own


def pairs_in(folder: Path, num_speakers: int) -> tuple[Storage, list[Candidate], NoiseBank]:
    """Clips of which every one was recorded with a noise."""
    storage, candidates = candidates_in(folder / "corpus", num_speakers)
    names = [f"noise/s{speaker}/{clip}.wav" for speaker in range(num_speakers) for clip in range(2)]
    return storage, candidates, bank_of(folder, names, seconds=1.0)


def test_a_pair_is_stored_once_though_more_were_asked_for(tmp_path: Path) -> None:
    storage, candidates, bank = pairs_in(tmp_path, num_speakers=3)
    table = write(tmp_path, storage, candidates, bank, count=50)
    assert table.num_rows == len(candidates) == len({row.tobytes() for row in samples(table, "noisy")})
    assert set(table["clip_id"].to_pylist()) == {item.clip_id for item in candidates}
    assert table["id"].to_pylist() == [f"val-{n:05d}" for n in range(6)]
    assert table["speaker"].to_pylist()[:3] == table["speaker"].to_pylist()[3:]  # still in turns
    assert read_sources(Storage(tmp_path), "mixtures.parquet") == {*table["clip_id"].to_pylist(), *bank.ids}


def test_of_pairs_there_are_as_many_as_asked_for(tmp_path: Path) -> None:
    """Those with little speech come where the others do not suffice, those without any never."""
    storage, candidates, bank = pairs_in(tmp_path, num_speakers=2)
    candidates[1] = replace(candidates[1], activity=0.1)
    candidates[3] = replace(candidates[3], activity=0.0)
    for count, expected in ((2, 2), (3, 3), (9, 3)):
        table = write(tmp_path, storage, candidates, bank, count=count)
        clips = table["clip_id"].to_pylist()
        assert len(clips) == expected
        assert set(clips[:2]) == {"speech/s0/0.wav", "speech/s1/0.wav"}
        assert clips[2:] == ["speech/s0/1.wav"][: expected - 2]


def test_a_pair_without_audible_noise_gets_another_noise(tmp_path: Path) -> None:
    storage, candidates = candidates_in(tmp_path / "corpus", num_speakers=1)
    rows = [
        BankRow("noise/s0/0.wav", "a", 0, np.zeros(RATE, np.int16)),
        BankRow("noise/x", "b", 0, to_pcm(hiss(0, 2.0))),
    ]
    NoiseBank.write(tmp_path / "bank", rows, RATE)
    table = write(tmp_path, storage, candidates[:1], NoiseBank(tmp_path / "bank"), count=2)
    (snr_db,) = table["snr_db"].to_pylist()
    assert snr_db in SNRS


def test_a_split_without_speech_is_refused(tmp_path: Path) -> None:
    storage, _ = candidates_in(tmp_path / "corpus")
    with pytest.raises(CorpusError, match="a held-out split has no segment of speech"):
        write(tmp_path, storage, [], bank_of(tmp_path, ["noise/a"]))
