"""The loop's part of scoring beside training: clips go to the scorer, scores come back into the curves."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import ray

from cluster.tracking.tracker import Tracker

FINISH_TIMEOUT_S = 600.0


class ScoreBeside(pl.Callback):
    """Hands each validation's clips to the scorer; on rank 0 it also writes scores down as they come.

    It comes before the callback that sends what the tracker has written to where the run lies (at each validation's
    end), and before the one that stores the checkpoint.
    """

    def __init__(self, scorer: Any, tracker: Tracker | None, look_every_steps: int) -> None:
        self.scorer, self.tracker, self.look_every_steps = scorer, tracker, look_every_steps
        self._asked: Any = None
        self._start: int | None = None
        self._written: list[int] = []  # steps, since the last validation
        self._kept: list[int] = []  # steps, sent to where the run lies

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        start = _answer(self.scorer.begin.remote(trainer.global_step)) if trainer.global_rank == 0 else None
        self._start = trainer.strategy.broadcast(start)

    def on_validation_end(self, trainer: pl.Trainer, module: Any) -> None:
        clips, module.perceptual_clips = module.perceptual_clips, []
        # Waited for: once the checkpoint is stored, which comes next, nobody would hand them in again.
        _answer(self.scorer.submit.remote(trainer.global_step, clips, module.model.sample_rate, self._start))
        self._kept += self._written
        self._written = []

    def on_train_batch_end(self, trainer: pl.Trainer, *of_batch: Any) -> None:
        if self.tracker is None or trainer.global_step % self.look_every_steps:
            return
        if self._asked is None:
            kept, self._kept = self._kept, []
            self._asked = self.scorer.take.remote(0.0, self._start, kept)
        elif ray.wait([self._asked], timeout=0)[0]:
            self._written += _write(self._asked, self.tracker)
            self._asked = None

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Rank 0 waits for all scores that are still to come: all ranks have handed theirs in."""
        if self.tracker is None:
            return
        if self._asked is not None:
            _write(self._asked, self.tracker)
        _write(self.scorer.take.remote(FINISH_TIMEOUT_S, self._start), self.tracker)


def write_rest(scorer: Any, tracker: Tracker, step: int) -> None:
    """Waits for the scores of a run whose workers were killed after its last step, and writes them down."""
    start = _answer(scorer.begin.remote(step))
    _write(scorer.take.remote(FINISH_TIMEOUT_S, start), tracker)


def _write(asked: Any, tracker: Tracker) -> list[int]:
    """Puts what was asked for into the curves and returns its steps."""
    scores = _answer(asked) or {}
    for step, of_step in scores.items():
        own = {name: value for name, value in of_step.items() if not name.startswith("noisy_")}
        tracker.scalars("val", own, step)
        tracker.scalars("noisy", {name: of_step[f"noisy_{name}"] for name in own}, step)
    return list(scores)


def _answer(asked: Any) -> Any:
    """What the scorer answers; None where it has died: the run does without these scores."""
    try:
        return ray.get(asked)
    except ray.exceptions.RayActorError:
        return None
