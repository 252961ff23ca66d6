"""Bad input: each file is used rightly or left out with a reason, and nothing else is lost."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.ww_data.audio.made_files import by_ffmpeg, by_libsndfile, sound
from tests.ww_data.made_sounds import RATE, hiss, syllables, write_folders
from tests.ww_data.scan.watched_scans import counting
from ww_data import Clip, Storage, read_mono, scan_corpus, write_audio
from ww_data.manifest import Role
from ww_data.parallel import ProcessEndedError
from ww_data.scan.files import Recording
from ww_data.scan.inspection import inspect


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
    (bad / "old.wma").write_bytes(b"whatever")
    shutil.copy(bad / "0.wav", speech / "speaker1" / "copy.wav")
    shutil.copy(bad / "1.wav", noise / "speech in noise.wav")
    (bad / "notes.txt").write_text("not audio, not listed")
    (bad / "dangling.wav").symlink_to(tmp_path / "nowhere.wav")
    os.mkfifo(bad / "pipe.wav")
    manifest = scan_corpus(speech, noise)
    reasons = {clip.id: clip.skip_reason for clip in manifest.skipped}
    expected = {
        "speech/speaker0/cut.wav": "is cut short",
        "speech/speaker0/cut.flac": "is cut short",
        "speech/speaker0/empty.wav": "is empty (0 bytes)",
        "speech/speaker0/silent.wav": "silent (-inf dBFS",
        "speech/speaker0/nan.wav": "NaN or infinite",
        "speech/speaker0/one sample.wav": "too short (0.000 s",
        "speech/speaker0/text.wav": "cannot be read as audio",
        "speech/speaker0/phone.m4a": "these bytes begin none of WAV, FLAC, OGG, MP3, M4A",
        "speech/speaker0/old.wma": ".wma files cannot be read: convert",
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
    assert "left out 2 x same sound as another file, such as " in manifest.summary()


def test_any_rate_depth_channels_and_name_is_used(tmp_path: Path) -> None:
    speech, noise = write_folders(tmp_path)
    odd = speech / "spéaker ☃ 4"
    odd.mkdir()
    write_audio(odd / "eight kHz.wav", syllables(1, 2.0, 8000), 8000)
    write_audio(odd / "24 bit.flac", syllables(2, 2.0), RATE, "PCM_24")
    write_audio(odd / "stereo.wav", np.stack([syllables(3, 2.0), syllables(4, 2.0)], axis=1), RATE)
    write_audio(tmp_path / "x.mp3", syllables(5, 2.0), RATE, subtype=None)
    (tmp_path / "x.mp3").rename(odd / "in fact mp3.wav")
    stereo = sound(2.0, 48_000, 2)
    (odd / "browser.webm").write_bytes(by_ffmpeg("webm", "libopus", stereo, 48_000, live="1"))
    (odd / "phone.m4a").write_bytes(by_ffmpeg("ipod", "alac", sound(2.0, seed=5)))
    (odd / "rotated.ogg").write_bytes(by_libsndfile("OGG", sound(1.0, seed=6)) * 2)
    manifest = scan_corpus(speech, noise)
    clips = {clip.id.rpartition("/")[2]: clip for clip in manifest.clips if clip.speaker == odd.name}
    assert not manifest.skipped
    assert len(clips) == 7
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


@pytest.mark.usefixtures("bound_by_permissions")
def test_what_may_not_be_read_is_listed(tmp_path: Path) -> None:
    speech, noise = write_folders(tmp_path)
    (speech / "speaker0" / "0.wav").chmod(0)
    (speech / "speaker1").chmod(0)
    reasons = {clip.id: clip.skip_reason for clip in scan_corpus(speech, noise).skipped}
    (speech / "speaker1").chmod(0o755)
    assert "Permission denied" in reasons["speech/speaker0/0.wav"]
    assert reasons["speech/speaker1"] == "folder cannot be opened"


def _reason(path: Path, x: np.ndarray, rate: int = RATE, subtype: str = "FLOAT") -> str:
    soundfile.write(path, x, rate, subtype=subtype)
    return inspect(Recording(path=str(path), name=path.name, role="speech")).skip_reason


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_a_constant_is_no_sound(tmp_path: Path, subtype: str) -> None:
    for offset in (0.5, -0.01, 1e-3):
        constant = np.full(2 * RATE, offset)
        reason = _reason(tmp_path / "x.wav", constant, subtype=subtype)
        assert reason.startswith("nothing but a constant (a DC offset of 0.")
        stereo = np.stack([constant, -constant], axis=1)
        assert "nothing but a constant" in _reason(tmp_path / "x.wav", stereo, subtype=subtype)
    late = np.concatenate([np.zeros(RATE), np.full(RATE, 0.5)])  # a step is a sound, though a poor one
    assert _reason(tmp_path / "x.wav", late, subtype=subtype) == ""


@pytest.mark.parametrize("offset", [0.0, 0.3, -0.6])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_a_level_is_that_of_the_sound_without_its_offset(tmp_path: Path, subtype: str, offset: float) -> None:
    x = 0.001 * np.random.default_rng(0).standard_normal((20 * RATE, 2))
    soundfile.write(tmp_path / "x.wav", x + np.array([offset, -offset]), RATE, subtype=subtype)
    clip = inspect(Recording(path=str(tmp_path / "x.wav"), name="x.wav", role="speech"))
    assert clip.skip_reason == ""
    assert clip.level_dbfs == pytest.approx(-60.0, abs=0.05)


def test_channels_that_cancel_each_other_out_are_no_speech(tmp_path: Path) -> None:
    x = syllables(0, 2.0)
    assert "cancel each other out" in _reason(tmp_path / "x.wav", np.stack([x, -x], axis=1))
    hiss = 1e-3 * np.random.default_rng(0).standard_normal((len(x), 2))
    assert "cancel each other out" in _reason(tmp_path / "x.wav", np.stack([x, -0.9 * x], axis=1) + hiss)


def test_channels_that_differ_are_speech(tmp_path: Path) -> None:
    x, other = syllables(0, 2.0), syllables(1, 2.0)
    for channels in ([x, 0 * x], [x, other], [x, -0.3 * x], [0 * x] * 7 + [x], [x, np.roll(x, 40)]):
        assert _reason(tmp_path / "x.wav", np.stack(channels, axis=1)) == ""


def test_samples_beyond_all_measure_are_left_out(tmp_path: Path) -> None:
    x = syllables(0, 2.0)
    assert "far beyond full scale" in _reason(tmp_path / "x.wav", 1e30 * x)
    assert "NaN or infinite" in _reason(tmp_path / "x.wav", np.where(np.arange(len(x)) == 9, np.inf, x))
    assert _reason(tmp_path / "x.wav", 8.0 * x) == ""  # above full scale is fine in floating point


@pytest.mark.parametrize("rate", [8000, 44_100, 192_000])
@pytest.mark.parametrize("num_channels", [1, 2, 8])
def test_any_rate_and_number_of_channels_is_measured_rightly(
    tmp_path: Path, rate: int, num_channels: int
) -> None:
    x = np.random.default_rng(0).normal(0, 0.1, (3 * rate, num_channels))
    soundfile.write(tmp_path / "x.flac", x, rate, subtype="PCM_24")
    clip = inspect(Recording(path=str(tmp_path / "x.flac"), name="x.flac", role="noise"))
    assert (clip.sample_rate, clip.num_channels, clip.num_frames) == (rate, num_channels, 3 * rate)
    assert clip.seconds == 3.0
    assert clip.level_dbfs == pytest.approx(-20.0, abs=0.1)
    assert clip.skip_reason == ""


def test_one_sound_is_known_in_any_container(tmp_path: Path) -> None:
    x = np.round(syllables(0, 20.0) * 32767) / 32768  # longer than a block
    soundfile.write(tmp_path / "a.wav", x, RATE, subtype="PCM_16")
    soundfile.write(tmp_path / "b.flac", x, RATE, subtype="PCM_24")
    soundfile.write(tmp_path / "c.wav", x, RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "d.wav", np.stack([x, x], axis=1), RATE, subtype="PCM_16")
    soundfile.write(tmp_path / "e.aiff", x, RATE, subtype="PCM_32")
    others = {"rate.wav": (x, 2 * RATE), "end.wav": (x[:-1], RATE), "level.wav": (x / 2, RATE)}
    for name, (y, rate) in others.items():
        soundfile.write(tmp_path / name, y, rate, subtype="FLOAT")
    hashes = {
        path.name: inspect(Recording(path=str(path), name=path.name, role="speech")).content_hash
        for path in tmp_path.iterdir()
    }
    assert len({hashes[name] for name in ("a.wav", "b.flac", "c.wav", "d.wav", "e.aiff")}) == 1
    assert len(set(hashes.values())) == 1 + len(others)


def test_loops_of_links_and_folders_named_like_files_lose_nothing(tmp_path: Path) -> None:
    speech, noise = write_folders(tmp_path)
    (speech / "loop").symlink_to(speech / "loop")  # leads to itself
    (speech / "speaker0" / "loop.wav").symlink_to(speech / "speaker0" / "loop.wav")
    (speech / "speaker0" / "a").symlink_to(speech / "speaker1")
    (speech / "speaker1" / "b").symlink_to(speech / "speaker0")
    (speech / "speaker2" / "folder.wav").mkdir()
    write_audio(speech / "speaker2" / "folder.wav" / "5.wav", syllables(55, 2.0), RATE)
    manifest = scan_corpus(speech, noise)
    assert {clip.id: clip.skip_reason for clip in manifest.skipped} == {
        "speech/speaker0/loop.wav": "is not a regular file"
    }
    assert sum(bool(clip.split) for clip in manifest.clips) == 4 * 2 + 4 + 1


def test_names_with_spaces_and_unicode_come_through(tmp_path: Path) -> None:
    speech, noise = write_folders(tmp_path)
    names = ["ü ß", "話者 一", "a'b\"c", "#1%20?", "line\nbreak"]
    for n, name in enumerate(names):
        (speech / name).mkdir()
        write_audio(speech / name / f"{name}.wav", syllables(600 + n, 2.0), RATE)
    (speech / "speaker0" / "0.wav").rename(os.fsdecode(os.fsencode(speech / "speaker0") + b"/\xff.wav"))
    manifest = scan_corpus(speech, noise)
    (tmp_path / "manifest.parquet").write_bytes(manifest.to_parquet())
    assert [clip.skip_reason for clip in manifest.skipped] == ["file name is not UTF-8: rename it"]
    clips = {clip.speaker: clip for clip in manifest.clips if clip.speaker in names}
    assert clips.keys() == set(names)
    assert all(len(read_mono(clip.path)) == clip.num_frames for clip in clips.values())


def test_what_is_wrong_with_a_pair_is_said_of_the_right_file(tmp_path: Path) -> None:
    clean, noisy = tmp_path / "clean.flac", tmp_path / "noisy.flac"
    write_audio(clean, syllables(0, 30.0), RATE)
    write_audio(noisy, syllables(0, 30.0) + hiss(0, 30.0), RATE)
    recording = Recording(path=str(noisy), name="noisy.flac", role="noise", minus=str(clean))
    assert inspect(recording).skip_reason == ""
    for path, start in (
        (noisy, "is cut short"),
        (clean, "its clean file cannot be used (is cut short"),
    ):
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) * 2 // 3] + bytes(len(whole) // 3))
        assert inspect(recording).skip_reason.startswith(start)
        path.unlink()
        assert "cannot be opened (No such file" in inspect(recording).skip_reason
        path.write_bytes(whole)


def test_peaks_are_those_of_the_channels_mean(tmp_path: Path) -> None:
    x = np.stack([np.full(RATE, 0.5), np.linspace(-1.5, 0.25, RATE)], axis=1).astype(np.float32)
    x[100] = (-0.75, -2.0)
    soundfile.write(tmp_path / "a.wav", x, RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "b.wav", np.round(x[:, 0] * 8192) / 32768, RATE, subtype="PCM_16")

    def peak(name: str, role: Role) -> float:
        return inspect(Recording(path=str(tmp_path / name), name=name, role=role)).peak

    assert peak("a.wav", "speech") == pytest.approx(1.375)
    assert peak("a.wav", "rir") == pytest.approx(0.75)
    assert peak("b.wav", "noise") == 0.1875


@pytest.mark.parametrize(("clean", "noise"), [(0.5, 0.25), (0.5, -0.25), (0.25, -0.75)])
def test_both_sides_of_a_pair_have_the_peak_of_the_loudest(
    tmp_path: Path, clean: float, noise: float
) -> None:
    for folder in ("clean", "noisy"):
        (tmp_path / "pairs" / folder).mkdir(parents=True)
    for n in range(3):
        tone, hum = (
            np.round(8192 * np.sin(np.arange(RATE) * (at + 0.05 * n))) / 8192 for at in (0.1, 0.0271)
        )
        sides = {"clean": clean * tone, "noisy": clean * tone + noise * hum}
        for folder, side in sides.items():
            soundfile.write(tmp_path / "pairs" / folder / f"{'abc'[n]}_1.wav", side, RATE, subtype="FLOAT")
    manifest = scan_corpus(corpus_dirs=tmp_path / "pairs")
    expected = abs(clean) + abs(noise)  # where both swing out together
    assert [clip.peak for clip in manifest.clips] == pytest.approx([expected] * 6, rel=1e-2)
    assert scan_corpus(corpus_dirs=tmp_path / "pairs", known=manifest) == manifest


def dies_of_some(recording: Recording) -> Clip:
    """`inspect` with a decoder that ends the process, as C libraries do."""
    if "deadly" in recording.name:
        os.abort()
    return inspect(recording)


def ending(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
    """An executor whose processes end of such a file; those that the scan begins by itself end, too."""
    for item in items:
        if isinstance(function, partial):
            yield function.func(dies_of_some, *function.args[1:], item)
            continue
        if any("deadly" in recording.name for recording in item):
            raise ProcessEndedError("a process that worked on the files ended 4 times")
        yield function(item)


def test_a_file_that_ends_the_process_that_reads_it_is_left_out_alone(tmp_path: Path) -> None:
    speech, noise = write_folders(tmp_path)
    expected = scan_corpus(speech, noise)
    for name in ("0 deadly.wav", "z deadly.wav"):
        write_audio(speech / "speaker1" / name, syllables(7, 2.0), RATE)
    journal = Storage(tmp_path / "journal")
    manifest = scan_corpus(speech, noise, executor=ending, journal=journal)
    assert {clip.id: clip.skip_reason for clip in manifest.skipped} == {
        f"speech/speaker1/{name} deadly.wav": "it ended the process that read it: convert it to WAV or FLAC"
        for name in ("0", "z")
    }
    assert manifest.hash == expected.hash
    read: list[str] = []
    again = scan_corpus(speech, noise, known=expected, executor=counting(read), journal=journal)
    assert read == ["speech/speaker1/0 deadly.wav", "speech/speaker1/z deadly.wav"]
    assert len(again.clips) == len(manifest.clips)
