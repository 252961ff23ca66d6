"""Preparing a corpus on all cores of a cluster: the pieces of work that `ww_data` plans, as tasks of Ray Data."""

from __future__ import annotations

import functools
import pickle
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import ray
from ray.data import DataContext, Dataset
from ray.util.annotations import RayDeprecationWarning

from ww_data import CorpusError
from ww_data.parallel import ProcessEndedError
from ww_data.storage import first_line

_MAX_RETRIES = 3  # of a task whose process died; Ray Data's own default is for ever

Item = TypeVar("Item")
Result = TypeVar("Result")


def on_ray(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Results of `function` over `items`, as they come: one task each, on whichever node has a core free.

    A task whose process or node dies runs again, three times; then a ProcessEndedError is raised. Raises the
    CorpusError of the first task that has one, and one where Ray ended a process for memory.
    """
    if not items:
        return
    context = DataContext.get_current()
    context.enable_progress_bars = False
    dataset: Dataset = ray.data.from_items(
        [{"item": pickle.dumps(item)} for item in items], override_num_blocks=len(items)
    )
    with warnings.catch_warnings():
        # It warns of `max_retries`, for which it has no other parameter yet, and retries for ever without it.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        dataset = dataset.map(functools.partial(_call, function), num_cpus=1, max_retries=_MAX_RETRIES)
    try:
        for row in dataset.iter_rows():
            result, error = pickle.loads(row["outcome"])  # our own task wrote it
            if error is not None:
                raise CorpusError(error)
            yield result
    except ray.exceptions.RayError as error:
        for_memory = isinstance(error, ray.exceptions.OutOfMemoryError)
        raise (CorpusError if for_memory else ProcessEndedError)(
            f"a process that worked on the files ended {_MAX_RETRIES + 1} times, out of memory perhaps "
            f"({first_line(error)}): free memory or take fewer cores, then start again: what is done "
            "is not done twice"
        ) from error


def _call(function: Callable[[Any], Any], row: dict[str, Any]) -> dict[str, Any]:
    """One piece of work; what is wrong with the user's files comes back as a message, not as Ray's traceback."""
    try:
        return {"outcome": pickle.dumps((function(pickle.loads(row["item"])), None))}
    except (ValueError, OSError) as error:  # CorpusError and AudioError are ValueErrors
        return {"outcome": pickle.dumps((None, str(error)))}
