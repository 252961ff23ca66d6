"""Scanning: disjoint splits, a reason for each file that is left out, nothing left to chance."""

from __future__ import annotations

import pickle
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.ww_data.made_sounds import RATE, hiss, syllables, write_folders
from ww_data import CorpusError, Storage, read_audio, scan_corpus, write_audio


def test_speakers_and_recordings_are_in_one_split_each(tmp_path: Path) -> None:
    manifest = scan_corpus(*write_folders(tmp_path, num_speakers=7, num_noises=9))
    assert not manifest.skipped
    for role, num_groups in (("speech", 7), ("noise", 9)):
        groups = [{clip.speaker for clip in manifest.used(role, split)} for split in ("train", "val", "test")]
        assert all(groups)
        assert sum(map(len, groups)) == len(set.union(*groups)) == num_groups


def test_a_scan_depends_on_contents_and_seed_alone(tmp_path: Path) -> None:
    first = scan_corpus(*write_folders(tmp_path / "a", num_speakers=9))
    (tmp_path / "b").mkdir()
    for folder in ("noise", "speech"):  # copied in another order, elsewhere
        for path in sorted((tmp_path / "a" / folder).rglob("*.wav"), reverse=True):
            target = tmp_path / "b" / path.relative_to(tmp_path / "a")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    second = scan_corpus(tmp_path / "b/speech", tmp_path / "b/noise")
    assert second.hash == first.hash
    without_place = [
        [replace(clip, path="", modified_ns=0) for clip in scan.clips] for scan in (first, second)
    ]
    assert without_place[0] == without_place[1]
    reseeded = {scan_corpus(tmp_path / "b/speech", tmp_path / "b/noise", seed=seed).hash for seed in range(5)}
    assert len(reseeded) > 1
    write_audio(tmp_path / "b/speech/speaker0/0.wav", syllables(77, 3.0), RATE)
    assert scan_corpus(tmp_path / "b/speech", tmp_path / "b/noise").hash != first.hash


@pytest.mark.parametrize(
    ("names", "grouping", "speakers"),
    [
        (["ann/1.wav", "bob/x/1.wav", "cy/2.wav"], "auto", {"ann", "bob", "cy"}),
        (["ann__a.wav", "ann__b.wav", "bob_1_2.wav", "cy-3.wav"], "auto", {"ann", "bob", "cy"}),
        (["1.wav", "2.wav", "3.wav"], "auto", {"1", "2", "3"}),
        (["set/19/a/x.wav", "set/26/a/y.wav", "set/32/z.wav"], "auto", {"19", "26", "32"}),
        (["train/a_1.wav", "dev/b_1.wav", "test/c_1.wav"], "auto", {"a", "b", "c"}),
        (["x/a_1.wav", "y/b_1.wav", "z/c_1.wav"], "prefix", {"a", "b", "c"}),
        (["x/1.wav", "x/2.wav", "x/3.wav"], "file", {"x/1.wav", "x/2.wav", "x/3.wav"}),
    ],
)
def test_who_speaks(tmp_path: Path, names: list[str], grouping: str, speakers: set[str]) -> None:
    _, noise = write_folders(tmp_path / "other", num_speakers=1)
    for index, name in enumerate(names):
        (tmp_path / "speech" / name).parent.mkdir(parents=True, exist_ok=True)
        write_audio(tmp_path / "speech" / name, syllables(index, 1.0), RATE)
    manifest = scan_corpus(tmp_path / "speech", noise, speaker_from=grouping)
    assert {clip.speaker for clip in manifest.clips if clip.role == "speech"} == speakers


