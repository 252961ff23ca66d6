"""Progress of work that runs elsewhere: workers post to an actor, the command that waits draws it.

On a terminal this is a live bar; elsewhere (a job's log, CI) a plain line every few seconds.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import ray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TimeRemainingColumn

PLAIN_LINE_EVERY_S = 10.0

Report = Callable[[int, int | None, str], None]  # (done, total, note)


class ProgressBoard:
    """Holds the latest state of one piece of work: done, total and a few words."""

    def __init__(self) -> None:
        self._state: tuple[int, int | None, str] = (0, None, "starting")

    def post(self, done: int, total: int | None, note: str) -> None:
        self._state = done, total, note

    def read(self) -> tuple[int, int | None, str]:
        return self._state


@contextlib.contextmanager
def watch_board(title: str, board: Any) -> Iterator[Any]:
    """Draws what is posted to an actor that is a ProgressBoard until the block ends; yields it."""
    stop = threading.Event()

    def follow() -> None:
        with progress(title) as report:
            while not stop.wait(0.5):
                with contextlib.suppress(ray.exceptions.RayError):
                    report(*ray.get(board.read.remote(), timeout=5))

    thread = threading.Thread(target=follow, name="progress", daemon=True)
    thread.start()
    try:
        yield board
    finally:
        stop.set()
        thread.join(timeout=10)


@contextlib.contextmanager
def waiting(title: str) -> Iterator[None]:
    """Says what takes a few seconds: a spinner on a terminal, one line elsewhere."""
    console = Console(file=sys.stderr)
    if not console.is_terminal:
        print(f"{title} ...", file=sys.stderr, flush=True)
    with console.status(title) if console.is_terminal else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def progress(title: str) -> Iterator[Report]:
    """Yields `report(done, total, note)`, which draws a bar on a terminal and prints plain lines elsewhere."""
    console = Console(file=sys.stderr)
    if not console.is_terminal:
        yield _plain_lines(title)
        return
    columns = (
        SpinnerColumn(),
        "{task.description}",
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, "{task.fields[note]}", console=console) as bars:
        task = bars.add_task(title, total=None, note="")

        def report(done: int, total: int | None, note: str = "") -> None:
            bars.update(task, completed=done, total=total, note=note)

        yield report


def _plain_lines(title: str) -> Report:
    said_s, said = -PLAIN_LINE_EVERY_S, ""

    def report(done: int, total: int | None, note: str = "") -> None:
        nonlocal said_s, said
        now, finished = time.monotonic(), total is not None and done >= total
        line = f"{title}: {done}{f'/{total}' if total else ''} {note}".rstrip()
        if line != said and (finished or now - said_s >= PLAIN_LINE_EVERY_S):
            print(line, file=sys.stderr, flush=True)
            said_s, said = now, line

    return report
