"""What a command has started ends with it: here a command that starts others, and is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from cluster.machine import guard

COMMAND = """
import os, subprocess, sys, time
from cluster.machine import guard

guard.begin()
sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
orphan = "import subprocess, sys; print(subprocess.Popen(sys.argv[1:], stdout=-3, stderr=-3).pid)"
with guard.temporary_folder("ww-test-", sys.argv[1]) as folder, guard.temporary_folder("ww-gone-", sys.argv[1]) as gone:
    gone.rmdir()
    child = subprocess.Popen(sleep)
    grandchild = subprocess.run([sys.executable, "-c", orphan, *sleep], capture_output=True, text=True).stdout
    print(child.pid, grandchild.strip(), flush=True)
    if sys.argv[2] == "killed":
        time.sleep(600)
    if sys.argv[2] == "let go":
        guard.let_go()
        os._exit(0)
"""


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("how", ["killed", "done"])
def test_all_that_it_started_ends_and_nothing_else(tmp_path: Path, how: str) -> None:
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    command = subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(tmp_path), how], stdout=subprocess.PIPE, text=True
    )
    try:
        assert command.stdout is not None
        started = [int(pid) for pid in command.stdout.readline().split()]
        assert len(started) == 2
        if how == "killed":
            assert all(map(psutil.pid_exists, started))
            assert len(list(tmp_path.iterdir())) == 1
            command.send_signal(signal.SIGKILL)
        command.wait(timeout=60)
        wait_until(lambda: not any(is_running(pid) for pid in started))
        wait_until(lambda: not list(tmp_path.iterdir()))
        assert other.poll() is None
    finally:
        command.kill()
        other.kill()
        other.wait()


def test_what_is_let_go_outlives_its_command_and_ends_by_its_mark(tmp_path: Path) -> None:
    command = subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(tmp_path), "let go"], stdout=subprocess.PIPE, text=True
    )
    assert command.stdout is not None
    started = [int(pid) for pid in command.stdout.readline().split()]
    command.wait(timeout=60)
    time.sleep(1)  # longer than a guard takes
    try:
        assert len(list(tmp_path.iterdir())) == 1
        mark = psutil.Process(started[0]).environ()[guard.MARK]
        assert sorted(guard.marked(mark)) == sorted(started)
    finally:
        guard.end_marked(psutil.Process(started[0]).environ()[guard.MARK])
    wait_until(lambda: not any(is_running(pid) for pid in started))


def is_running(pid: int) -> bool:
    """A process whose parent has not asked for it yet is there, but runs no more."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_command_that_another_one_started_guards_its_own(tmp_path: Path) -> None:
    """Both go when the outer one is killed, and so does what the inner one started."""
    outer = f"""
import subprocess, sys
from cluster.machine import guard
guard.begin()
subprocess.run([sys.executable, "-c", {COMMAND!r}, sys.argv[1], "killed"])
"""
    command = subprocess.Popen(
        [sys.executable, "-c", outer, str(tmp_path)], stdout=subprocess.PIPE, text=True, env={**os.environ}
    )
    try:
        assert command.stdout is not None
        started = [int(pid) for pid in command.stdout.readline().split()]
        started += [child.pid for child in psutil.Process(command.pid).children(recursive=True)]
        command.send_signal(signal.SIGKILL)
        command.wait(timeout=60)
        wait_until(lambda: not any(is_running(pid) for pid in started))
        wait_until(lambda: not list(tmp_path.iterdir()))
    finally:
        command.kill()
