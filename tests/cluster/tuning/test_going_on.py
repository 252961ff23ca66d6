"""`python -m jobs.tune` when it is killed, or interrupted, and started again: what is done stays, the rest goes on."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.settings.experiment import load_config
from cluster.tuning.plan import plan_of_space
from cluster.tuning.search import Outcome, next_values
from tests.cluster.environment import private_environment
from tests.cluster.tracking.clearml_server import ClearMLServer
from tests.cluster.training.cut_runs import starts, train_workers
from ww_data import Storage
from ww_models import load_bundle

SPACE, TRIALS, STEPS = "loss.l1_weight=0..5", 2, 16
SETTINGS = (f"training.max_steps={STEPS}", "training.validate_every_steps=4", "resources.torch_threads=1")


def command(corpus: Path, storage: Path, *more: str, space: str = SPACE) -> list[str]:
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    sweep = ("--space", space, "--search", "random", "--trials", str(TRIALS), "--name", "sweep")
    where = ("--data", str(corpus), "--storage", str(storage), "--preset", "tiny")
    return [sys.executable, "-m", "jobs.tune", *where, *settings, *sweep, *more]


def start(line: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    """In a process group of its own, in which Ctrl-C ends it."""
    return subprocess.Popen(
        line,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for_checkpoint(process: subprocess.Popen[str], run: Path, after_step: int = 0) -> None:
    deadline_s = time.monotonic() + 600
    while max(saved_steps(run), default=0) <= after_step:
        assert time.monotonic() < deadline_s, f"{run.name} was never saved"
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.05)


def saved_steps(run: Path) -> list[int]:
    return [int(path.parent.name.rpartition("_")[2]) for path in run.glob("checkpoint_*/checkpoint.json")]


def states(folder: Path) -> dict[str, str]:
    return {one["name"]: one["state"] for one in read(folder)["trials"]}


def read(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "sweep.json").read_text())
    return content


def files_of(run: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}


def wait_until_gone(storage: Path) -> None:
    """What the killed command had started ends with it: nothing writes into its runs any more."""
    deadline_s = time.monotonic() + 120
    while time.monotonic() < deadline_s:
        left = []
        for process in psutil.process_iter(["name", "open_files"]):
            with contextlib.suppress(psutil.Error):
                left += [file for file in process.info["open_files"] or () if str(storage) in file.path]
        if not left:
            return
        time.sleep(0.5)
    raise AssertionError(f"still open: {left[:3]}")


@pytest.mark.cluster
@pytest.mark.timeout(2400)
def test_a_sweep_that_is_killed_goes_on_where_it_was(
    server: ClearMLServer, small_corpus: Path, tmp_path: Path
) -> None:
    environment = private_environment(**server.environment, CLEARML_CONFIG_FILE=str(tmp_path / "none.conf"))
    storage, folder = tmp_path / "runs", tmp_path / "runs" / "sweep"
    first, second = (folder / f"trial_{number:03d}" for number in range(TRIALS))

    sweep = start(command(small_corpus, storage), environment)
    try:
        wait_for_checkpoint(sweep, second)  # one runs at a time: the first is done
    finally:
        os.killpg(sweep.pid, signal.SIGKILL)
    sweep.communicate()
    assert states(folder) == {first.name: "done", second.name: "running"}
    assert not (second / "bundle").exists()
    wait_until_gone(storage)
    stood_at = max(saved_steps(second))
    before = files_of(first / "bundle") | files_of(first / "tracking")

    sweep = start(command(small_corpus, storage), environment)
    try:
        wait_for_checkpoint(sweep, second, after_step=stood_at)
        workers = train_workers(psutil.Process(sweep.pid))
        for worker in workers:  # or a fast machine would be done before it hears of the end
            worker.suspend()
        sweep.send_signal(signal.SIGINT)
        time.sleep(1)
        for worker in workers:
            with contextlib.suppress(psutil.Error):
                worker.resume()
        _, errors = sweep.communicate(timeout=240)
    finally:
        sweep.kill()
    assert sweep.returncode == 130, errors
    assert "Traceback" not in errors
    assert f"{folder} was cut (1 of 2 runs are done, 1 begun): python -m jobs.tune --data" in errors
    assert "--resume sweep goes on with it" in errors
    wait_until_gone(storage)

    line = [sys.executable, "-m", "jobs.tune", "--data", str(small_corpus), "--storage", str(storage)]
    done = subprocess.run(
        [*line, "--resume", "sweep"], env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    assert set(states(folder).values()) == {"done"}

    assert files_of(first / "bundle") | files_of(first / "tracking") == before, "it ran again"
    assert [step for step, _ in starts(Storage(first))] == [0]
    zero, once, twice = (step for step, _ in starts(Storage(second)))
    assert zero == 0 < once <= twice < STEPS, "it began anew"
    assert load_bundle(second / "bundle").num_parameters > 0
    plan = plan_of_space(
        load_config("tiny", SETTINGS), [SPACE], metric="pesq", search="random", trials=TRIALS
    )
    drawn: list[Outcome] = []
    for trial in read(folder)["trials"]:
        assert trial["values"] == next_values(plan, drawn), "what is drawn next does not depend on cuts"
        drawn.append(Outcome(values=trial["values"], state="done", score=1.0))
    assert (folder / "best.yaml").is_file()

    # ClearML: the sweep's one task, and under it one of each run, however often they were cut.
    tasks = {task["name"]: task for task in server.tasks.values()}
    assert len(server.tasks) == len(tasks) == 1 + TRIALS
    assert tasks["sweep"]["status"] == "completed"
    for trial in read(folder)["trials"]:
        task = tasks[trial["name"]]
        assert task["parent"] == tasks["sweep"]["id"]
        assert "sweep:sweep" in task["tags"]
        weight = task["hyperparams"]["config"]["loss.l1_weight"]["value"]
        assert float(weight) == pytest.approx(trial["values"]["loss.l1_weight"])
        values = {
            event["variant"]: event["value"]
            for event in server.events
            if event["task"] == task["id"] and event.get("metric") == "Summary"
        }
        assert values["PESQ"] == pytest.approx(trial["scores"]["pesq"])
    assert any(event.get("metric") == "settings" for event in server.events), "the table of all"

    # Nothing is left to do, and nothing else is done in its place.
    again = subprocess.run(
        command(small_corpus, storage), env=environment, capture_output=True, text=True, timeout=240
    )
    assert again.returncode == 0, again.stderr
    assert "2 of 2 runs are done: nothing is left to run" in again.stdout
    assert "starting Ray" not in again.stderr
    other = command(small_corpus, storage, space="loss.l1_weight=0..4")
    refused = subprocess.run(other, env=environment, capture_output=True, text=True, timeout=240)
    assert refused.returncode == 2
    assert "space.loss.l1_weight: 0..5 -> 0..4" in refused.stderr
