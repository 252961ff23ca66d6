"""ClearML when something dies or is not what it should be: nothing is lost, and nothing stays "running"."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.cluster.tracking.clearml_runs import (
    EXPECTED,
    finish,
    notice,
    offline_curves,
    offline_sessions,
    run,
    start,
    steps_written,
    wait_until,
)
from tests.cluster.tracking.clearml_server import ClearMLServer


def test_a_killed_run_is_taken_up_again(server: ClearMLServer, tmp_path: Path) -> None:
    """SIGKILL: what it had said arrives, the task is not left running; the same task goes on at the run's steps."""
    finish(
        start(tmp_path, server.environment, then="os.kill(os.getpid(), signal.SIGKILL)"), code=-signal.SIGKILL
    )
    wait_until(lambda: server.tasks and server.only_task["status"] == "stopped")
    assert server.curve("loss", "train") == EXPECTED["loss", "train"]
    wait_until(lambda: not list((tmp_path / "tracking" / "clearml").glob("messages-*")))
    first = server.only_task["id"]

    run(tmp_path, server.environment, steps="(20, 30)")
    assert server.only_task["id"] == first
    assert server.only_task["status"] == "completed"
    assert sorted(server.curve("loss", "train")) == [10, 20, 30], "iterations are not shifted"
    assert sorted(server.curve("PESQ", "noisy")) == [10, 20, 30]


def test_a_run_whose_children_are_killed_with_it_is_delivered(server: ClearMLServer, tmp_path: Path) -> None:
    """So ends a worker of Ray, on Ctrl-C say: first its children, then itself."""
    die = "import psutil; [child.kill() for child in psutil.Process().children()]; os.kill(os.getpid(), signal.SIGKILL)"
    finish(start(tmp_path, server.environment, then=die), code=-signal.SIGKILL)
    wait_until(lambda: server.tasks and server.only_task["status"] == "stopped")
    wait_until(lambda: not list((tmp_path / "tracking" / "clearml").glob("messages-*")))
    assert server.curve("loss", "train") == EXPECTED["loss", "train"]


