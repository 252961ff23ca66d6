"""Scanning: disjoint splits, a reason for each file that is left out, nothing left to chance."""

from __future__ import annotations

import os
import pickle
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ww_data import CorpusError, Manifest, Storage, read_audio, scan_corpus, write_audio

from .made_sounds import RATE, hiss, syllables, write_folders


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

    assert scan_corpus(speech, noise, run=backwards) == scan_corpus(speech, noise)


class StopError(Exception):
    pass


def _counting(read: list[str], stop_after: int = 1000) -> Any:
    """A way to run that notes which files are read, and dies on the way."""

    def run(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        for index, item in enumerate(items):
            if index == stop_after:
                raise StopError
            read.extend(entry.id for entry in item)
            yield function(item)

    return run


def test_a_run_that_was_killed_goes_on_where_it_stopped(tmp_path: Path) -> None:
    speech, noise = write_folders(tmp_path, num_speakers=12)
    journal = Storage(tmp_path / "journal")
    first: list[str] = []
    with pytest.raises(StopError):
        scan_corpus(speech, noise, journal=journal, run=_counting(first, stop_after=5))
    assert first
    write_audio(speech / "speaker0" / "added.wav", syllables(900, 2.0), RATE)  # other chunks, same files
    second: list[str] = []
    manifest = scan_corpus(speech, noise, journal=journal, run=_counting(second))
    assert not set(first) & set(second)
    assert len(first) + len(second) == len(manifest.clips) == 12 * 2 + 4 + 1
    assert manifest == scan_corpus(speech, noise)


def test_what_is_known_is_not_read_again_unless_it_changed(tmp_path: Path) -> None:
    speech, noise = write_folders(tmp_path, num_speakers=6)
    (speech / "speaker0" / "empty.wav").touch()
    before = scan_corpus(speech, noise)
    read: list[str] = []
    assert scan_corpus(speech, noise, known=before, run=_counting(read)) == before
    assert read == ["speech/speaker0/empty.wav"]  # perhaps it is whole by now
    write_audio(speech / "speaker1" / "0.wav", syllables(77, 3.0), RATE)
    read.clear()
    after = scan_corpus(speech, noise, known=before, run=_counting(read))
    assert "speech/speaker1/0.wav" in read
    assert after == scan_corpus(speech, noise)


def test_speakers_that_are_added_move_none_of_the_others(tmp_path: Path) -> None:
    speech, noise = write_folders(tmp_path, num_speakers=8)
    before = scan_corpus(speech, noise)
    for speaker in range(100, 112):
        (speech / f"speaker{speaker}").mkdir()
        write_audio(speech / f"speaker{speaker}" / "0.wav", syllables(speaker, 3.0), RATE)
    after = {clip.id: clip.split for clip in scan_corpus(speech, noise, known=before).clips}
    assert all(after[clip.id] == clip.split for clip in before.clips)
    assert len({split for name, split in after.items() if "speaker10" in name or "speaker11" in name}) > 1


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


def _write_pairs(root: Path, name: str, speakers: Sequence[str], seed: int) -> None:
    for kind in ("clean", "noisy"):
        (root / f"{kind}_{name}_wav").mkdir(parents=True)
    for n, speaker in enumerate(speakers):
        for take in range(2):
            clean = np.round(syllables(seed + 10 * n + take, 1.0) * 16000) / 32768
            noise = np.round(hiss(seed + 10 * n + take, 1.0) * 16000) / 32768
            write_audio(root / f"clean_{name}_wav" / f"{speaker}_00{take}.wav", clean, RATE)
            write_audio(root / f"noisy_{name}_wav" / f"{speaker}_00{take}.wav", clean + noise, RATE)


def test_the_noise_of_pairs_goes_with_its_speech(tmp_path: Path) -> None:
    """As VoiceBank-DEMAND ships them: the test set is as given, val is dealt from the train speakers."""
    _write_pairs(tmp_path, "trainset_28spk", ["p226", "p227", "p228", "p230"], 0)
    _write_pairs(tmp_path, "testset", ["p232", "p257"], 500)
    clean, noisy = tmp_path / "clean_trainset_28spk_wav", tmp_path / "noisy_trainset_28spk_wav"
    write_audio(noisy / "p226_000.wav", syllables(7, 1.5), RATE)  # longer than its clean file
    (noisy / "p227_000.wav").unlink()
    (clean / "p228_000.wav").unlink()
    manifest = scan_corpus(corpus_dirs=tmp_path)
    reasons = {clip.id: clip.skip_reason for clip in manifest.skipped}
    misfit = "does not fit its clean file (24000 samples, the clean file has 16000)"
    assert reasons == {
        "noise/clean_trainset_28spk_wav/p226_000.wav": misfit,
        "speech/clean_trainset_28spk_wav/p226_000.wav": f"its noisy file cannot be used ({misfit})",
        "speech/clean_trainset_28spk_wav/p227_000.wav": "has no noisy file of its name",
        "noise/noisy_trainset_28spk_wav/p228_000.wav": "has no clean file of its name",
    }
    used = {clip.id: clip for clip in manifest.clips if clip.split}
    assert {clip.speaker for clip in manifest.used("speech", "test")} == {"p232", "p257"}
    assert len(manifest.used("speech", "val")) in (1, 2)
    for name, clip in used.items():
        if clip.role == "noise":
            assert clip.minus.endswith(clip.id.removeprefix("noise/"))
            assert clip.split == used[f"speech/{name.removeprefix('noise/')}"].split
    noise = used["noise/clean_testset_wav/p232_000.wav"]
    expected = np.mean((np.round(hiss(500, 1.0) * 16000) / 32768) ** 2)
    assert noise.level_dbfs == pytest.approx(10 * np.log10(expected), abs=0.01)


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


def _splits(manifest: Manifest, key: str = "id") -> dict[str, str]:
    return {getattr(clip, key): clip.split for clip in manifest.clips if clip.split}


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
    assert _splits(before).items() <= _splits(apart).items()
    assert {clip.speaker for clip in apart.used("speech", "train")} & {"de0", "de1", "fr0", "fr1"}


def test_another_way_to_tell_speakers_is_refused(tmp_path: Path) -> None:
    speech, noise = write_folders(tmp_path)
    before = scan_corpus(speech, noise)
    for grouping in ("file", "prefix"):
        with pytest.raises(CorpusError, match=r"8 files .* would come to other speakers"):
            scan_corpus(speech, noise, known=before, speaker_from=grouping)


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
    assert _splits(before, "content_hash").items() <= _splits(after, "content_hash").items()
    assert _splits(before, "speaker") == _splits(after, "speaker")


def test_a_folder_that_was_moved_is_not_read_again(tmp_path: Path) -> None:
    speech, noise = write_folders(tmp_path / "a")
    before = scan_corpus(speech, noise)
    (tmp_path / "a").rename(tmp_path / "b")
    read: list[str] = []
    after = scan_corpus(tmp_path / "b/speech", tmp_path / "b/noise", known=before, run=_counting(read))
    assert not read
    assert after.hash == before.hash
    assert all("/b/" in clip.path for clip in after.clips)


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
    assert _splits(before).items() <= _splits(grown).items()
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


def test_a_folder_for_two_roles_is_refused(tmp_path: Path) -> None:
    speech, _ = write_folders(tmp_path)
    with pytest.raises(CorpusError, match="speech: was given for speech and for noise"):
        scan_corpus(speech, speech)
    with pytest.raises(
        CorpusError, match=r"0.wav: is speech below .*speech and noise below .*speaker0: give each"
    ):
        scan_corpus(speech, speech / "speaker0")


def test_a_changed_clean_side_is_noticed(tmp_path: Path) -> None:
    _write_pairs(tmp_path, "trainset", ["p1", "p2", "p3", "p4"], 0)
    before = scan_corpus(corpus_dirs=tmp_path)
    path = tmp_path / "clean_trainset_wav" / "p1_000.wav"
    write_audio(path, syllables(77, 1.0), RATE)
    os.utime(path, ns=(10**18, 10**18))
    read: list[str] = []
    assert scan_corpus(corpus_dirs=tmp_path, known=before, run=_counting(read)) == scan_corpus(
        corpus_dirs=tmp_path
    )
    assert sorted(read) == [f"{role}/clean_trainset_wav/p1_000.wav" for role in ("noise", "speech")]


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
            scan_corpus(speech, noise, run=elsewhere)
    else:
        reasons = [clip.skip_reason for clip in scan_corpus(speech, noise, run=elsewhere).skipped]
        assert reasons == ["was removed while the folders were read"]


def test_one_clean_file_may_be_in_several_pairs(tmp_path: Path) -> None:
    """Each sentence at three SNRs, and a test set of the DNS kind, whose file names tell no speaker."""
    for name_of in ("{speaker}_{take}_{snr}", "x_fileid_{number}"):
        root = tmp_path / name_of[0]
        for speaker in range(6):
            for take in range(2):
                clean = np.round(syllables(100 * speaker + take, 1.0) * 16000) / 32768
                for snr in range(3):
                    number = 100 * speaker + 10 * take + snr
                    name = name_of.format(speaker=f"p{speaker}", take=take, snr=snr, number=number)
                    noise = np.round(hiss(number, 1.0) * 16000) / 32768
                    for folder, side in (("clean", clean), ("noisy", clean + noise)):
                        (root / folder).mkdir(parents=True, exist_ok=True)
                        write_audio(root / folder / f"{name}.wav", side, RATE)
        manifest = scan_corpus(corpus_dirs=root)
        manifest.check()
        assert not manifest.skipped
        splits = _splits(manifest)
        assert len(splits) == 2 * 36
        assert all(splits[f"speech/{name[6:]}"] == split for name, split in splits.items() if name[0] == "n")
        assert scan_corpus(corpus_dirs=root, known=manifest) == manifest


def test_one_noise_may_be_in_several_pairs(tmp_path: Path) -> None:
    """Of each noise one copy is used, in such a way that no split goes without."""
    for speaker in range(9):
        for number in range(3):
            clean = np.round(syllables(10 * speaker + number, 1.0) * 16000) / 32768
            noise = np.round(hiss(number, 1.0) * 16000) / 32768
            for folder, side in (("clean", clean), ("noisy", clean + noise)):
                (tmp_path / folder).mkdir(exist_ok=True)
                write_audio(tmp_path / folder / f"p{speaker}_{number}.wav", side, RATE)
    manifest = scan_corpus(corpus_dirs=tmp_path)
    manifest.check()
    assert [len(manifest.used("noise", split)) for split in ("train", "val", "test")] == [1, 1, 1]
    assert len([clip for clip in manifest.clips if clip.role == "speech" and clip.split]) == 27
    assert scan_corpus(corpus_dirs=tmp_path, known=manifest) == manifest
