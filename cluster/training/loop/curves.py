"""How a run goes, for people: curves, sounds and pictures in the trackers, and the driver's progress line."""

from __future__ import annotations

import math
import time
from typing import Any

import pytorch_lightning as pl
import torch

from cluster.monitoring import metrics
from cluster.runs.result import spoken_duration
from cluster.settings.experiment import ExperimentConfig
from cluster.tracking.pictures import compare_signals
from cluster.tracking.tracker import Tracker
from cluster.training.loop.bad_batches import WatchLoss
from cluster.training.loop.module import DenoisingModule, compared_scores
from cluster.training.loop.stopping import trained_s
from ww_models.quality import VALIDATION_MEASURES


class TrackRun(pl.Callback):
    """Of rank 0 alone. board: an actor that is a ProgressBoard. deadline_s: of the run, seconds since 1970."""

    def __init__(
        self,
        config: ExperimentConfig,
        tracker: Tracker,
        board: Any,
        deadline_s: float | None,
        watch_loss: WatchLoss,
    ) -> None:
        self.config, self.tracker, self.board = config, tracker, board
        self.deadline_s, self.watch_loss = deadline_s, watch_loss
        self._since_s, self._waited_s = 0.0, 0.0
        self._since_step: int | None = None
        self._of_step: list[dict[str, Any]] = []  # the loss terms of each batch of the step being done
        self._gain = ""  # of the last validation, in words
        self._gradient_norm: torch.Tensor | None = None  # of the step being done, where it makes a point
        self._published_step, self._published_wait_s = 0, 0.0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._published_step = trainer.global_step

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        self._gradient_norm = None
        if (trainer.global_step + 1) % self.config.tracking.log_every_steps == 0:
            gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
            if gradients:  # else the step is left out: they were not finite
                self._gradient_norm = torch.nn.utils.get_total_norm(gradients)

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._of_step.append({"loss": outputs["batch_loss"], **outputs["terms"]})
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return  # within a step
        of_step, self._of_step = self._of_step, []
        is_first, step = self._since_step is None, trainer.global_step
        if is_due := step % self.config.tracking.log_every_steps == 0:
            assert isinstance(module, DenoisingModule)
            losses = {name: sum(float(part[name]) for part in of_step) / len(of_step) for name in of_step[0]}
            if self.watch_loss.skip:
                losses["skipped_steps"] = self.watch_loss.skipped
            if self._gradient_norm is not None:
                losses["gradient_norm"] = float(self._gradient_norm)
            item_s = batch.noisy.shape[-1] / module.model.sample_rate
            self._publish(trainer, losses, item_s)
            if is_first:
                self.tracker.scalars("train", losses, step)
            else:
                self._add_point(trainer, module, losses, item_s)
        if is_due or is_first:  # the first step holds all the starting up: speed is measured from after it
            self._restart_clock(trainer)

    def _add_point(
        self, trainer: pl.Trainer, module: DenoisingModule, losses: dict[str, float], item_s: float
    ) -> None:
        assert self._since_step is not None
        elapsed_s, step = time.monotonic() - self._since_s, trainer.global_step
        steps_per_s = (step - self._since_step) / elapsed_s
        # Since the clock was started: batches are fetched ahead, so one may have been waited for before a validation.
        waited_s = _waited_s(trainer) - self._waited_s
        speed = {
            "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
            "steps_per_s": steps_per_s,
            "audio_s_per_s": steps_per_s * self.config.training.items_per_step * item_s,
            "data_wait_fraction": waited_s / elapsed_s,
        }
        self.tracker.scalars("train", {**losses, **speed}, step)
        # At this speed, validations aside; early stopping may end it before.
        left_s = (trainer.max_steps - step) / steps_per_s
        if self.deadline_s is not None:
            left_s = min(left_s, max(0.0, self.deadline_s - time.time()))
        if budget_minutes := self.config.training.budget_minutes:
            left_s = min(left_s, max(0.0, 60 * budget_minutes * (1 - module.share_used)))
        self._post(
            trainer,
            f"loss {losses['loss']:.3f}, {speed['audio_s_per_s']:.0f} s of audio/s, "
            f"waits for data {speed['data_wait_fraction']:.0%}{self._gain}, {spoken_duration(left_s)} left",
        )

    def _publish(self, trainer: pl.Trainer, losses: dict[str, float], item_s: float) -> None:
        """What has come since the last time, for Prometheus."""
        run, step, waited_s = self.tracker.run_name, trainer.global_step, _waited_s(trainer)
        num_items = (step - self._published_step) * self.config.training.items_per_step
        metrics.TRAIN_AUDIO.add(num_items * item_s, run=run)
        metrics.TRAIN_DATA_WAIT.add(waited_s - self._published_wait_s, run=run)
        self._published_step, self._published_wait_s = step, waited_s
        metrics.TRAIN_STEP.set(step, run=run)
        metrics.TRAIN_LAST_STEP.set(trainer.max_steps, run=run)
        metrics.TRAIN_LOSS.set(losses["loss"], run=run)
        if "gradient_norm" in losses:
            metrics.TRAIN_GRADIENT_NORM.set(losses["gradient_norm"], run=run)

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._post(trainer, f"validating{self._gain}")

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, DenoisingModule)
        scores, step = module.validation_scores, trainer.global_step
        gain = scores.get("si_sdr_db", math.nan) - scores.get("noisy_si_sdr_db", math.nan)
        self._gain = f", val SI-SDR {gain:+.2f} dB over noisy"
        enhanced = {name: value for name, value in scores.items() if not name.startswith("noisy_")}
        self.tracker.scalars("val", {**enhanced, "trained_s": trained_s(trainer)}, step)
        self.tracker.scalars("noisy", compared_scores(scores)["noisy"], step)
        for name in enhanced.keys() & VALIDATION_MEASURES.keys():
            metrics.TRAIN_SCORE.set(enhanced[name], run=self.tracker.run_name, measure=name)
        self._show_examples(module, step)
        self.tracker.send()
        self._restart_clock(trainer)

    def _show_examples(self, module: DenoisingModule, step: int) -> None:
        rate = module.model.sample_rate
        for number, (noisy_T, clean_T, estimate_T) in enumerate(module.examples):
            for kind, signal_T in (("noisy", noisy_T), ("clean", clean_T), ("estimate", estimate_T)):
                self.tracker.audio(f"example_{number}/{kind}", signal_T, rate, step)
            picture = compare_signals(noisy_T, clean_T, estimate_T, rate)
            self.tracker.image(f"example_{number}", picture, step)

    def _restart_clock(self, trainer: pl.Trainer) -> None:
        self._since_s, self._since_step = time.monotonic(), trainer.global_step
        self._waited_s = _waited_s(trainer)

    def _post(self, trainer: pl.Trainer, note: str) -> None:
        self.board.post.remote(trainer.global_step, trainer.max_steps, note)


def _waited_s(trainer: pl.Trainer) -> float:
    """How long this rank has stood still for data so far."""
    batches: Any = trainer.train_dataloader  # RankBatches
    return float(batches.waited_s)
