"""The loop's part of scoring beside training: clips go to the scorer, scores come back into the curves."""

from __future__ import annotations

import time
from typing import Any

import pytorch_lightning as pl
import ray

from cluster.tracking import Tracker

FINISH_TIMEOUT_S = 600.0


class ScoreBeside(pl.Callback):
    """Hands each validation's clips to the scorer; on rank 0 it also writes scores down as they come."""

    def __init__(self, scorer: Any, tracker: Tracker | None, look_every_steps: int) -> None:
        self.scorer, self.tracker, self.look_every_steps = scorer, tracker, look_every_steps
        self._asked: Any = None
        self._start = 0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._start = int(trainer.strategy.broadcast(time.time_ns()))  # the same on all ranks

    def on_validation_end(self, trainer: pl.Trainer, module: Any) -> None:
        clips, module.perceptual_clips = module.perceptual_clips, []
        self.scorer.submit.remote(trainer.global_step, clips, module.model.sample_rate, self._start)

    def on_train_batch_end(self, trainer: pl.Trainer, *of_batch: Any) -> None:
        if trainer.global_rank or trainer.global_step % self.look_every_steps:
            return
        if self._asked is None:
            self._asked = self.scorer.take.remote(0.0)
        elif ray.wait([self._asked], timeout=0)[0]:
            self._write()

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Waits for all scores that are still to come."""
        trainer.strategy.barrier()  # all ranks have handed theirs in
        if trainer.global_rank:
            return
        if self._asked is not None:
            self._write()
        self._asked = self.scorer.take.remote(FINISH_TIMEOUT_S)
        self._write()

    def _write(self) -> None:
        asked, self._asked = self._asked, None
        try:
            come = ray.get(asked)
        except ray.exceptions.RayError:  # its node has gone: the run does without these scores
            return
        for step, scores in come.items():
            if self.tracker is not None:
                own = {name: value for name, value in scores.items() if not name.startswith("noisy_")}
                self.tracker.scalars("val", own, step)
                self.tracker.scalars("noisy", {name: scores[f"noisy_{name}"] for name in own}, step)
