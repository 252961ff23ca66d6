"""Wrong use of prepare, train, tune and demo: one clear line on stderr, exit code 2, nothing left behind."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import soundfile as sf

from jobs import cli


def call(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, job: str, *arguments: object
) -> str:
    """Runs a command in this process; returns the one line it complained with."""
    module = importlib.import_module(f"jobs.{job}")
    monkeypatch.setattr(sys, "argv", [job, *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main(module.parser(), module.run)
    assert stop.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    return lines[0]


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    import numpy as np

    rng = np.random.default_rng(0)
    for n in range(2):
        for role in ("speech", "noise"):
            (tmp_path / role).mkdir(exist_ok=True)
            sf.write(tmp_path / role / f"{n}.wav", 0.1 * rng.standard_normal(32_000), 16_000)
    return tmp_path


def test_prepare_names_the_folder_that_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, sounds: Path
) -> None:
    line = call(
        capsys,
        monkeypatch,
        "prepare",
        "--speech",
        sounds / "none",
        "--noise",
        sounds / "noise",
        "--out",
        sounds / "out",
    )
    assert str(sounds / "none") in line
    assert not (sounds / "out").exists()


def test_prepare_says_when_a_folder_holds_no_audio(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, sounds: Path
) -> None:
    (sounds / "empty").mkdir()
    (sounds / "empty" / "notes.txt").write_text("no sound")
    line = call(
        capsys,
        monkeypatch,
        "prepare",
        "--speech",
        sounds / "speech",
        "--noise",
        sounds / "empty",
        "--out",
        sounds / "out",
    )
    assert str(sounds / "empty") in line
    assert "audio" in line


def test_prepare_says_how_many_speakers_it_needs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, sounds: Path
) -> None:
    line = call(
        capsys,
        monkeypatch,
        "prepare",
        "--speech",
        sounds / "speech",
        "--noise",
        sounds / "noise",
        "--out",
        sounds / "out",
    )
    assert "2" in line
    assert "3" in line


def test_train_names_the_nearest_setting(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = call(capsys, monkeypatch, "train", "--data", "x", "--preset", "tiny", "--set", "loss.l1_wieght=2")
    assert "did you mean loss.l1_weight?" in line


def test_train_names_the_nearest_preset(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "did you mean tiny?" in call(capsys, monkeypatch, "train", "--data", "x", "--preset", "tinny")


def test_train_says_where_a_corpus_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, local_ray: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "used already")  # the session's Ray; a command joins it
    line = call(
        capsys,
        monkeypatch,
        "train",
        "--data",
        tmp_path / "none",
        "--preset",
        "tiny",
        "--storage",
        tmp_path / "runs",
    )
    assert str(tmp_path / "none") in line
    assert "jobs.prepare" in line
    assert not (tmp_path / "runs").exists()


def test_train_says_when_no_cluster_answers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import subprocess

    done = subprocess.run(
        [sys.executable, "-m", "jobs.train", "--data", str(tmp_path), "--preset", "tiny"],
        env={
            "PATH": "",
            "RAY_ADDRESS": "127.0.0.1:1",
            "HOME": str(tmp_path),
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert "error: no Ray cluster answers at '127.0.0.1:1'" in done.stderr


def test_tune_refuses_a_space_without_loss(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = call(
        capsys,
        monkeypatch,
        "tune",
        *(
            "--data",
            "x",
            "--preset",
            "tiny",
            "--space",
            "loss.l1_weight=0..0",
            "--space",
            "loss.stft_weight=0..0",
        ),
    )
    assert "nothing to train on" in line


def test_demo_wants_both_folders_or_none(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "belong together" in call(capsys, monkeypatch, "demo", "--speech", "x")


@pytest.mark.parametrize(
    "job", ["prepare", "train", "tune", "evaluate", "serve", "enhance", "export", "demo"]
)
def test_help_explains_each_option(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, job: str
) -> None:
    parser = importlib.import_module(f"jobs.{job}").parser()
    text = parser.format_help()
    assert f"python -m jobs.{job}" in text
    assert "example: python -m jobs." in text
    silent = [action.option_strings for action in parser._actions if not action.help]
    assert not silent