def test_several_folders_with_the_same_names_inside(tmp_path: Path) -> None:
    speech, noise = write_folders(tmp_path / "a")
    (tmp_path / "b").mkdir()
    for n in range(2):
        write_audio(tmp_path / "b" / f"noise{n}.wav", hiss(50 + n, 1.0), RATE)
    manifest = scan_corpus([speech], [noise, tmp_path / "b"])
    recordings = [clip.speaker for clip in manifest.clips if clip.role == "noise"]
    assert sorted(recordings)[:4] == ["noise0.wav", "noise0.wav#2", "noise1.wav", "noise1.wav#2"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda speech, noise: shutil.rmtree(noise), "is not a folder of noise"),
        (
            lambda speech, noise: [path.unlink() for path in noise.iterdir()],
            "no audio file was found for noise",
        ),
        (lambda speech, noise: shutil.rmtree(speech / "speaker0"), "3 speakers are needed.* 2 were found"),
        (
            lambda speech, noise: (noise / "noise0.wav").write_bytes(b""),
            "3 recordings .* 2 were found.* is empty",
        ),
    ],
)
def test_what_makes_no_corpus_is_one_clear_line(tmp_path: Path, change: object, message: str) -> None:
    speech, noise = write_folders(tmp_path, num_speakers=3, num_noises=3)
    change(speech, noise)  # type: ignore[operator]
    with pytest.raises(CorpusError, match=message) as caught:
        scan_corpus(speech, noise)
    assert "\n" not in str(caught.value)


def test_fractions_are_checked(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="val_fraction is 0"):
        scan_corpus(tmp_path, tmp_path, val_fraction=0.0)


