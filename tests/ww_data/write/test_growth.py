"""Preparing again: an interrupted run goes on, a corpus grows without touching what it has, nothing is lost."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.ww_data.made_sounds import RATE, hiss, syllables, write_folders
from ww_data import (
    Corpus,
    CorpusError,
    Manifest,
    open_corpus,
    read_shard,
    scan_corpus,
    write_audio,
    write_corpus,
)
from ww_data.dsp import HIGH_PASS_HZ, activity, high_passed
from ww_data.storage import Storage
from ww_data.write import parts as parts_module
from ww_data.write import pieces as pieces_module
from ww_data.write.corpus import checked_settings
from ww_data.write.folder import known_manifest
from ww_data.write.pieces import PieceReader, pcm_gain, pieces_of, to_pcm

SETTINGS = {"segment_s": 1.0, "num_val_mixtures": 4, "num_test_mixtures": 4}


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts_module, "SHARD_SEGMENTS", 4)


def scan(folder: Path, known: Manifest | None = None) -> Manifest:
    return scan_corpus(folder / "speech", folder / "noise", val_fraction=0.2, test_fraction=0.2, known=known)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_folders(tmp_path, num_speakers=6, num_noises=6)
    return tmp_path


@pytest.fixture
def corpus(folder: Path) -> Corpus:
    return write_corpus(scan(folder), folder / "corpus", **SETTINGS)


def written(corpus_folder: Path) -> dict[str, tuple[int, bytes]]:
    """When each file was written, and what is in it."""
    return {
        path.relative_to(corpus_folder).as_posix(): (path.stat().st_mtime_ns, path.read_bytes())
        for path in corpus_folder.rglob("*")
        if path.is_file()
    }


def grow(corpus: Corpus, folder: Path, **options: bool) -> Corpus:
    again = scan(folder, known=corpus.manifest())
    return write_corpus(again, corpus.storage.uri, **SETTINGS, **options)


KILLED = """
import sys, time
from ww_data import Manifest, write_corpus
from ww_data.write import parts
parts.SHARD_SEGMENTS = 4
def stop(done, total, what):
    if done >= 6:
        print("half", flush=True)
        time.sleep(60)
