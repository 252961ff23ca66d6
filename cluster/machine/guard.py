"""What a command has started ends with it, however it ends: nothing runs on, no temporary folder stays.

A process beside it holds the other end of a pipe. When the pipe closes, the command is gone: killed, its terminal
closed, or simply done. Then the guard ends all that carries the command's mark, and removes the folders it was told of.
Whatever the command starts inherits the mark in its environment, also those whose parent has died. Another Ray of the
machine does not have it, nor has a cluster that the command has only joined.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

MARK = "WW_STARTED_BY"
_LET_GO = "let go"  # no folder: their names begin at the root
_PATIENCE_S = 50.0  # with processes that do not end although they were killed
_guard: subprocess.Popen[str] | None = None


def begin() -> None:
    """From now on, of this process; once is enough. Call it before anything is started."""
    global _guard
    if _guard is not None:
        return
    mark = uuid.uuid4().hex
    _guard = subprocess.Popen(
        [sys.executable, "-IS", str(Path(__file__).resolve()), mark],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd="/",
        env={},  # without the mark of a command that may have started this one
        start_new_session=True,  # Ctrl-C is for the command
    )
    os.environ[MARK] = mark


@contextlib.contextmanager
def temporary_folder(prefix: str, parent: str | os.PathLike[str] | None = None) -> Iterator[Path]:
    """Like tempfile.TemporaryDirectory, and gone also if this process is killed, once `begin` was called."""
    folder = tempfile.mkdtemp(prefix=prefix, dir=parent)
    remove_at_end(folder)
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        remove_at_end(folder)


def remove_at_end(folder: str | os.PathLike[str]) -> None:
    """Tells the guard of a folder to remove, or, the second time, that it is gone."""
    _tell(os.fspath(folder))


def let_go() -> None:
    """What this process has started, and the folders, outlive it. They keep the mark: `end_marked` ends them."""
    global _guard
    _tell(_LET_GO)
    if _guard is not None:
        _guard.wait()
    _guard = None


def _tell(line: str) -> None:
    if _guard is not None and _guard.stdin is not None:
        with contextlib.suppress(OSError):  # somebody has ended the guard
            print(line, file=_guard.stdin, flush=True)


def end_started() -> None:
    """Kills all that this process has started since `begin`."""
    if _guard is not None:
        end_marked(os.environ[MARK])


def marked(mark: str) -> list[int]:
    """Ids of the processes that carry a mark, this one aside. None on systems without /proc."""
    entry, found = f"{MARK}={mark}".encode(), []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            if entry in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
    return [pid for pid in found if pid != os.getpid()]


def end_marked(mark: str) -> None:
    """Kills all that carries a mark."""
    deadline, found_none = time.monotonic() + _PATIENCE_S, 0
    # Again: one may have started another meanwhile, and what is about to become another program shows no environment.
    while found_none < 3 and time.monotonic() < deadline:
        pids = marked(mark)
        found_none = 0 if pids else found_none + 1
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


def _stand_guard(mark: str) -> None:
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # batch systems send them to all processes of a job
    folders: set[str] = set()
    for line in sys.stdin:
        if line.rstrip("\n") == _LET_GO:
            return
        folders ^= {line.rstrip("\n")}
    end_marked(mark)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _stand_guard(sys.argv[1])
