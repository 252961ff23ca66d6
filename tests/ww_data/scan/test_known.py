"""Scanning what is known in part: nothing is read twice, and what has a split keeps it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.ww_data.made_sounds import RATE, hiss, syllables, write_folders
from tests.ww_data.scan.watched_scans import StopError, counting, splits_of
from ww_data import CorpusError, Storage, read_audio, scan_corpus, write_audio


def test_a_run_that_was_killed_goes_on_where_it_stopped(tmp_path: Path) -> None:
    speech, noise = write_folders(tmp_path, num_speakers=12)
    journal = Storage(tmp_path / "journal")
    first: list[str] = []
    with pytest.raises(StopError):
        scan_corpus(speech, noise, journal=journal, executor=counting(first, stop_after=5))
    assert first
    write_audio(speech / "speaker0" / "added.wav", syllables(900, 2.0), RATE)  # other chunks, same files
    second: list[str] = []
    manifest = scan_corpus(speech, noise, journal=journal, executor=counting(second))
    assert not set(first) & set(second)
    assert len(first) + len(second) == len(manifest.clips) == 12 * 2 + 4 + 1
    assert manifest == scan_corpus(speech, noise)


def test_what_is_known_is_not_read_again_unless_it_changed(tmp_path: Path) -> None:
    speech, noise = write_folders(tmp_path, num_speakers=6)
    (speech / "speaker0" / "empty.wav").touch()
    before = scan_corpus(speech, noise)
    read: list[str] = []
    assert scan_corpus(speech, noise, known=before, executor=counting(read)) == before
    assert read == ["speech/speaker0/empty.wav"]  # perhaps it is whole by now
    write_audio(speech / "speaker1" / "0.wav", syllables(77, 3.0), RATE)
    read.clear()
    after = scan_corpus(speech, noise, known=before, executor=counting(read))
    assert "speech/speaker1/0.wav" in read
    assert after == scan_corpus(speech, noise)


def test_a_folder_that_was_moved_is_not_read_again(tmp_path: Path) -> None:
    speech, noise = write_folders(tmp_path / "a")
    before = scan_corpus(speech, noise)
    (tmp_path / "a").rename(tmp_path / "b")
    read: list[str] = []
    after = scan_corpus(tmp_path / "b/speech", tmp_path / "b/noise", known=before, executor=counting(read))
    assert not read
    assert after.hash == before.hash
    assert all("/b/" in clip.path for clip in after.clips)


def at_one_time(folder: Path) -> None:
    """As if unpacked from an archive that keeps times."""
    for path in folder.rglob("*.wav"):
        os.utime(path, ns=(10**18, 10**18))


@pytest.mark.parametrize("is_first_gone", [False, True])
@pytest.mark.parametrize("names", ["a b", "b a"])
def test_other_recordings_with_the_names_sizes_and_times_of_known_ones_are_read(
    names: str, is_first_gone: bool, tmp_path: Path
) -> None:
    first, second = names.split()
    speech, noise = write_folders(tmp_path / first)
    others = tmp_path / second / "speech"
    for n, path in enumerate(sorted(speech.rglob("*.wav"))):
        other = others / path.relative_to(speech)
        other.parent.mkdir(parents=True, exist_ok=True)
        write_audio(other, np.roll(read_audio(path)[0], 100 * (n + 1)), RATE)
        assert other.stat().st_size == path.stat().st_size
    at_one_time(tmp_path)
    before = scan_corpus(speech, noise)
    folders = [others] if is_first_gone else [speech, others]
    read: list[str] = []
    after = scan_corpus(folders, noise, known=before, executor=counting(read))
    num_known = (
        len(before.clips)
        if not is_first_gone
        else len([clip for clip in before.clips if clip.role == "noise"])
    )
    assert len(read) == len(after.clips) - num_known
    assert not after.skipped
    fresh = {clip.path: clip.content_hash for clip in scan_corpus(folders, noise).clips}
    assert {clip.path: clip.content_hash for clip in after.clips} == fresh
    if not is_first_gone:
        ids = {clip.path: clip.id for clip in after.clips}
        assert all(ids[clip.path] == clip.id for clip in before.clips)


def test_what_differs_in_its_midst_alone_was_not_moved(tmp_path: Path) -> None:
    """Tracks of a session begin and end together, with silence."""
    speech, noise = write_folders(tmp_path / "a")
    silence = np.zeros(RATE, np.float32)
    for n, path in enumerate(sorted(speech.rglob("*.wav"))):
        write_audio(path, np.concatenate([silence, read_audio(path)[0][:, 0], silence]), RATE)
        other = tmp_path / "b" / path.relative_to(speech)
        other.parent.mkdir(parents=True, exist_ok=True)
        write_audio(other, np.roll(read_audio(path)[0], n + 1), RATE)
    at_one_time(tmp_path)
    before = scan_corpus(speech, noise)
    shutil.rmtree(speech)
    read: list[str] = []
    scan_corpus(tmp_path / "b", noise, known=before, executor=counting(read))
    assert len(read) == len([clip for clip in before.clips if clip.role == "speech"])


def test_speakers_that_are_added_move_none_of_the_others(tmp_path: Path) -> None:
    speech, noise = write_folders(tmp_path, num_speakers=8)
    before = scan_corpus(speech, noise)
    for speaker in range(100, 112):
        (speech / f"speaker{speaker}").mkdir()
        write_audio(speech / f"speaker{speaker}" / "0.wav", syllables(speaker, 3.0), RATE)
    after = {clip.id: clip.split for clip in scan_corpus(speech, noise, known=before).clips}
    assert all(after[clip.id] == clip.split for clip in before.clips)
    assert len({split for name, split in after.items() if "speaker10" in name or "speaker11" in name}) > 1


def test_renamed_folders_keep_their_splits_and_take_new_files_with_them(tmp_path: Path) -> None:
    speech, noise = write_folders(tmp_path, num_speakers=10, num_noises=10)
    before = scan_corpus(speech, noise)
    for n, folder in enumerate(sorted(speech.iterdir())):
        folder.rename(speech / f"x{9 - n}")
        write_audio(speech / f"x{9 - n}" / "new.wav", syllables(800 + n, 2.0), RATE)
    for path in sorted(noise.iterdir()):
        path.rename(noise / f"x{path.name}")
    after = scan_corpus(speech, noise, known=before)
    after.check()
    assert splits_of(before, "content_hash").items() <= splits_of(after, "content_hash").items()
    assert splits_of(before, "speaker") == splits_of(after, "speaker")


def test_the_order_of_the_folders_does_not_matter(tmp_path: Path) -> None:
    speech, _ = write_folders(tmp_path, num_noises=1)
    folders = [tmp_path / name for name in ("m", "n", "z")]
    for n, folder in enumerate([*folders, tmp_path / "a"]):
        folder.mkdir()
        for take in range(3):
            write_audio(folder / f"noise{take}.wav", hiss(10 * n + take, 1.0), RATE)
    before = scan_corpus(speech, folders)
    assert scan_corpus(speech, folders[::-1]) == before
    grown = scan_corpus(speech, [tmp_path / "a", *folders[::-1]], known=before)
    assert splits_of(before).items() <= splits_of(grown).items()
    paths = {clip.id: clip.path for clip in grown.clips}
    assert all(paths[clip.id] == clip.path for clip in before.clips)
    twice = scan_corpus(speech, [*folders, folders[0], folders[1]])
    assert twice == before


def test_splits_that_other_options_would_change_are_kept_with_a_note(tmp_path: Path) -> None:
    speech, noise = write_folders(tmp_path, num_speakers=10, num_noises=10)
    before = scan_corpus(speech, noise)
    same = scan_corpus(speech, noise, known=before)
    other = scan_corpus(speech, noise, known=before, val_fraction=0.3, test_fraction=0.3)
    assert other == same == before
    assert not same.notes
    (note,) = other.notes
    assert "kept the splits of the corpus that is there" in note
    assert note in other.summary()


def _languages(root: Path, languages: Sequence[str]) -> Path:
    for n, language in enumerate(languages):
        for speaker in range(6):
            folder = root / language / f"{language}{speaker}"
            folder.mkdir(parents=True, exist_ok=True)
            write_audio(folder / "0.wav", syllables(7000 + 10 * n + speaker, 1.0), RATE)
    return root


def test_growth_that_would_group_known_files_in_another_way_is_refused(tmp_path: Path) -> None:
    _, noise = write_folders(tmp_path / "other")
    root = _languages(tmp_path / "speech", ["en"])
    before = scan_corpus(root, noise)
    _languages(root, ["en", "de", "fr"])
    with pytest.raises(
        CorpusError, match=r"^6 files .* speech/en/en0/0.wav \(en, was en0\): use the same"
    ) as caught:
        scan_corpus(root, noise, known=before)
    assert "\n" not in str(caught.value)
    apart = scan_corpus([root / "fr", root / "en", root / "de"], noise, known=before)
    assert splits_of(before).items() <= splits_of(apart).items()
    assert {clip.speaker for clip in apart.used("speech", "train")} & {"de0", "de1", "fr0", "fr1"}


def test_another_way_to_tell_speakers_is_refused(tmp_path: Path) -> None:
    speech, noise = write_folders(tmp_path)
    before = scan_corpus(speech, noise)
    for grouping in ("file", "prefix"):
        with pytest.raises(CorpusError, match=r"8 files .* would come to other speakers"):
            scan_corpus(speech, noise, known=before, speaker_from=grouping)