write_corpus(
    Manifest.read(sys.argv[1]), sys.argv[2], segment_s=1.0, num_val_mixtures=4, num_test_mixtures=4, progress=stop
)
"""


def test_a_killed_run_goes_on_where_it_stopped(folder: Path) -> None:
    manifest = scan(folder)
    (folder / "manifest.parquet").write_bytes(manifest.to_parquet())
    out = folder / "corpus"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(folder / "manifest.parquet"), str(out)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert process.stdout
    with process:
        assert process.stdout.readline() == b"half\n"
        process.send_signal(signal.SIGKILL)
    with pytest.raises(CorpusError, match="holds no corpus"):
        open_corpus(out)
    before = {name: seen for name, seen in written(out).items() if name.startswith(("speech/", "noise/"))}
    marked = {path.stem.replace("-", "/", 2) for path in (out / ".progress").glob("*.json")}
    assert marked  # it had begun
    corpus = write_corpus(manifest, out, **SETTINGS)
    corpus.verify()
    after = written(out)
    assert {name: after[name] for name in marked} == {name: before[name] for name in marked}
    uninterrupted = write_corpus(manifest, folder / "other", **SETTINGS)
    assert corpus.files == uninterrupted.files
    assert not list(out.glob(".*"))


def test_a_part_without_its_mark_is_not_taken_for_whole(folder: Path) -> None:
    manifest = scan(folder)
    whole = write_corpus(manifest, folder / "whole", **SETTINGS)
    name = next(name for name in whole.files if name.startswith("speech/train/"))
    half = folder / "corpus"
    for path, content in ((half / name, b"half"), (half / ".progress" / "x", b"")):
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    corpus = write_corpus(manifest, half, **SETTINGS)
    corpus.verify()
    assert corpus.files == whole.files


def test_a_corpus_of_an_earlier_version_grows_as_it_was_begun(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Earlier ones knew of no high-pass: its parts, their names and what comes to them stay without."""

    def settings_then(**given: object) -> dict[str, object]:
        return {name: value for name, value in checked_settings(**given).items() if name != "high_pass_hz"}

    manifest = scan(folder)
    with monkeypatch.context() as patch:
        patch.setattr("ww_data.write.corpus.checked_settings", settings_then)
        corpus = write_corpus(manifest, folder / "corpus", **SETTINGS)
    assert corpus.high_pass_hz == 0
    before = written(corpus.storage.path())
    write_audio(folder / "noise" / "later.wav", 0.2 + hiss(6000, 3.0), RATE)
    lost = next(name for name in corpus.files if name.startswith("speech/train/"))
    corpus.storage.path(lost).unlink()
    grown = grow(corpus, folder)
    assert grown.high_pass_hz == 0
    after = written(grown.storage.path())
    kept = [name for name in before if name.startswith(("speech/", "noise/"))]
    assert {name: after[name][1] for name in kept} == {name: before[name][1] for name in kept}
    [later] = [clip for clip in grown.manifest().clips if clip.id == "noise/later.wav"]
    bank = grown.noise_bank(later.split)
    pcm_T = bank.pcm(bank.ids.index(later.id))  # of a file of 16 bits
    np.testing.assert_allclose(pcm_T, 32_768 * (0.2 + hiss(6000, 3.0)), atol=1.5)
    anew = write_corpus(scan(folder), folder / "anew", **SETTINGS)
    assert anew.high_pass_hz == HIGH_PASS_HZ
    assert not {name for name in grown.files if "/" in name} & {name for name in anew.files if "/" in name}


def test_only_what_is_new_is_written(corpus: Corpus, folder: Path) -> None:
    out = corpus.storage.path()
    before = written(out)
    old = corpus.manifest()
    for n in range(2):
        (folder / "speech" / f"newcomer{n}").mkdir()
        write_audio(folder / "speech" / f"newcomer{n}" / "0.wav", syllables(5000 + n, 3.0), RATE)
    write_audio(folder / "noise" / "later.wav", hiss(6000, 3.0), RATE)
    grown = grow(corpus, folder)
    grown.verify()
    after = written(out)
    kept = [name for name in before if "/" in name]
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert len(after) > len(before)
    now = {clip.id: clip for clip in grown.manifest().clips}
    for clip in old.clips:
        assert (now[clip.id].split, now[clip.id].shard) == (clip.split, clip.shard)
    assert {"speech/newcomer0/0.wav", "noise/later.wav"} <= {clip.id for clip in now.values() if clip.shard}
    assert grown.manifest_hash != corpus.manifest_hash
    assert written(out) == after
    assert grow(grown, folder) == grown
    assert written(out) == after  # and now nothing is new


def test_every_clip_names_the_files_it_lies_in(corpus: Corpus) -> None:
    named = {name for clip in corpus.manifest().clips for name in clip.shard.split()}
    assert named == {name for name in corpus.files if name.count("/") == 2}


def test_what_is_missing_is_dropped_only_if_told(corpus: Corpus, folder: Path) -> None:
    gone = next(clip for clip in corpus.manifest().used("speech", "train"))
    Path(gone.path).unlink()
    before = written(corpus.storage.path())
    with pytest.raises(CorpusError, match=r"1 files of the corpus there were not found"):
        grow(corpus, folder)
    assert written(corpus.storage.path()) == before
    smaller = grow(corpus, folder, drop_missing=True)
    smaller.verify()
    assert gone.id not in {clip.id for clip in smaller.manifest().clips}
    there = {file.name for file in smaller.storage.files()}
    assert there == {*smaller.files, "corpus.json", "manifest.parquet"}  # the old shard is gone, too


