"""Messages of foreign errors, brought down to a line."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType


def one_line(message: object) -> str:
    """All of a message, without its line breaks."""
    return " ".join(str(message).split())


def last_line(message: object) -> str:
    """Where a traceback comes first."""
    return str(message).strip().rpartition("\n")[2]


def rays_words(error: BaseException) -> str:
    """What a person should know of an exception of Ray's, in one line; "" for any other.

    Ray's are its own types, and whatever its code raises; most tell of a process that ended or did not answer.
    """
    ray = sys.modules.get("ray")
    if ray is None or not (_is_of(ray, error) or _was_raised_in(ray, error)):
        return ""
    from ww_data.storage import first_line  # with it come pyarrow and numpy: not for a command's --help

    if isinstance(error, ray.exceptions.RayTaskError):
        what = last_line(error)
    else:
        what = f"{type(error).__name__}: {first_line(error)}"
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return f"Ray ended a process for memory ({what[:300]}): free memory, or ask for less at a time"
    return (
        f"Ray failed or did not answer ({what[:300]}): if the machine is busy or short of memory, try "
        "again when it is not; WW_TRACEBACK=1 shows all of it"
    )


def _is_of(package: ModuleType, error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] == package.__name__


def _was_raised_in(package: ModuleType, error: BaseException) -> bool:
    step = error.__traceback__
    while step is not None and step.tb_next is not None:
        step = step.tb_next
    return (
        step is not None
        and Path(str(package.__file__)).parent in Path(step.tb_frame.f_code.co_filename).parents
    )
