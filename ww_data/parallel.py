"""Working on many items at once: on threads, or with the executor that a caller brings."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Protocol, TypeVar

from ww_data.manifest import CorpusError

Item = TypeVar("Item")
Result = TypeVar("Result")
Progress = Callable[[int, int, str], None]  # items done, items in all, what is being done


class ProcessEndedError(CorpusError):
    """A process that worked on an item ended, again and again."""


class Executor(Protocol):
    """Yields `function` of every item, in any order. Function, items and results may have to be pickled on the way.

    One that has processes of its own raises ProcessEndedError where they end.
    """

    def __call__(self, function: Callable[[Item], Result], items: Sequence[Item], /) -> Iterator[Result]: ...


def on_threads(function: Callable[[Item], Result], items: Sequence[Item], /) -> Iterator[Result]:
    """`map(function, items)` on threads, a few results ahead: decoding and hashing release Python's lock."""
    num_threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    remaining = iter(items)
    with ThreadPoolExecutor(num_threads) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            waiting.extend(pool.submit(function, item) for item in islice(remaining, 2 * num_threads))
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(pool.submit(function, item) for item in islice(remaining, 1))
                yield result
        finally:
            for future in waiting:
                future.cancel()