def test_a_changed_file_is_written_anew(corpus: Corpus, folder: Path) -> None:
    changed = next(clip for clip in corpus.manifest().used("speech", "train"))
    write_audio(changed.path, syllables(7000, 3.0), RATE)
    again = grow(corpus, folder)
    again.verify()
    [clip] = [clip for clip in again.manifest().clips if clip.id == changed.id]
    assert clip.content_hash != changed.content_hash
    assert clip.shard != changed.shard
    assert changed.shard not in again.files


def test_a_mixture_of_a_clip_that_is_gone_is_mixed_anew(corpus: Corpus, folder: Path) -> None:
    Path(corpus.manifest().used("speech", "test")[0].path).unlink()
    again = grow(corpus, folder, drop_missing=True)
    again.verify()
    assert again.mixtures_name("test") != corpus.mixtures_name("test")


@pytest.mark.parametrize("survived", range(6))
def test_a_growing_run_killed_at_any_write_leaves_a_good_corpus(
    survived: int, corpus: Corpus, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_audio(folder / "noise" / "later.wav", hiss(6000, 3.0), RATE)
    write_audio(folder / "speech" / "speaker1" / "later.wav", syllables(5000, 3.0), RATE)
    again = scan(folder, known=corpus.manifest())
    num_writes = 0
    writing = Storage.writing

    @contextmanager
    def dying(storage: Storage, name: str) -> Iterator[Path]:
        nonlocal num_writes
        num_writes += 1
        if num_writes > survived:
            raise KeyboardInterrupt
        with writing(storage, name) as path:
            yield path

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "writing", dying)
        with pytest.raises(KeyboardInterrupt):
            write_corpus(again, corpus.storage.uri, **SETTINGS)
    left = open_corpus(corpus.storage.uri)
    left.verify()
    assert left.manifest_hash == left.manifest().hash
    grown = write_corpus(scan(folder, known=left.manifest()), corpus.storage.uri, **SETTINGS)
    grown.verify()
    assert grown.manifest_hash == again.hash


@pytest.mark.parametrize(
    "lost", ["speech/train/*", "noise/test/*", "mixtures/val*", "manifest-*", "corpus.json"]
)
@pytest.mark.parametrize("gone", [True, False])
def test_what_is_damaged_is_made_good(lost: str, gone: bool, corpus: Corpus, folder: Path) -> None:
    path = next(corpus.storage.path().glob(lost))
    if gone:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:100])
    if lost == "corpus.json" and gone:
        with pytest.raises(CorpusError, match="is not an empty folder"):
            known_manifest(corpus.storage.uri)
        return
    again = scan(folder, known=known_manifest(corpus.storage.uri))
    repaired = write_corpus(again, corpus.storage.uri, **SETTINGS)
    repaired.verify()
    assert repaired.files == corpus.files


def test_a_corpus_prepared_anew_is_not_mistaken_for_the_old_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WW_CACHE", str(folder / "cache"))
    manifest, address = scan(folder), f"memory://{uuid.uuid4().hex}/corpus"
    first = write_corpus(manifest, address, **SETTINGS)
    assert pq.read_metadata(first.mixtures("test").path).num_rows == 4
    for file in list(first.storage.files()):
        first.storage.delete(file.name)
    second = write_corpus(manifest, address, **SETTINGS | {"num_test_mixtures": 3, "segment_s": 2.0})
    assert pq.read_metadata(second.mixtures("test").path).num_rows == 3


def test_a_file_that_changed_since_the_scan_is_refused(folder: Path) -> None:
    manifest = scan(folder)
    write_audio(folder / "speech" / "speaker2" / "1.wav", syllables(9000, 3.0), RATE)
    with pytest.raises(CorpusError, match=r"1\.wav: changed since the folders were scanned"):
        write_corpus(manifest, folder / "corpus", **SETTINGS)


