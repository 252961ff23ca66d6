"""The private Ray of a command."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from cluster.machine import guard, session, termination
from cluster.machine.ray_internals import prepare_local_start
from cluster.machine.session import _temporary_files_in, connect, patience
from tests.cluster.sockets import assert_on_loopback


def test_what_killed_workers_leave_goes_with_ray(local_ray: str) -> None:
    (folder,) = Path("/tmp").glob(f"ww-ray-{os.getpid()}-*")
    of_workers = ray.get(ray.remote(num_cpus=0)(tempfile.gettempdir).remote())
    assert Path(of_workers) == folder
    assert not Path(tempfile.gettempdir()).is_relative_to(folder), "this process outlives it"
    assert "TMPDIR" not in os.environ


def test_ray_listens_on_loopback_alone(local_ray: str) -> None:
    ray.get(ray.remote(num_cpus=0)(tempfile.gettempdir).remote())  # a worker is there, too
    assert_on_loopback(os.getpid())


def test_a_ray_that_does_not_start_is_tried_once_more_and_then_said_in_a_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tried = list[dict[str, Any]]()

    def timed_out(**options: Any) -> None:
        tried.append(options)
        Path(options["_temp_dir"], "left.txt").write_text("")
        raise Exception("The current node timed out during startup.\nThis could happen because")

    monkeypatch.setattr(ray, "init", timed_out)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(guard, "end_started", lambda: None)  # the Ray of other tests
    monkeypatch.setattr(session, "_owns_ray", session.owns_ray())  # is put back afterwards, for them
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(
        ConnectionError, match=r"Ray does not start .*load [\d.]+ on \d+ cores\): The current node"
    ):
        connect().__enter__()
    assert len({options["_temp_dir"] for options in tried}) == 2
    assert not any(Path(options["_temp_dir"]).exists() for options in tried)


def test_starts_get_more_time_the_busier_the_machine_is(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = len(os.sched_getaffinity(0))
    for load, expected in ((0.1, 1.0), (3.0, 3.0), (99.0, 10.0)):
        monkeypatch.setattr(os, "getloadavg", lambda load=load: (load * cores, 0.0, 0.0))
        assert patience() == pytest.approx(expected)
    name = "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S"
    monkeypatch.delenv(name, raising=False)
    prepare_local_start(2.0)
    assert os.environ[name] == "60"


def test_what_workers_leave_on_a_disk_that_the_user_has_named_goes_as_well(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with contextlib.ExitStack() as stack:
        with _temporary_files_in("/tmp/not-this-one", stack):
            assert Path(os.environ["TMPDIR"]).parent == tmp_path
        assert os.environ["TMPDIR"] == str(tmp_path)
    assert not list(tmp_path.iterdir())


def test_nobody_reads_the_logs_that_nobody_asked_for(local_ray: str) -> None:
    commands = [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]
    assert any("raylet" in command for command in commands)
    assert not any("log_monitor" in command for command in commands)


def command_of(code: str) -> subprocess.Popen[str]:
    """A program that starts a Ray of its own."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, env=environment)


def assert_ends_quietly(command: subprocess.Popen[str]) -> None:
    """By SIGTERM, without a trace, and without a folder left."""
    _, errors = command.communicate(timeout=240)
    assert command.returncode == termination.EXIT_CODE, errors
    assert "SIG" not in errors
    assert "Traceback" not in errors
    assert not any(Path("/tmp").glob(f"ww-ray-{command.pid}-*"))


def test_sigterm_while_ray_starts_ends_it_quietly() -> None:
    """While its C++ starts in this process, too, which would print a trace and abort."""
    code = (
        "from cluster.machine import session, termination\n"
        "termination.obey()\n"
        "try:\n"
        "    session.connect(num_cpus=1).__enter__()\n"
        "except KeyboardInterrupt:\n"
        "    raise SystemExit(termination.EXIT_CODE)\n"
    )
    with command_of(code) as command:
        log = f"ww-ray-{command.pid}-*/session_latest/logs/python-core-driver-*"
        while not any(Path("/tmp").glob(log)) and command.poll() is None:
            time.sleep(0.01)
        command.send_signal(signal.SIGTERM)
        assert_ends_quietly(command)


def test_sigterm_while_ray_is_shut_down_leaves_no_folder() -> None:
    """Half shut down, Ray would do it again at the exit, and make its folder anew for that."""
    code = (
        "import os, signal, time\n"
        "from ray._private import node\n"
        "from cluster.machine import session, termination\n"
        "end = node.Node.kill_all_processes\n"
        "def told(self, *arguments, **options):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(0.1)\n"
        "    end(self, *arguments, **options)\n"
        "node.Node.kill_all_processes = told\n"
        "termination.obey()\n"
        "try:\n"
        "    with session.connect(num_cpus=1):\n"
        "        pass\n"
        "except KeyboardInterrupt:\n"
        "    raise SystemExit(termination.EXIT_CODE)\n"
    )
    with command_of(code) as command:
        assert_ends_quietly(command)


def test_auto_where_no_ray_runs_is_one_line_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or where it was found and does not answer: Ray would wait for minutes, deaf to signals."""
    from ray._private import services

    for found in (set[str](), {"127.0.0.1:9"}):
        monkeypatch.setattr(services, "find_gcs_addresses", found.copy)
        monkeypatch.setattr(services, "find_bootstrap_address", lambda folder: None)
        with pytest.raises(ConnectionError, match="no Ray cluster answers at"):
            next(session._join("auto"))
