"""Runs that are cut: killed workers and interrupted drivers end where an uninterrupted run ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from cluster.config import load_config
from cluster.training import TrainingResult, run_training
from ww_models import load_bundle

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

SETTINGS = [
    "resources.num_workers=2",
    "training.max_steps=24",
    "training.validate_every_steps=6",
    "tracking.log_every_steps=1",
    # What a checkpoint has to hold besides weights and optimizer.
    "training.accumulate=2",
    "training.ema_decay=0.9",
]


def lines(run_dir: Path) -> list[dict[str, float | str]]:
    path = run_dir / "tracking" / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def train_losses(run_dir: Path) -> dict[float | str, float | str]:
    """{step: loss}; of a step that was done twice, the later."""
    return {line["step"]: line["loss"] for line in lines(run_dir) if line["series"] == "train"}


def wait_for_step(run_dir: Path, step: int, timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while max((int(line["step"]) for line in lines(run_dir)), default=0) < step:
        assert time.monotonic() < deadline, f"step {step} was not reached within {timeout_s} s"
        time.sleep(0.02)


def wait_for_file(path: Path, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} was not written within {timeout_s} s"
        time.sleep(0.02)


def train_workers(root: psutil.Process) -> list[psutil.Process]:
    """Ray Train's worker processes among the descendants of one process."""
    found = []
    for process in root.children(recursive=True):
        try:
            if "RayTrainWorker" in " ".join(process.cmdline()[:1]):
                found.append(process)
        except psutil.Error:  # it ended meanwhile
            continue
    return found


def assert_same_end(cut: Path, whole: Path) -> None:
    cut_losses, whole_losses = train_losses(cut), train_losses(whole)
    assert cut_losses[24] == pytest.approx(whole_losses[24], abs=1e-6)
    expected = load_bundle(whole / "bundle").state_dict()
    for name, weight in load_bundle(cut / "bundle").state_dict().items():
        assert abs(weight - expected[name]).max() <= 1e-6, name


@pytest.fixture(scope="module")
def whole(local_ray: str, small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    config = load_config("tiny", SETTINGS)
    return run_training(
        config, str(small_corpus), tmp_path_factory.mktemp("runs"), "whole", show_progress=False
    )


def test_killed_worker_comes_back_and_ends_where_an_uninterrupted_run_ends(
    whole: TrainingResult, small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")  # how soon Ray knows of a checkpoint
    killed: list[int] = []

    def kill_one() -> None:
        wait_for_step(tmp_path / "cut", 7)
        wait_for_file(tmp_path / "cut" / "checkpoint_manager_snapshot.json")
        victim = train_workers(psutil.Process())[-1]
        victim.send_signal(signal.SIGKILL)
        killed.append(victim.pid)

    killer = threading.Thread(target=kill_one)
    killer.start()
    config = load_config("tiny", SETTINGS)
    result = run_training(config, str(small_corpus), tmp_path, "cut", show_progress=False)
    killer.join()
    assert killed
    assert result.steps == 24
    starts = [line["step"] for line in lines(result.run_dir) if line["series"] == "start"]
    assert starts[0] == 0
    assert len(starts) == 2, "the kill came too late to prove anything"
    assert starts[1] in (6, 12, 18), "it did not go on from a checkpoint"
    assert_same_end(result.run_dir, whole.run_dir)


def test_interrupted_command_resumes_and_ends_where_an_uninterrupted_run_ends(
    whole: TrainingResult, small_corpus: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "jobs.train", "--data", str(small_corpus), "--preset", "tiny"]
    command += ["--storage", str(tmp_path)] + [part for s in SETTINGS for part in ("--set", s)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    process = subprocess.Popen(
        [*command, "--name", "cut"],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        # Where the tests run in the background, Ctrl-C is ignored, and so it would be in all that they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    children: list[psutil.Process] = []
    try:
        wait_for_step(tmp_path / "cut", 9)
        wait_for_file(tmp_path / "cut" / "checkpoint_manager_snapshot.json")
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in stderr
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive, "the interrupted command left processes behind"
    assert not (tmp_path / "cut" / "bundle").exists()

    # Resuming takes nothing but the name: the settings are those that the run was started with.
    resume = [sys.executable, "-m", "jobs.train", "--data", str(small_corpus), "--storage", str(tmp_path)]
    done = subprocess.run(
        [*resume, "--resume", "cut"], env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert_same_end(tmp_path / "cut", whole.run_dir)