def test_another_run_into_the_same_folder_is_refused(folder: Path) -> None:
    manifest = scan(folder)

    def second_run(done: int, total: int, what: str) -> None:
        with pytest.raises(CorpusError, match="another run is writing there"):
            write_corpus(manifest, folder / "corpus", **SETTINGS)

    write_corpus(manifest, folder / "corpus", **SETTINGS, progress=second_run).verify()


@pytest.mark.parametrize("rate", [RATE, 44_100])
def test_a_long_recording_is_cut_without_seams(
    rate: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces_module, "PIECE_S", 2)
    write_folders(tmp_path)
    shutil.rmtree(tmp_path / "speech" / "speaker0")
    (tmp_path / "speech" / "speaker0").mkdir()
    write_audio(
        tmp_path / "speech" / "speaker0" / "long.wav", np.stack([syllables(1, 7.3, rate)] * 2, 1), rate
    )
    clip = next(clip for clip in scan(tmp_path).clips if clip.id.endswith("long.wav"))
    pieces = list(pieces_of(clip))
    assert [(piece.start_s, piece.seconds) for piece in pieces] == [(0, 2), (2, 2), (4, None)]
    with PieceReader(RATE) as reader:
        joined = np.concatenate([reader.read(piece) for piece in pieces])
    monkeypatch.setattr(pieces_module, "PIECE_S", 600)
    [whole] = pieces_of(clip)
    assert np.abs(joined - PieceReader(RATE).read(whole)).max() < 1e-5
    monkeypatch.setattr(pieces_module, "PIECE_S", 2)
    corpus = write_corpus(scan(tmp_path), tmp_path / "corpus", **SETTINGS)
    corpus.verify()
    [stored] = [item for item in corpus.manifest().clips if item.id == clip.id]
    assert stored.shard


def test_a_loud_recording_has_one_level_in_all_its_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces_module, "PIECE_S", 2)
    write_folders(tmp_path)
    shutil.rmtree(tmp_path / "speech" / "speaker0")
    (tmp_path / "speech" / "speaker0").mkdir()
    loud = syllables(1, 6.0)
    loud[: RATE // 2] *= 8  # peak 4 in the first piece alone
    path = tmp_path / "speech" / "speaker0" / "loud.wav"
    write_audio(path, loud, RATE, subtype="FLOAT")
    clip = next(clip for clip in scan(tmp_path).clips if clip.id.endswith("loud.wav"))
    with PieceReader(RATE) as reader:
        joined = np.concatenate(
            [to_pcm(reader.read(piece), pcm_gain(clip, RATE)) for piece in pieces_of(clip)]
        )
    gain = 0.9 * 32768 / (clip.peak + clip.offset)
    assert np.abs(joined - gain * high_passed(loud, RATE, HIGH_PASS_HZ)).max() <= 1
    assert gain > 0.89 * 32768 / np.abs(loud).max()


def test_a_pause_of_a_minute_is_no_speech(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces_module, "PIECE_S", 2)
    write_folders(tmp_path)
    path = tmp_path / "speech" / "speaker0" / "0.wav"
    quiet = np.concatenate([syllables(1, 4.0), 0.02 * hiss(2, 4.0)])
    write_audio(path, quiet, RATE)
    corpus = write_corpus(scan(tmp_path), tmp_path / "corpus", **SETTINGS)
    [clip] = [clip for clip in corpus.manifest().clips if clip.id.endswith("speaker0/0.wav")]
    for name in clip.shard.split():
        block = read_shard(corpus.storage.path(name))
        for row in np.flatnonzero((block.clip_id_N == clip.id) & (block.start_N >= 4 * RATE)):
            assert activity(block.pcm_NT[row], RATE, int(block.active_floor_N[row])) == 0


@pytest.mark.parametrize("out", ["noise/noise0.wav", "noise/noise0.wav/below"])
def test_a_file_in_the_way_is_one_clear_error(out: str, folder: Path) -> None:
    with pytest.raises(CorpusError, match=r"is not a folder|cannot be written"):
        write_corpus(scan(folder), folder / out, **SETTINGS)
