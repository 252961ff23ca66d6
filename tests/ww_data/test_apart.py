"""Work apart: an item that ends the process costs itself alone."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from ww_data.apart import apart


def pid_for(item: str) -> tuple[str, int]:
    print("a library may print", flush=True)
    if item == "abort":
        os.abort()
    if item == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if item == "exit":
        os._exit(0)
    if item == "wrong":
        raise ValueError("wrong: is no item")
    if item != "fine" and not Path(item).exists():  # what has no fault of its own
        Path(item).touch()
        os.abort()
    return item, os.getpid()


def stand_in(item: str) -> tuple[str, int]:
    return f"without {item}", os.getpid()


def test_what_ends_its_process_costs_itself_alone() -> None:
    items = ["fine", "abort", "kill", "exit", "fine", "fine"]
    results = apart(pid_for, stand_in, items)
    assert [name for name, _ in results] == [
        *("fine", "without abort", "without kill", "without exit", "fine", "fine"),
    ]
    pids = [pid for _, pid in results]
    assert pids[1] == os.getpid()
    assert pids[0] != pids[4] == pids[5] != os.getpid()
    assert apart(pid_for, stand_in, []) == []


def test_a_process_that_ended_once_is_made_up_for(tmp_path: Path) -> None:
    name = str(tmp_path / "once")
    assert apart(pid_for, stand_in, [name])[0][0] == name


def test_what_is_wrong_is_raised() -> None:
    with pytest.raises(ValueError, match=r"^wrong: is no item$"):
        apart(pid_for, stand_in, ["fine", "wrong"])
