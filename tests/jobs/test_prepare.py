"""`python -m jobs.prepare`: each option reaches the manifest, and wrong use is one line."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from jobs import cli, prepare
from tests.conftest import SAMPLE_RATE, speech_like
from ww_data import Corpus, open_corpus
from ww_data.manifest import Clip

QUICK = ("--segment-s", "1", "--val-mixtures", "2", "--test-mixtures", "3")


def write_sounds(folder: Path, names: list[str], kind: str) -> None:
    """Sounds of 2 s, each of them another: speech, noise, or the response of a room."""
    for name in names:
        rng = np.random.default_rng([ord(letter) for letter in name])
        noise = 0.1 * rng.standard_normal(2 * SAMPLE_RATE)
        if kind == "speech":
            noise = speech_like(rng, 2.0)
        elif kind == "room":
            noise *= 10 ** (-3 * np.arange(len(noise)) / 4000)
            noise[0] = 0.9
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        sf.write(folder / name, noise, SAMPLE_RATE)


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["prepare", *map(str, arguments), *QUICK])
    with pytest.raises(SystemExit) as stop:
        cli.main(prepare.parser(), prepare.run)
    assert isinstance(stop.value.code, int)
    return stop.value.code


def groups(clips: list[Clip], role: str) -> dict[str, set[str]]:
    """{split: speakers, recordings or rooms} of a role."""
    found: dict[str, set[str]] = {}
    for clip in clips:
        if clip.role == role:
            found.setdefault(clip.split, set()).add(clip.speaker)
    return found


def used(corpus: Corpus) -> list[Clip]:
    return [clip for clip in corpus.manifest().clips if not clip.skip_reason]


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """All files of a role in one folder: only their names say who speaks and what was recorded."""
    speech = [f"{name}_{n}.wav" for name in ("ann", "bob", "carl", "dora") for n in range(2)]
    write_sounds(tmp_path / "speech", speech, "speech")
    noise = [f"{name}-{n}.wav" for name in ("door", "fan", "rain", "wind") for n in range(2)]
    write_sounds(tmp_path / "noise", noise, "noise")
    write_sounds(tmp_path / "rooms", [f"{name}/a.wav" for name in ("hall", "bath", "cell", "shed")], "room")
    return tmp_path


def test_folders_are_grouped_as_asked_and_rooms_are_dealt(
    monkeypatch: pytest.MonkeyPatch, local_ray: str, plain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = ["--speech", plain / "speech", "--noise", plain / "noise", "--rir", plain / "rooms"]
    out = plain / "by name"
    grouping = ["--speaker-from", "prefix", "--recording-from", "prefix"]
    assert call(monkeypatch, *folders, *grouping, "--out", out) == 0
    corpus = open_corpus(out)
    for role, names in (
        ("speech", {"ann", "bob", "carl", "dora"}),
        ("noise", {"door", "fan", "rain", "wind"}),
        ("rir", {"hall", "bath", "cell", "shed"}),
    ):
        by_split = groups(used(corpus), role)
        assert set(by_split) == {"train", "val", "test"}
        assert {Path(name).name for found in by_split.values() for name in found} == names
        assert sum(len(found) for found in by_split.values()) == 4  # none in two splits
    assert all(corpus.splits[split].num_rooms == len(corpus.rooms(split)) for split in corpus.splits)
    assert corpus.segment_samples == SAMPLE_RATE
    assert corpus.splits["test"].num_mixtures == 3
    said = capsys.readouterr().out
    assert f"corpus: {out}" in said

    out = plain / "by file"
    grouping = ["--speaker-from", "file", "--recording-from", "file"]
    assert call(monkeypatch, *folders, *grouping, "--out", out) == 0
    for role in ("speech", "noise"):
        assert sum(len(found) for found in groups(used(open_corpus(out)), role).values()) == 8


def test_a_data_set_keeps_its_splits_until_they_are_dealt(
    monkeypatch: pytest.MonkeyPatch, local_ray: str, tmp_path: Path
) -> None:
    data_set = tmp_path / "MS-SNSD"
    for part in ("train", "test"):
        write_sounds(data_set / f"clean_{part}", [f"clnsp{n}{part}.wav" for n in range(4)], "speech")
        write_sounds(data_set / f"noise_{part}", [f"Fan_{n}{part}.wav" for n in range(4)], "noise")
    source = ["--corpus", data_set, "--layout", "ms-snsd", "--seed", 1]
    assert call(monkeypatch, *source, "--out", tmp_path / "given") == 0
    assert call(monkeypatch, *source, "--splits", "dealt", "--out", tmp_path / "dealt") == 0
    given, dealt = (used(open_corpus(tmp_path / name)) for name in ("given", "dealt"))
    assert {clip.layout for clip in given} == {"ms-snsd"}
    assert {clip.role for clip in given} == {"speech", "noise"}
    assert len(given) == len(dealt) == 16
    assert {clip.id for clip in given if clip.split == "test"} == {
        clip.id for clip in given if "_test/" in clip.path
    }
    assert {clip.id for clip in dealt if clip.split == "test"} != {
        clip.id for clip in dealt if "_test/" in clip.path
    }


def test_recordings_that_are_gone_are_dropped_only_when_told(
    monkeypatch: pytest.MonkeyPatch, local_ray: str, plain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--speech", plain / "speech", "--noise", plain / "noise", "--speaker-from", "file"]
    arguments += ["--out", plain / "corpus"]
    assert call(monkeypatch, *arguments) == 0
    before = open_corpus(plain / "corpus").manifest()
    gone = next(clip for clip in before.clips if clip.role == "speech" and clip.split == "train")
    Path(gone.path).unlink()
    capsys.readouterr()
    assert call(monkeypatch, *arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert Path(gone.path).name in lines[0]
    assert open_corpus(plain / "corpus").manifest() == before
    assert call(monkeypatch, *arguments, "--drop-missing") == 0
    after = open_corpus(plain / "corpus").manifest()
    assert {clip.id for clip in after.clips} == {clip.id for clip in before.clips} - {gone.id}
    assert {clip.id: clip.split for clip in after.clips}.items() <= {
        clip.id: clip.split for clip in before.clips
    }.items()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--noise", "noise"), "give --speech and --noise, or --corpus"),
        (("--speech", "speech", "--rir", "rooms"), "give --speech and --noise, or --corpus"),
        (("--corpus", "speech", "--layout", "ms-snsd"), "clean_train and noise_train"),
        (("--speech", "speech", "--noise", "noise", "--rir", "no such"), "no such"),
    ],
)
def test_wrong_use_is_one_line_and_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
    local_ray: str,
    plain: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(plain)
    assert call(monkeypatch, *arguments, "--out", "out") == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert said in lines[0]
    assert not (plain / "out").exists()


def test_options_that_do_not_exist_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "--speech", "a", "--noise", "b", "--out", "c", "--layout", "libri") == 2
    assert "invalid choice: 'libri'" in capsys.readouterr().err