@pytest.mark.soak
@pytest.mark.cluster
def test_an_interrupted_training_is_not_left_running(
    server: ClearMLServer, small_corpus: Path, tmp_path: Path
) -> None:
    command = ["jobs.train", "--data", str(small_corpus), "--storage", str(tmp_path), "--name", "cut"]
    job = subprocess.Popen(
        [sys.executable, "-m", *command, "--preset", "tiny", "--set", "training.max_steps=2000"],
        env={**os.environ, **server.environment, "CLEARML_CONFIG_FILE": str(tmp_path / "none.conf")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        # Where the tests run in the background, Ctrl-C is ignored, and so it would be in all that they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    family: list[psutil.Process] = []
    try:
        deadline_s = time.monotonic() + 400
        while not (server.curve("loss", "train") or job.poll() is not None or time.monotonic() > deadline_s):
            time.sleep(0.05)
        family = psutil.Process(job.pid).children(recursive=True)
        job.send_signal(signal.SIGINT)
        assert job.wait(timeout=400) == 130
    finally:
        if job.poll() is None:
            for process in (*family, psutil.Process(job.pid)):
                with contextlib.suppress(psutil.Error):
                    process.kill()
    wait_until(lambda: server.only_task["status"] == "stopped")
    wait_until(lambda: not list((tmp_path / "cut" / "tracking" / "clearml").glob("messages-*")))


def test_a_start_after_a_model_was_registered_replaces_it(server: ClearMLServer, tmp_path: Path) -> None:
    """As when the workers are killed while they end: the run is resumed and ends once more."""
    for steps in ("(10, 20)", "(30,)"):
        run(tmp_path, server.environment, steps=steps)
        (model,) = server.models.values()
        assert server.only_task["models"]["output"][0]["model"] == model["id"]
        assert model["uri"].removeprefix(server.address) in server.files


def test_a_broken_clearml_conf_is_told_and_the_messages_are_kept(
    server: ClearMLServer, tmp_path: Path
) -> None:
    (tmp_path / "bad.conf").write_text('api { credentials { access_key: "a')
    _, said = run(tmp_path, {"CLEARML_CONFIG_FILE": str(tmp_path / "bad.conf")})
    assert "Failed parsing" in said
    assert said.strip() == notice(tmp_path)
    folder = tmp_path / "tracking" / "clearml"
    assert str(folder / "clearml.log") in said
    assert "keeps what it should have heard" in said

    run(tmp_path, server.environment, steps="(30,)")  # with the settings repaired, a resume delivers all
    assert sorted(server.curve("loss", "train")) == [10, 20, 30]
    assert {path.name for path in folder.iterdir()} == {"clearml.log"}
    assert notice(tmp_path) == ""


def test_a_delivering_process_that_just_dies_is_told(server: ClearMLServer, tmp_path: Path) -> None:
    times, said = run(tmp_path, server.environment, then="kill_deliverer()")
    assert times["closed"] < 5
    assert said.startswith("ClearML failed; ")
    assert said.strip() == notice(tmp_path)
    assert list((tmp_path / "tracking" / "clearml").glob("messages-*"))


@pytest.mark.cluster
def test_a_late_stop_of_a_killed_start_does_not_last(server: ClearMLServer, tmp_path: Path) -> None:
    process = start(tmp_path, server.environment, then="sys.stdin.readline()")
    wait_until(lambda: bool(server.curve("loss", "train")))
    server.only_task["status"] = "stopped"
    process.stdin.write("\n")
    finish(process)
    assert server.only_task["status"] == "completed"
    assert len(server.models) == 1


@pytest.mark.cluster
def test_a_node_that_dies_loses_nothing(server: ClearMLServer, tmp_path: Path) -> None:
    """The run and its delivering process die at once: the task stays running until the run is resumed."""
    die = "kill_deliverer(); os.kill(os.getpid(), signal.SIGKILL)"
    finish(start(tmp_path, server.environment, then=f"time.sleep(4); {die}"), code=-signal.SIGKILL)
    assert server.only_task["status"] == "in_progress"
    first = server.only_task["id"]
    server.events.clear()  # as if none of it had arrived

    run(tmp_path, server.environment, steps="(30,)")
    assert server.only_task["id"] == first
    assert server.only_task["status"] == "completed"
    assert sorted(server.curve("loss", "train")) == [10, 20, 30]
    assert 20 in server.media("example_0", "noisy")


def test_an_unreachable_server_falls_back_to_a_session_that_can_be_uploaded(
    server: ClearMLServer, tmp_path: Path
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nowhere = {**server.environment, "CLEARML_API_HOST": f"http://127.0.0.1:{unused.getsockname()[1]}"}
    times, said = run(tmp_path, nowhere)
    assert times["took"] < 5
    assert times["closed"] < 30
    assert len(said.splitlines()) == 1
    assert "Connection refused" in said
    (session,) = offline_sessions(tmp_path)
    assert {key: value for key, value in offline_curves(session).items() if key in EXPECTED} == EXPECTED

    command = shlex.split(said[said.index("python -c") :])
    none = {"CLEARML_CONFIG_FILE": str(tmp_path / "none.conf")}
    uploaded = subprocess.run(
        [sys.executable, *command[1:]],
        env={**os.environ, **none, **server.environment},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert uploaded.returncode == 0, uploaded.stderr
    assert {key: server.curve(*key) for key in EXPECTED} == EXPECTED
    assert 20 in server.media("example_0", "noisy")
    assert server.only_task["status"] == "completed"


@pytest.mark.parametrize("fault", ["answers 500", "never answers", "fails after login"])
def test_a_broken_server_falls_back_too(server: ClearMLServer, tmp_path: Path, fault: str) -> None:
    server.failing = 500 if fault == "answers 500" else 0
    server.hanging = fault == "never answers"
    if fault == "fails after login":
        server.tasks_create = lambda body: {}["missing"]
    times, said = run(tmp_path, server.environment)
    assert times["took"] < 5
    assert times["closed"] < 60
    (session,) = offline_sessions(tmp_path)
    assert {key: value for key, value in offline_curves(session).items() if key in EXPECTED} == EXPECTED
    assert str(session) in said


@pytest.mark.cluster
@pytest.mark.parametrize("fault", ["stops", pytest.param("hangs", marks=pytest.mark.soak)])
def test_a_server_lost_in_mid_run_loses_nothing(server: ClearMLServer, tmp_path: Path, fault: str) -> None:
    process = start(tmp_path, server.environment, then="sys.stdin.readline()")
    wait_until(lambda: bool(server.curve("PESQ", "test")))
    first = server.only_task["id"]
    if fault == "hangs":
        server.hanging = True
    else:
        server.stop()
    process.stdin.write("\n")
    times, said = finish(process)
    assert times["closed"] < 35
    assert steps_written(tmp_path, "val") == [10, 20]
    (session,) = offline_sessions(tmp_path)
    assert {key: value for key, value in offline_curves(session).items() if key in EXPECTED} == EXPECTED
    assert f"previous_task_id='{first}'" in said

    server.stop()
    with ClearMLServer(server.port) as again:  # the server is back: a resume delivers what it missed
        again.tasks[first] = {**server.tasks[first], "status": "in_progress"}
        run(tmp_path, again.environment, steps="(30,)")
        assert sorted(again.curve("PESQ", "val")) == [10, 20, 30]
        assert again.only_task["id"] == first
        assert again.only_task["status"] == "completed"
    assert offline_sessions(tmp_path) == []


@pytest.mark.soak
@pytest.mark.cluster
def test_a_server_that_fails_for_a_while_loses_nothing(server: ClearMLServer, tmp_path: Path) -> None:
    server.failing, server.failing_call = 500, "events.add_batch"
    process = start(tmp_path, server.environment, then="sys.stdin.readline()")
    wait_until(lambda: any(b"PESQ" in body for body in server.refused))
    assert server.events == []
    server.failing = 0
    process.stdin.write("\n")
    finish(process)
    assert {key: server.curve(*key) for key in EXPECTED} == EXPECTED
    assert server.only_task["status"] == "completed"
