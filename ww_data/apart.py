"""Working on items in a process of its own, which one of them may end: a library that corrupts memory does that."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_MAX_ENDS = 2  # somebody else may have ended the first
_PROGRAM = "from ww_data.apart import serve; serve()"


def apart(
    function: Callable[[Item], Result], instead: Callable[[Item], Result], items: Sequence[Item]
) -> list[Result]:
    """`function` of every item, in a child process; `instead`, in this one, of those that ended two children.

    Function, items and results are pickled on the way. What the function raises is raised here.
    """
    results = list[Result]()
    child: _Child | None = None
    try:
        for item in items:
            for _ in range(_MAX_ENDS):
                child = child or _Child()
                try:
                    results.append(child.ask(function, item))
                    break
                except EOFError:
                    child.close()
                    child = None
            else:
                results.append(instead(item))
    finally:
        if child:
            child.close()
    return results


class _Child:
    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )

    def ask(self, function: Callable[[Any], Any], item: Any) -> Any:
        """EOFError if it ended meanwhile."""
        assert self._process.stdin
        assert self._process.stdout
        try:
            self._process.stdin.write(pickle.dumps((function, item)))
            self._process.stdin.flush()
            result, error = pickle.load(self._process.stdout)  # our own function's
        except (BrokenPipeError, pickle.UnpicklingError) as broken:
            raise EOFError from broken
        if error:
            raise error
        return result

    def close(self) -> None:
        """Ends it, and waits."""
        self._process.kill()
        self._process.communicate()


def serve() -> None:
    """What the child does: answers until nobody asks."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no reply
    while True:
        try:
            function, item = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        reply: tuple[Any, Exception | None]
        try:
            reply = function(item), None
        except (ValueError, OSError) as error:
            reply = None, error
        replies.write(pickle.dumps(reply))
        replies.flush()
