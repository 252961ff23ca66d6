"""Wrong use of prepare, train, tune and demo: one clear line on stderr, exit code 2, nothing left behind."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from jobs.__main__ import COMMANDS
from tests.jobs.conftest import Done


@pytest.fixture
def refuse(run_job: Callable[..., Done]) -> Callable[..., str]:
    """refuse("train", "--data", folder, ...): the one line that the command complains with."""

    def refuse(job: str, *arguments: object) -> str:
        done = run_job(job, *arguments)
        assert done.code == 2
        return done.error

    return refuse


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for n in range(2):
        for role in ("speech", "noise"):
            (tmp_path / role).mkdir(exist_ok=True)
            sf.write(tmp_path / role / f"{n}.wav", 0.1 * rng.standard_normal(32_000), 16_000)
    return tmp_path


def test_prepare_names_the_folder_that_is_missing(refuse: Callable[..., str], sounds: Path) -> None:
    folders = ("--speech", sounds / "none", "--noise", sounds / "noise", "--out", sounds / "out")
    assert str(sounds / "none") in refuse("prepare", *folders)
    assert not (sounds / "out").exists()


def test_prepare_says_when_a_folder_holds_no_audio(refuse: Callable[..., str], sounds: Path) -> None:
    (sounds / "empty").mkdir()
    (sounds / "empty" / "notes.txt").write_text("no sound")
    folders = ("--speech", sounds / "speech", "--noise", sounds / "empty", "--out", sounds / "out")
    line = refuse("prepare", *folders)
    assert str(sounds / "empty") in line
    assert "audio" in line


def test_prepare_says_how_many_speakers_it_needs(refuse: Callable[..., str], sounds: Path) -> None:
    folders = ("--speech", sounds / "speech", "--noise", sounds / "noise", "--out", sounds / "out")
    line = refuse("prepare", *folders)
    assert "2" in line
    assert "3" in line


def test_train_names_the_nearest_setting(refuse: Callable[..., str]) -> None:
    line = refuse("train", "--data", "x", "--preset", "tiny", "--set", "loss.l1_wieght=2")
    assert "did you mean loss.l1_weight?" in line


def test_train_names_the_nearest_preset(refuse: Callable[..., str]) -> None:
    assert "did you mean tiny?" in refuse("train", "--data", "x", "--preset", "tinny")


def test_train_says_where_a_corpus_is_missing(
    refuse: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, local_ray: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "used already")  # the session's Ray; a command joins it
    folders = ("--data", tmp_path / "none", "--storage", tmp_path / "runs")
    line = refuse("train", "--preset", "tiny", *folders)
    assert str(tmp_path / "none") in line
    assert "jobs.prepare" in line
    assert not (tmp_path / "runs").exists()


def test_train_says_when_no_cluster_answers(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jobs.train", "--data", str(tmp_path), "--preset", "tiny"],
        env={"PATH": "", "RAY_ADDRESS": "127.0.0.1:1", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=480,
    )
    assert done.returncode == 2
    assert "error: no Ray cluster answers at '127.0.0.1:1'" in done.stderr


def test_tune_refuses_a_space_without_loss(refuse: Callable[..., str]) -> None:
    space = ("--space", "loss.l1_weight=0..0", "--space", "loss.stft_weight=0..0")
    assert "nothing to train on" in refuse("tune", "--data", "x", "--preset", "tiny", *space)


def test_demo_wants_both_folders_or_none(refuse: Callable[..., str]) -> None:
    assert "belong together" in refuse("demo", "--speech", "x")


@pytest.mark.parametrize("job", COMMANDS)
def test_help_explains_each_option(job: str) -> None:
    parser = importlib.import_module(f"jobs.{job}").parser()
    text = parser.format_help()
    assert f"usage: python -m jobs.{job}" in text
    assert "example: python -m jobs." in text
    silent = [action.option_strings for action in parser._actions if not action.help]
    assert not silent
