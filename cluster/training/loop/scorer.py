"""PESQ and STOI of validation mixtures beside training: in tasks of their own, so that no worker waits for them.

    each rank, after a validation -> Scorer (an actor of the driver's, which outlives the workers) -> tasks
    rank 0, now and then -> what is ready -> the curves, at the step whose weights were scored; at the end, all the rest

No score is lost with a worker that is killed: clips are here before the checkpoint of their step is stored, and scores
are given again, to the workers that take over, until rank 0 says that they are written for good.

Neither actor nor tasks reserve a CPU: on a small machine trainers and mixing hold them all, and would be waited for.
How many tasks run at once is limited here instead. Lightning, which takes seconds to import, is none of their business:
the loop's part is in `cluster/training/loop/perceptual.py`.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import ray

from cluster.machine.placement import on_this_node

_MAX_TASKS, _CALLS_AT_ONCE = 16, 8
FloatArray = npt.NDArray[np.float32]


class Clip(NamedTuple):
    """A stored mixture, by its place among them, and what the model made of it: (T,) each."""

    place: int
    clean_T: FloatArray
    noisy_T: FloatArray
    estimate_T: FloatArray


class Scorer:
    """Scores clips in tasks and keeps the means of each step. It knows a step's scores once it has all its clips."""

    def __init__(self, num_clips: int, num_tasks: int) -> None:
        self._num_clips = num_clips
        self._pool = ThreadPoolExecutor(num_tasks)
        self._noisy: dict[int, dict[str, float]] = {}  # of each mixture: it is the same at every step
        self._rows: dict[int, dict[int, dict[str, float]]] = {}  # step -> place -> scores
        self._starts: dict[int, int] = {}  # step -> the start of the run whose rows these are
        self._start = 0
        self._taken: set[int] = set()  # by this start, which may be killed before it has kept them
        self._changed = threading.Condition()

    def begin(self, step: int) -> int:
        """The number of a new start of the run, which goes on after a step.

        What an earlier one took and did not keep can be taken again; what it handed in of later steps is dropped.
        """
        with self._changed:
            self._start += 1
            self._taken.clear()
            self._rows = {done: rows for done, rows in self._rows.items() if done <= step}
            self._changed.notify_all()
            return self._start

    def submit(self, step: int, clips: list[Clip], sample_rate: int, start: int) -> None:
        """Begins to score some of a step's clips."""
        with self._changed:
            if start != self._start:
                return
            if self._starts.get(step) != start or step not in self._rows:
                self._rows[step], self._starts[step] = {}, start
        for clip in clips:
            self._pool.submit(self._score, step, clip, sample_rate, start)

    def take(self, wait_s: float, start: int, kept: Collection[int] = ()) -> dict[int, dict[str, float]]:
        """{step: scores} of the steps that are complete and were not taken before; waits so long for all of them.

        kept: steps whose scores this start took and has written for good.
        """
        until_s = time.monotonic() + wait_s
        with self._changed:
            if start == self._start:
                self._rows = {step: rows for step, rows in self._rows.items() if step not in kept}
            while start == self._start and self._incomplete() and (left_s := until_s - time.monotonic()) > 0:
                self._changed.wait(left_s)
            if start != self._start:  # whoever asked is gone, and would not write them down
                return {}
            done = self._rows.keys() - self._incomplete() - self._taken
            self._taken |= done
            return {step: _means(self._rows[step]) for step in sorted(done)}

    def _incomplete(self) -> set[int]:
        return {step for step, rows in self._rows.items() if len(rows) < self._num_clips}

    def _score(self, step: int, clip: Clip, sample_rate: int, start: int) -> None:
        row = {}
        try:
            noisy = self._noisy.get(clip.place)
            if noisy is None:
                noisy = ray.get(_score_clip.remote(clip.clean_T, clip.noisy_T, sample_rate))
                self._noisy[clip.place] = noisy
            row = ray.get(_score_clip.remote(clip.clean_T, clip.estimate_T, sample_rate))
            row |= {f"noisy_{name}": value for name, value in noisy.items()}
        finally:  # a clip that could not be scored must not be waited for
            with self._changed:
                if step in self._rows and self._starts[step] == start:
                    self._rows[step][clip.place] = row
                self._changed.notify_all()


@ray.remote(num_cpus=0)
def _score_clip(clean_T: FloatArray, signal_T: FloatArray, sample_rate: int) -> dict[str, float]:
    from ww_models import score_clip

    quality = score_clip(clean_T, signal_T, sample_rate)
    scores = {"pesq": quality.pesq, "stoi": quality.stoi}
    return {name: value for name, value in scores.items() if not math.isnan(value)}


def _means(rows: dict[int, dict[str, float]]) -> dict[str, float]:
    in_order = [rows[index] for index in sorted(rows)]  # one order, so one rounding
    names = sorted({name for row in in_order for name in row})
    return {name: float(np.mean([row[name] for row in in_order if name in row])) for name in names}


def start_scorer(num_clips: int) -> Any:
    """A Scorer on the driver's node; its handle goes to the workers, and it ends with the driver or by ray.kill."""
    num_tasks = min(_MAX_TASKS, max(1, int(ray.cluster_resources().get("CPU", 1)) // 4))
    actor: Any = ray.remote(num_cpus=0)(Scorer)
    actor = actor.options(scheduling_strategy=on_this_node(), max_concurrency=_CALLS_AT_ONCE)
    return actor.remote(num_clips, num_tasks)