def test_nothing_depends_on_the_order_of_the_work(tmp_path: Path) -> None:
    """Chunks of files may be read anywhere and come back in any order; they are pickled on the way."""
    speech, noise = write_folders(tmp_path, num_speakers=12)

    def backwards(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        assert len(items) > 2
        function = pickle.loads(pickle.dumps(function))
        return iter(
            [pickle.loads(pickle.dumps(function(pickle.loads(pickle.dumps(item))))) for item in items[::-1]]
        )

    assert scan_corpus(speech, noise, executor=backwards) == scan_corpus(speech, noise)


def _write_splits(root: Path, splits: Sequence[str]) -> Path:
    """Two speakers in each of some folders, two files each."""
    for n, split in enumerate(splits):
        (root / split).mkdir(parents=True)
        for speaker in range(2):
            for take in range(2):
                x = syllables(1000 * n + 10 * speaker + take, 1.0)
                write_audio(root / split / f"{'abcdefgh'[2 * n + speaker]}_{take}.wav", x, RATE)
    return root


def test_splits_that_data_come_with_are_kept(tmp_path: Path) -> None:
    _, noise = write_folders(tmp_path, num_noises=6)
    speech = _write_splits(tmp_path / "given", ["train", "dev", "test"])
    manifest = scan_corpus(speech, noise)
    splits = {clip.id.split("/")[1]: clip.split for clip in manifest.clips if clip.role == "speech"}
    assert splits == {"train": "train", "dev": "val", "test": "test"}
    dealt = {
        tuple(clip.split for clip in scan_corpus(speech, noise, splits="dealt", seed=seed).clips)
        for seed in range(8)
    }
    assert len(dealt) > 1


def test_held_out_parts_that_do_not_come_with_the_data_are_dealt(tmp_path: Path) -> None:
    _, noise = write_folders(tmp_path, num_noises=6)
    manifest = scan_corpus(_write_splits(tmp_path / "given", ["train", "test"]), noise)
    by_folder = {
        folder: {clip.split for clip in manifest.clips if clip.id.startswith(f"speech/{folder}/")}
        for folder in ("train", "test")
    }
    assert by_folder == {"train": {"train", "val"}, "test": {"test"}}


def test_what_is_in_two_given_splits_stays_held_out(tmp_path: Path) -> None:
    _, noise = write_folders(tmp_path, num_noises=6)
    speech = _write_splits(tmp_path / "given", ["train", "val", "test"])
    shutil.copy(speech / "train/a_0.wav", speech / "test/x_0.wav")  # one sound in two splits
    write_audio(speech / "test/b_9.wav", syllables(9000, 1.0), RATE)  # one speaker in two splits
    manifest = scan_corpus(speech, noise)
    manifest.check()
    reasons = {clip.id: clip.skip_reason for clip in manifest.skipped}
    assert reasons == {
        "speech/train/a_0.wav": "same sound as another file (speech/test/x_0.wav, which is in test)",
        "speech/train/b_0.wav": "its speaker is in another split (b is in test, not train)",
        "speech/train/b_1.wav": "its speaker is in another split (b is in test, not train)",
    }
    assert {clip.id for clip in manifest.used("speech", "train")} == {"speech/train/a_1.wav"}


def test_room_responses_are_optional_and_dealt_if_there_are_enough(tmp_path: Path) -> None:
    speech, noise = write_folders(tmp_path)
    decay = np.exp(-np.arange(4000) / 500).astype(np.float32)
    for n in range(4):
        (tmp_path / "rooms" / f"room{n}").mkdir(parents=True)
        write_audio(tmp_path / "rooms" / f"room{n}" / "0.wav", hiss(n, 0.25) * decay, RATE)
        if n == 1:
            few = scan_corpus(speech, noise, rir_dirs=tmp_path / "rooms")
            assert len(few.used("rir", "train")) == 2
    manifest = scan_corpus(speech, noise, rir_dirs=tmp_path / "rooms")
    assert [len(manifest.used("rir", split)) for split in ("train", "val", "test")] == [2, 1, 1]
    assert {clip.layout for clip in manifest.clips if clip.role == "rir"} == {"rir"}
    assert "rooms" in manifest.summary()


def test_addresses_are_read_like_folders(tmp_path: Path) -> None:
    speech, noise = write_folders(tmp_path)
    (speech / "späker ☃ 9?").mkdir()
    write_audio(speech / "späker ☃ 9?" / "a b#1%20.wav", syllables(9, 2.0), RATE)
    bucket = Storage(f"memory://{uuid.uuid4().hex}")
    for path in sorted(tmp_path.rglob("*.wav")):
        bucket.write(path.relative_to(tmp_path).as_posix(), path.read_bytes())
    bucket.write("speech/speaker0/empty.wav", b"")
    (speech / "speaker0" / "empty.wav").touch()
    far = scan_corpus(f"{bucket}/speech", f"{bucket}/noise")
    near = scan_corpus(speech, noise)
    assert far.hash == near.hash
    assert [clip.skip_reason for clip in far.clips] == [clip.skip_reason for clip in near.clips]
    assert all(len(read_audio(clip.path)[0]) == clip.num_frames for clip in far.clips if clip.split)


def test_an_address_that_cannot_be_used_is_one_clear_line(tmp_path: Path) -> None:
    _, noise = write_folders(tmp_path)
    for address in ("tape://reel/speech", f"memory://{uuid.uuid4().hex}/nothing"):
        with pytest.raises(CorpusError, match="cannot be listed") as caught:
            scan_corpus(address, noise)
        assert address in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_folder_for_two_roles_is_refused(tmp_path: Path) -> None:
    speech, _ = write_folders(tmp_path)
    with pytest.raises(CorpusError, match="speech: was given for speech and for noise"):
        scan_corpus(speech, speech)
    with pytest.raises(
        CorpusError, match=r"0.wav: is speech below .*speech and noise below .*speaker0: give each"
    ):
        scan_corpus(speech, speech / "speaker0")


@pytest.mark.parametrize("comes_back", [False, True])
def test_a_file_that_was_listed_and_is_not_found(tmp_path: Path, comes_back: bool) -> None:
    speech, noise = write_folders(tmp_path)
    path, away = speech / "speaker0" / "0.wav", tmp_path / "away.wav"

    def elsewhere(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        path.rename(away)
        results = [function(item) for item in items]
        if comes_back:
            away.rename(path)
        return iter(results)

    if comes_back:
        with pytest.raises(
            CorpusError, match=r"0.wav: is not reached from node .*: all nodes must see the folders"
        ):
            scan_corpus(speech, noise, executor=elsewhere)
    else:
        reasons = [clip.skip_reason for clip in scan_corpus(speech, noise, executor=elsewhere).skipped]
        assert reasons == ["was removed while the folders were read"]
