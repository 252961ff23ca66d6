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


def test_train_says_when_no_cluster_answers(small_corpus: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jobs.train", "--data", str(small_corpus), "--preset", "tiny"],
        env={"PATH": "", "RAY_ADDRESS": "127.0.0.1:1", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=480,
    )
    assert done.returncode == 2
    assert "error: no Ray cluster answers at '127.0.0.1:1'" in done.stderr


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is said has to be said before Ray is started."""
    for job in ("train", "tune", "demo"):
        monkeypatch.setattr(f"jobs.{job}.connect", lambda: pytest.fail("Ray was started first"))


@pytest.mark.usefixtures("no_ray")
def test_a_corpus_of_another_rate_than_the_models_is_refused_before_anything_starts(
    refuse: Callable[..., str], small_corpus: Path, tmp_path: Path
) -> None:
    data = ("--data", small_corpus, "--preset", "tiny", "--storage", tmp_path / "runs")
    rate = ("--set", "model.sample_rate=48000")
    figures = f"{small_corpus} has 16000 Hz, the model 48000 Hz"
    assert figures in refuse("train", *data, *rate)
    assert figures in refuse("tune", *data, *rate, "--space", "loss.l1_weight=0..1")
    assert "has one: it cannot be swept" in refuse("tune", *data, "--space", "model.sample_rate=8000,16000")
    assert "has 48000 Hz, the model 16000 Hz" in refuse(
        "demo", "--sample-rate", "48000", "--out", tmp_path / "runs"
    )
    assert not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("no_ray")
def test_weights_of_another_rate_are_no_start_for_a_run(
    refuse: Callable[..., str], bundle: Path, small_corpus: Path
) -> None:
    options = ("--data", small_corpus, "--preset", "tiny", "--finetune", bundle)
    line = refuse("train", *options, "--set", "model.sample_rate=48000")
    assert f"the weights of {bundle} are of 16000 Hz, model.sample_rate is 48000 Hz" in line


@pytest.mark.usefixtures("no_ray")
def test_pesq_does_not_decide_where_it_is_not_defined(refuse: Callable[..., str]) -> None:
    options = ("--data", "x", "--preset", "tiny", "--set", "model.sample_rate=11025")
    line = refuse("train", *options, "--set", "training.score=pesq")
    assert "training.score=pesq: PESQ is not defined at 11025 Hz" in line
    assert "PESQ is not defined" in refuse(
        "tune", *options, "--metric", "pesq", "--space", "loss.l1_weight=0..1"
    )


def test_tune_refuses_a_space_without_loss(refuse: Callable[..., str]) -> None:
    space = ("--space", "loss.l1_weight=0..0", "--space", "loss.stft_weight=0..0")
    assert "nothing to train on" in refuse("tune", "--data", "x", "--preset", "tiny", *space)


@pytest.mark.parametrize("job", ["enhance", "prepare", "train"])
def test_a_value_that_is_empty_is_no_folder(refuse: Callable[..., str], job: str, sounds: Path) -> None:
    """Of a variable that is not set: it would be the folder where the command runs."""
    words = {
        "enhance": ("--bundle", "x", "--out", "", sounds / "speech"),
        "prepare": ("--speech", "", "--noise", sounds / "noise", "--out", sounds / "out"),
        "train": ("--data", "x", "--storage", ""),
    }[job]
    assert "is empty" in refuse(job, *words)


def test_serve_wants_bundles_or_a_store_with_a_model_in_force(
    refuse: Callable[..., str], tmp_path: Path, bundle: Path
) -> None:
    both = ("serve", "--bundle", "a", "--store", "b")
    assert "give either --bundle DIR or --store STORE" in refuse(*both)
    assert "give either" in refuse("serve", "--bundle", bundle, "--store", tmp_path)
    assert "no model is in force" in refuse("serve", "--store", tmp_path)


def test_demo_wants_both_folders_or_none(refuse: Callable[..., str]) -> None:
    assert "belong together" in refuse("demo", "--speech", "x")


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is refused must be refused before Ray takes seconds to start."""
    for job in ("prepare", "train", "tune", "evaluate", "demo"):
        monkeypatch.setattr(f"jobs.{job}.connect", lambda: pytest.fail("Ray was started"))


@pytest.fixture
def a_file(tmp_path: Path) -> Path:
    (tmp_path / "a file").write_text("in the way")
    return tmp_path / "a file"


@pytest.mark.usefixtures("without_ray")
def test_what_is_taken_or_missing_is_said_before_ray_starts(
    refuse: Callable[..., str], small_corpus: Path, bundle: Path, sounds: Path, a_file: Path
) -> None:
    data, runs = ("--data", small_corpus), ("--storage", sounds / "runs")
    (sounds / "runs" / "old").mkdir(parents=True)
    taken = (*data, *runs, "--name", "old", "--preset", "tiny")
    space = ("--space", "loss.l1_weight=0..5")
    assert "exists already" in refuse("train", *taken)
    assert "no run to resume" in refuse("train", *data, *runs, "--resume", "none")
    assert "at least as many validation mixtures" in refuse("train", *data, *runs, "--workers", 8)
    assert "holds no sweep (sweep.json); choose another --name" in refuse("tune", *taken, *space)
    assert "no sweep to resume" in refuse("tune", *data, *runs, "--resume", "none")
    assert "leave --space out" in refuse("tune", *data, *runs, "--resume", "old", *space)
    assert "LOW..HIGH/N" in refuse("tune", *data, *runs, *space, "--search", "grid")
    assert "--metric" in refuse("tune", *data, *runs, *space, "--set", "training.score=stoi")
    assert "at least 1" in refuse("tune", *data, *runs, *space, "--trials", 0)
    assert "at least 1" in refuse("tune", *data, *runs, *space, "--concurrent", 0)
    for job in ("train", "tune", "evaluate"):
        more = {"train": (), "tune": space, "evaluate": ("--bundle", bundle)}[job]
        assert "corpus" in refuse(job, "--data", sounds / "none", *more)
    assert "bundle" in refuse("evaluate", *data, "--bundle", sounds / "none")
    for job, words in (
        ("evaluate", (*data, "--bundle", bundle, "--out", a_file / "report")),
        ("train", (*data, "--storage", a_file)),
        ("tune", (*data, "--storage", a_file, *space)),
        ("prepare", ("--speech", sounds / "speech", "--noise", sounds / "noise", "--out", a_file)),
        ("enhance", ("--bundle", bundle, "--out", a_file, sounds / "speech")),
        ("demo", ("--out", a_file)),
    ):
        assert "is not a folder" in refuse(job, *words), job
    for words in ((sounds / "none", sounds / "noise"), (sounds / "speech", sounds / "none")):
        folders = ("--speech", words[0], "--noise", words[1])
        assert str(sounds / "none") in refuse("prepare", *folders, "--out", sounds / "out")
        assert str(sounds / "none") in refuse("demo", *folders, "--out", sounds / "out")
    other = ("--speech", sounds / "speech", "--noise", sounds / "noise", "--segment-s", 3)
    assert "other settings" in refuse("prepare", *other, "--out", small_corpus)
    assert not (sounds / "out").exists()


@pytest.mark.parametrize("job", COMMANDS)
def test_help_explains_each_option(job: str) -> None:
    parser = importlib.import_module(f"jobs.{job}").parser()
    text = parser.format_help()
    assert f"usage: python -m jobs.{job}" in text
    assert "example: python -m jobs." in text
    silent = [action.option_strings for action in parser._actions if not action.help]
    assert not silent
