"""What the workers of a run leave for its driver and for each other: errors that are permanent, warnings, progress.

It lies in an actor of the driver's, which outlives the workers, and not in the run's folder, whose disk may be full.
"""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Iterator
from typing import Any

import ray

from cluster.machine.placement import on_this_node
from cluster.machine.progress import ProgressBoard

# A disk that is full, or that nobody may write to, stays so. Other errors of a disk or a network pass.
_PERMANENT = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR}
_AWAIT_RANKS_S = 5.0


class RunNotes(ProgressBoard):
    """The first error of a start of a run, the ranks that ended with one, warnings, whether any start trained, and
    whether the driver wants the run to stop where it stands.

    It is the run's progress board as well: one process less beside the workers.
    """

    def __init__(self) -> None:
        super().__init__()
        self._error, self._failed_ranks, self._warnings = "", set[int](), list[str]()
        self._has_trained = self._is_told_to_stop = False

    def train(self) -> None:
        self._has_trained = True

    def has_new_model(self) -> bool:
        return self._has_trained and not self._is_told_to_stop

    def stop(self) -> None:
        self._is_told_to_stop = True

    def is_told_to_stop(self) -> bool:
        return self._is_told_to_stop

    def fail(self, rank: int, error: str) -> None:
        self._error = self._error or error
        self._failed_ranks.add(rank)

    def failure(self) -> tuple[str, set[int]]:
        """The error, or "", and the ranks that failed."""
        return self._error, self._failed_ranks

    def warn(self, warning: str) -> None:
        if warning not in self._warnings:
            self._warnings.append(warning)

    def warnings(self) -> list[str]:
        return self._warnings


@contextlib.contextmanager
def run_notes() -> Iterator[Any]:
    """RunNotes on the driver's node, as long as the block lasts; the handle goes to the workers."""
    actor: Any = ray.remote(num_cpus=0)(RunNotes)
    notes = actor.options(scheduling_strategy=on_this_node()).remote()
    try:
        yield notes
    finally:
        ray.kill(notes)


def is_permanent(error: Exception) -> bool:
    """Whether workers that Ray starts anew would only meet the same error."""
    return isinstance(error, ValueError) or (isinstance(error, OSError) and error.errno in _PERMANENT)


@contextlib.contextmanager
def noted_failure(notes: Any, rank: int, run_name: str) -> Iterator[None]:
    """A permanent error that leaves the block is noted for the driver, and for the other ranks as this one's."""
    try:
        yield
    except (ValueError, OSError) as error:
        if is_permanent(error):
            ray.get(notes.fail.remote(rank, _in_words(error, run_name)))
        raise


def _in_words(error: ValueError | OSError, run_name: str) -> str:
    if not isinstance(error, OSError):
        return str(error)
    where = f"{error.filename}: " if error.filename else ""
    return (
        f"{where}{error.strerror}; the last finished checkpoint stands: make room or let it be written to, then go "
        f"on with --resume {run_name}"
    )


def all_ranks_fail(notes: Any, world_size: int) -> bool:
    """Waits a little for the other ranks to fail too."""
    until_s = time.monotonic() + _AWAIT_RANKS_S
    while (failed := len(ray.get(notes.failure.remote())[1])) < world_size and time.monotonic() < until_s:
        time.sleep(0.05)
    return failed == world_size
