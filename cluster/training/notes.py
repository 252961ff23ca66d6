"""What the workers of a run leave for its driver and for each other: errors that would only come again,
warnings, progress.

It lies in an actor of the driver's, which outlives the workers, and not in the run's folder, whose disk may be full.
"""

from __future__ import annotations

import errno
import time
from typing import Any

import ray
import ray.train

from cluster.machine.placement import on_this_node
from cluster.machine.progress import ProgressBoard

# A disk that is full, or that nobody may write to, stays so for a while. Other errors of a disk or a network pass.
_LASTING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR}
_AWAIT_RANKS_S = 5.0


class RunNotes(ProgressBoard):
    """The first error of a start of a run, the ranks that ended with one, warnings, and whether any start trained.

    It is the run's progress board as well: one process less beside the workers.
    """

    def __init__(self) -> None:
        super().__init__()
        self._error, self._failed_ranks, self._warnings = "", set[int](), list[str]()
        self._has_trained = False

    def train(self) -> None:
        self._has_trained = True

    def has_trained(self) -> bool:
        return self._has_trained

    def fail(self, rank: int, error: str) -> None:
        self._error = self._error or error
        self._failed_ranks.add(rank)

    def failure(self) -> tuple[str, set[int]]:
        """The error, or "", and the ranks that told of one."""
        return self._error, self._failed_ranks

    def warn(self, warning: str) -> None:
        if warning not in self._warnings:
            self._warnings.append(warning)

    def warnings(self) -> list[str]:
        return self._warnings


def start_notes() -> Any:
    """RunNotes on the driver's node; the handle goes to the workers, and it ends with the driver or by ray.kill."""
    return ray.remote(num_cpus=0)(RunNotes).options(scheduling_strategy=on_this_node()).remote()


def would_come_again(error: Exception) -> bool:
    """Whether workers that Ray starts anew would only meet the same error."""
    return isinstance(error, ValueError) or (isinstance(error, OSError) and error.errno in _LASTING)


def note_failure(notes: Any, error: Exception, run_name: str) -> None:
    """Writes an error down for the driver, and for the other ranks that this one has failed."""
    words = str(error)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        words = (
            f"{where}{error.strerror}; the last finished checkpoint stands: make room or let it be written to, then go "
            f"on with --resume {run_name}"
        )
    ray.get(notes.fail.remote(ray.train.get_context().get_world_rank(), words))


def all_ranks_fail(notes: Any) -> bool:
    """Waits a little for the other ranks to fail too."""
    world_size = ray.train.get_context().get_world_size()
    until_s = time.monotonic() + _AWAIT_RANKS_S
    while (failed := len(ray.get(notes.failure.remote())[1])) < world_size and time.monotonic() < until_s:
        time.sleep(0.05)
    return failed == world_size
