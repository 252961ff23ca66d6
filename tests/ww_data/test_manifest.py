"""Scanning: disjoint splits, a reason for each file that is left out, nothing left to chance."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from ww_data import CorpusError, Manifest, scan_corpus, write_audio

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
    assert [replace(clip, path="") for clip in second.clips] == [
        replace(clip, path="") for clip in first.clips
    ]
    reseeded = {scan_corpus(tmp_path / "b/speech", tmp_path / "b/noise", seed=seed).hash for seed in range(5)}
    assert len(reseeded) > 1
    write_audio(tmp_path / "b/speech/speaker0/0.wav", syllables(77, 3.0), RATE)
    assert scan_corpus(tmp_path / "b/speech", tmp_path / "b/noise").hash != first.hash


def test_each_unusable_file_is_listed_with_its_reason(tmp_path: Path) -> None:
    speech, noise = write_folders(tmp_path)
    bad = speech / "speaker0"
    write_audio(bad / "cut.wav", hiss(1, 2.0), RATE)
    (bad / "cut.wav").write_bytes((bad / "cut.wav").read_bytes()[:20000])
    write_audio(bad / "cut.flac", hiss(2, 2.0), RATE)
    (bad / "cut.flac").write_bytes((bad / "cut.flac").read_bytes()[:20000])
    (bad / "empty.wav").touch()
    write_audio(bad / "silent.wav", np.zeros(RATE), RATE)
    soundfile.write(bad / "nan.wav", np.full(RATE, np.nan), RATE, subtype="FLOAT")
    write_audio(bad / "one sample.wav", np.array([0.5]), RATE)
    (bad / "text.wav").write_text("hello " * 100)
    (bad / "phone.m4a").write_bytes(b"whatever")
    shutil.copy(bad / "0.wav", speech / "speaker1" / "copy.wav")
    shutil.copy(bad / "1.wav", noise / "speech in noise.wav")
    (bad / "notes.txt").write_text("not audio, not listed")
    (bad / "dangling.wav").symlink_to(tmp_path / "nowhere.wav")
    os.mkfifo(bad / "pipe.wav")
    manifest = scan_corpus(speech, noise)
    reasons = {clip.id: clip.skip_reason for clip in manifest.skipped}
    expected = {
        "speech/speaker0/cut.wav": "is cut short",
        "speech/speaker0/cut.flac": "cannot be read as audio",
        "speech/speaker0/empty.wav": "is empty (0 bytes)",
        "speech/speaker0/silent.wav": "silent (-inf dBFS",
        "speech/speaker0/nan.wav": "NaN or infinite",
        "speech/speaker0/one sample.wav": "too short (0.000 s",
        "speech/speaker0/text.wav": "cannot be read as audio",
        "speech/speaker0/phone.m4a": ".m4a files cannot be read: convert",
        "speech/speaker0/dangling.wav": "is not a regular file",
        "speech/speaker0/pipe.wav": "is not a regular file",
        "speech/speaker1/copy.wav": "same sound as another file (speech/speaker0/0.wav)",
        "noise/speech in noise.wav": "same sound as another file (speech/speaker0/1.wav)",
    }
    assert reasons.keys() == expected.keys()
    for name, reason in expected.items():
        assert reason in reasons[name]
        assert "\n" not in reasons[name]
    assert not any(clip.split for clip in manifest.skipped)
    assert "skipped 2 x same sound as another file" in manifest.summary()


def test_any_rate_depth_channels_and_name_is_used(tmp_path: Path) -> None:
    speech, noise = write_folders(tmp_path)
    odd = speech / "spéaker ☃ 4"
    odd.mkdir()
    write_audio(odd / "eight kHz.wav", syllables(1, 2.0, 8000), 8000)
    write_audio(odd / "24 bit.flac", syllables(2, 2.0), RATE, "PCM_24")
    write_audio(odd / "stereo.wav", np.stack([syllables(3, 2.0), syllables(4, 2.0)], axis=1), RATE)
    write_audio(tmp_path / "x.mp3", syllables(5, 2.0), RATE, subtype=None)
    (tmp_path / "x.mp3").rename(odd / "in fact mp3.wav")
    manifest = scan_corpus(speech, noise)
    clips = {clip.id.rpartition("/")[2]: clip for clip in manifest.clips if clip.speaker == odd.name}
    assert not manifest.skipped
    assert len(clips) == 4
    assert {round(clip.seconds, 3) for clip in clips.values()} == {2.0}
    assert clips["eight kHz.wav"].sample_rate == 8000
    assert clips["stereo.wav"].num_channels == 2
    power = np.mean(syllables(2, 2.0) ** 2)
    assert clips["24 bit.flac"].level_dbfs == pytest.approx(10 * np.log10(power), abs=0.01)


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    speech, noise = write_folders(tmp_path)
    (speech / "speaker0" / "back to the top").symlink_to(speech)
    elsewhere, _ = write_folders(tmp_path / "elsewhere", num_speakers=1)
    write_audio(elsewhere / "speaker0" / "new.wav", syllables(500, 2.0), RATE)
    (speech / "linked").symlink_to(elsewhere / "speaker0")
    names = [clip.id for clip in scan_corpus(speech, noise).clips]
    assert len(names) == len(set(names)) == 8 + 4 + 3
    assert "speech/linked/new.wav" in names


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_listed(tmp_path: Path) -> None:
    speech, noise = write_folders(tmp_path)
    (speech / "speaker0" / "0.wav").chmod(0)
    (speech / "speaker1").chmod(0)
    reasons = {clip.id: clip.skip_reason for clip in scan_corpus(speech, noise).skipped}
    (speech / "speaker1").chmod(0o755)
    assert "Permission denied" in reasons["speech/speaker0/0.wav"]
    assert reasons["speech/speaker1"] == "folder cannot be opened"


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


def test_a_manifest_comes_back_and_pandas_reads_it(tmp_path: Path) -> None:
    speech, noise = write_folders(tmp_path)
    (speech / "speaker0" / "empty.wav").touch()
    told: list[tuple[int, int, str]] = []
    manifest = scan_corpus(speech, noise, progress=lambda *step: told.append(step))
    assert [step[:2] for step in told] == [(n + 1, 13) for n in range(13)]
    manifest.write(tmp_path / "manifest.parquet")
    again = Manifest.read(tmp_path / "manifest.parquet")
    assert again == manifest
    assert again.hash == manifest.hash
    frame = pd.read_parquet(tmp_path / "manifest.parquet")
    assert list(frame[frame.skip_reason != ""].id) == ["speech/speaker0/empty.wav"]


def test_a_damaged_manifest_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "manifest.parquet"
    for damage in (b"", b"nonsense"):
        path.write_bytes(damage)
        with pytest.raises(CorpusError, match="not a readable manifest") as caught:
            Manifest.read(path)
        assert "\n" not in str(caught.value)
    pd.DataFrame({"a": [1]}).to_parquet(path)
    with pytest.raises(CorpusError, match="not a readable manifest"):
        Manifest.read(path)
