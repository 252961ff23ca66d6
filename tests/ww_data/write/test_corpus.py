"""A corpus on disk: holds its clips sample for sample, appears whole or not at all, and tells of damage."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from tests.ww_data.made_sounds import RATE, hiss, syllables, write_folders
from ww_data import (
    Corpus,
    CorpusError,
    Manifest,
    SegmentBlock,
    open_corpus,
    read_mono,
    read_shard,
    scan_corpus,
    segment_key,
    write_audio,
    write_corpus,
)
from ww_data.corpus.segments import segment_starts
from ww_data.dsp import HIGH_PASS_HZ, high_passed
from ww_data.write.pieces import to_pcm

SETTINGS = {"segment_s": 1.0, "num_val_mixtures": 5, "num_test_mixtures": 10}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    speech, noise = write_folders(
        tmp_path_factory.mktemp("sounds"), num_speakers=6, num_noises=6, seconds=2.5
    )
    write_audio(speech / "speaker0" / "short.wav", syllables(900, 0.7), RATE)
    write_audio(speech / "speaker0" / "slow.wav", np.stack([syllables(901, 2.0, 8000)] * 2, axis=1), 8000)
    write_audio(noise / "blip.wav", hiss(902, 0.2), RATE)
    return speech, noise


@pytest.fixture(scope="module")
def manifest(folders: tuple[Path, Path]) -> Manifest:
    return scan_corpus(*folders, val_fraction=0.2, test_fraction=0.2)


@pytest.fixture(scope="module")
def corpus(manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return write_corpus(manifest, tmp_path_factory.mktemp("out") / "corpus", **SETTINGS)


def segments_of(corpus: Corpus, split: str) -> SegmentBlock:
    return SegmentBlock.concatenate(
        [read_shard(corpus.storage.path(shard.name)) for shard in corpus.shards(split)]
    )


def test_shards_hold_the_clips_sample_for_sample(corpus: Corpus, manifest: Manifest) -> None:
    for split in ("train", "val", "test"):
        block = segments_of(corpus, split)
        assert len(block) == sum(shard.num_segments for shard in corpus.shards(split))
        assert len(block) == corpus.splits[split].num_segments
        clips = {clip.id: clip for clip in manifest.used("speech", split)}
        assert set(block.clip_id_N) == set(clips)
        for row in range(len(block)):
            clip, start, valid = clips[block.clip_id_N[row]], block.start_N[row], block.valid_samples_N[row]
            pcm = to_pcm(high_passed(read_mono(clip.path), corpus.sample_rate, HIGH_PASS_HZ))
            np.testing.assert_array_equal(block.pcm_NT[row, :valid], pcm[start : start + valid])
            assert not block.pcm_NT[row, valid:].any()
            assert block.speaker_N[row] == clip.speaker
            assert block.key_N[row] == segment_key(split, clip.id, int(start))
        assert len(set(block.key_N.tolist())) == len(block)


def test_the_bank_holds_the_noise_sample_for_sample(corpus: Corpus, manifest: Manifest) -> None:
    for split in ("train", "val", "test"):
        bank = corpus.noise_bank(split)
        clips = {clip.id: clip for clip in manifest.used("noise", split)}
        assert set(bank.ids) == set(clips)
        assert bank.recordings == sorted(bank.recordings)
        for index, name in enumerate(bank.ids):
            heard = high_passed(read_mono(clips[name].path), corpus.sample_rate, HIGH_PASS_HZ)
            np.testing.assert_array_equal(bank.pcm(index), to_pcm(heard))


def test_pcm_of_16_bit_files_is_exact(tmp_path: Path) -> None:
    pcm = np.array([-32768, -32767, -1, 0, 1, 12345, 32767], np.int16)
    soundfile.write(tmp_path / "x.wav", pcm, RATE)
    np.testing.assert_array_equal(to_pcm(read_mono(tmp_path / "x.wav")), pcm)
    loud = to_pcm(np.array([0.5, 1.5, -1.0]), gain=1 / 1.5)
    np.testing.assert_allclose(loud / 32768, [1 / 3, 1.0, -2 / 3], atol=1e-4)
    np.testing.assert_allclose(to_pcm(np.array([0.5, 1.5])) / 32768, [0.5, 1.0], atol=1e-4)


@pytest.mark.parametrize(
    ("num_samples", "starts"),
    [(1, [0]), (99, [0]), (100, [0]), (124, [0]), (125, [0, 25]), (200, [0, 100]), (350, [0, 100, 200, 250])],
)
def test_segments_cover_a_clip(num_samples: int, starts: list[int]) -> None:
    assert list(segment_starts(num_samples, 100)) == starts


def test_opening_finds_what_was_written(corpus: Corpus, manifest: Manifest) -> None:
    again = open_corpus(corpus.storage.path())
    assert again == corpus
    assert open_corpus(f"file://{corpus.storage.path()}") == corpus
    again.verify()
    unplaced = [replace(clip, shard="") for clip in again.manifest().clips]
    assert unplaced == list(manifest.clips)
    assert again.manifest_hash == again.manifest().hash == manifest.hash
    assert (again.sample_rate, again.segment_samples, again.segment_s) == (RATE, RATE, 1.0)
    for split, about in again.splits.items():
        clips = manifest.used("speech", split)
        assert about.num_speakers == len({clip.speaker for clip in clips})
        assert about.speech_hours == pytest.approx(sum(clip.seconds for clip in clips) / 3600)
    assert "6 recordings" not in again.summary()
    assert "Hz" in again.summary()


def test_writing_again_finds_it_done(corpus: Corpus, manifest: Manifest) -> None:
    before = (corpus.storage.path() / "corpus.json").stat().st_mtime_ns
    assert write_corpus(manifest, corpus.storage.path(), **SETTINGS) == corpus
    assert (corpus.storage.path() / "corpus.json").stat().st_mtime_ns == before
    with pytest.raises(CorpusError, match=r"other settings \(segment_s 1.0, now 2.0\)"):
        write_corpus(manifest, corpus.storage.path(), **SETTINGS | {"segment_s": 2.0})


def test_a_corpus_is_the_same_wherever_it_is_written(
    corpus: Corpus, manifest: Manifest, tmp_path: Path
) -> None:
    told: list[tuple[int, int, str]] = []
    (tmp_path / "corpus").mkdir()
    again = write_corpus(manifest, tmp_path / "corpus", **SETTINGS, progress=lambda *step: told.append(step))
    assert again.files == corpus.files
    num_used = sum(not clip.skip_reason for clip in manifest.clips)
    assert told[-1][:2] == (num_used, num_used)
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


def test_a_folder_with_something_else_is_left_alone(manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").touch()
    with pytest.raises(CorpusError, match="is not an empty folder"):
        write_corpus(manifest, tmp_path, **SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]
    with pytest.raises(CorpusError, match="no file system is known"):
        write_corpus(manifest, "tape://reel/corpus", **SETTINGS)


@pytest.mark.parametrize(
    "wrong", [{"sample_rate": 16}, {"segment_s": 0.1}, {"num_val_mixtures": 0}, {"eval_snr_db": ()}]
)
def test_settings_are_checked(manifest: Manifest, tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(CorpusError):
        write_corpus(manifest, tmp_path / "corpus", **SETTINGS | wrong)


def test_a_file_that_vanished_since_the_scan_is_one_clear_error(tmp_path: Path) -> None:
    speech, noise = write_folders(tmp_path / "sounds")
    manifest = scan_corpus(speech, noise)
    (speech / "speaker2" / "1.wav").unlink()
    (tmp_path / "out").mkdir()
    with pytest.raises(
        CorpusError, match=r"1\.wav: cannot be opened .*readable when the folders were scanned"
    ):
        write_corpus(manifest, tmp_path / "out" / "corpus", **SETTINGS)
    with pytest.raises(CorpusError, match="holds no corpus"):
        open_corpus(tmp_path / "out" / "corpus")


def damage_json(path: Path, **changes: object) -> None:
    about = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in about.items() if value is not None}))


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("corpus.json", lambda path: path.unlink(), "holds no corpus"),
        ("corpus.json", lambda path: path.write_text(path.read_text()[:200]), "is damaged"),
        ("corpus.json", lambda path: path.write_bytes(b"\xff\xfe\x00"), "is damaged"),
        ("corpus.json", lambda path: path.write_text("[]"), "is damaged"),
        ("corpus.json", lambda path: damage_json(path, splits=None), "is damaged"),
        ("corpus.json", lambda path: damage_json(path, files=["x"]), "is damaged"),
        ("corpus.json", lambda path: damage_json(path, format="else"), "is not a Wave Wizard corpus"),
        ("corpus.json", lambda path: damage_json(path, format_version=99), "update Wave Wizard"),
        ("corpus.json", lambda path: damage_json(path, format_version=1), "of an earlier version"),
        ("speech/train/*", lambda path: path.unlink(), "is missing"),
        ("noise/val/*", lambda path: path.write_bytes(path.read_bytes()[:-10]), "is damaged"),
    ],
)
def test_damage_is_one_clear_line(
    manifest: Manifest, tmp_path: Path, name: str, damage: object, message: str
) -> None:
    corpus = write_corpus(manifest, tmp_path / "corpus", **SETTINGS)
    damage(next(corpus.storage.path().glob(name)))  # type: ignore[operator]
    with pytest.raises(CorpusError, match=message) as caught:
        open_corpus(corpus.storage.path())
    assert "\n" not in str(caught.value)
    assert str(corpus.storage.path()) in str(caught.value)


def test_damage_within_a_file_is_found_by_its_checksum(manifest: Manifest, tmp_path: Path) -> None:
    corpus = write_corpus(manifest, tmp_path / "corpus", **SETTINGS)
    path = next(corpus.storage.path().glob("noise/train/*"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorpusError, match="wrong checksum"):
        open_corpus(corpus.storage.path()).verify()
    path.write_bytes(bytes(len(data)))
    with pytest.raises(CorpusError, match="is damaged"):
        open_corpus(corpus.storage.path()).noise_bank("train")


# Fixed mixtures


def test_mixtures_are_fixed_balanced_and_held_out(corpus: Corpus, manifest: Manifest) -> None:
    for split, count in (("val", 5), ("test", 10)):
        table = pq.read_table(corpus.mixtures(split).path)
        frame = table.drop(["noisy", "clean"]).to_pandas()
        assert len(frame) == frame.id.nunique() == count
        assert set(Counter(frame.snr_db)) == {-5.0, 0.0, 5.0, 10.0, 15.0}
        assert len(set(Counter(frame.snr_db).values())) == 1
        assert set(frame.speaker) == {clip.speaker for clip in manifest.used("speech", split)}
        assert set(frame.noise_id) == {clip.id for clip in manifest.used("noise", split)}
        assert set(frame.key) <= set(segments_of(corpus, split).key_N.tolist())
        assert set(frame.sample_rate) == {RATE}


def test_mixtures_have_the_snr_they_state(corpus: Corpus) -> None:
    block = segments_of(corpus, "test")
    floors = dict(zip(block.key_N.tolist(), block.active_floor_N.tolist(), strict=True))
    pcms = dict(zip(block.key_N.tolist(), block.pcm_NT, strict=True))
    table = pq.read_table(corpus.mixtures("test").path)
    noisy, clean = (table[name].combine_chunks().to_numpy_ndarray() for name in ("noisy", "clean"))
    assert noisy.dtype == clean.dtype == np.float32
    assert noisy.shape == clean.shape == (10, RATE)
    assert max(np.abs(noisy).max(), np.abs(clean).max()) <= 1
    for row, (key, snr_db) in enumerate(
        zip(table["key"].to_pylist(), table["snr_db"].to_pylist(), strict=True)
    ):
        frames = pcms[key].astype(np.int64).reshape(-1, 320)
        active = np.repeat((frames**2).sum(axis=1) >= floors[key], 320)
        assert active.mean() > 0.3
        noise_power = np.mean((noisy[row] - clean[row]).astype(np.float64) ** 2)
        ratio = np.mean(clean[row][active].astype(np.float64) ** 2) / noise_power
        assert 10 * np.log10(ratio) == pytest.approx(snr_db, abs=0.01)


def test_there_are_no_stored_mixtures_of_train(corpus: Corpus) -> None:
    with pytest.raises(CorpusError, match="not for 'train'"):
        corpus.mixtures("train")
    with pytest.raises(CorpusError, match="no split 'tset'"):
        corpus.shards("tset")
