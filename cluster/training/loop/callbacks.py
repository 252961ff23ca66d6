"""Lightning callbacks of a training run: save and report, and tell trackers and people how it goes."""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import ray.train

from cluster.feeding.stream import RankBatches
from cluster.runs.checkpoints import BUNDLE_FOLDER, STATE_FILE, Checkpoints
from cluster.runs.result import (
    add_scores,
    compared_scores,
    late_scores,
    only_scores,
    read_metrics,
    spoken_duration,
)
from cluster.settings.experiment import ExperimentConfig
from cluster.tracking.pictures import compare_signals
from cluster.tracking.tracker import Tracker
from cluster.training.loop.bad_batches import WatchLoss
from cluster.training.loop.module import DenoisingModule
from cluster.training.loop.weight_average import shipped_weights
from ww_models import save_bundle


class ReportCheckpoint(pl.Callback):
    """After each validation rank 0 stores a checkpoint and every rank reports the scores to Ray Train.

    Ray Train hears of no checkpoint: it would know of one only once it asked, and one that is damaged, or not there any
    more, would stop it (see cluster/runs/checkpoints.py).
    """

    def __init__(
        self,
        config: ExperimentConfig,
        data: dict[str, Any],
        checkpoints: Checkpoints,
        watch_loss: WatchLoss,
    ) -> None:
        self.config, self.data, self.checkpoints = config, data, checkpoints
        self.watch_loss = watch_loss

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, DenoisingModule)
        counts = {"step": trainer.global_step, "skipped_steps": self.watch_loss.skipped}
        metrics = {**module.validation_scores, **counts}
        with tempfile.TemporaryDirectory(prefix="ww-checkpoint-") as folder:
            trainer.save_checkpoint(Path(folder) / STATE_FILE)  # all ranks take part, rank 0 writes
            if trainer.global_rank == 0:
                self._save_bundle(Path(folder) / BUNDLE_FOLDER, trainer, module)
                self.checkpoints.store(Path(folder), trainer.global_step, metrics)
        ray.train.report(metrics)

    def _save_bundle(self, path: Path, trainer: pl.Trainer, module: DenoisingModule) -> None:
        """The model as a bundle whose card holds the scores of the last validation."""
        with shipped_weights(trainer, module):
            save_bundle(
                path,
                module.model,
                metrics={**compared_scores(module.validation_scores), "step": trainer.global_step},
                training=self.config.to_dict(),
                data=self.data,
                licence=self.config.licence,
            )


class TrackRun(pl.Callback):
    """Rank 0 alone: the curves, sounds and pictures of the tracker, and the progress line of the driver.

    last_step: of the whole run. deadline_s: when it has to end, seconds since 1970.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        tracker: Tracker,
        board: Any,
        last_step: int,
        deadline_s: float | None,
        watch_loss: WatchLoss,
        checkpoints: Checkpoints,
    ) -> None:
        self.config, self.tracker, self.board = config, tracker, board
        self.last_step, self.deadline_s = last_step, deadline_s
        self.watch_loss, self.checkpoints = watch_loss, checkpoints
        self._since_s = time.monotonic()
        self._since_step: int | None = None
        self._waited_s = 0.0
        self._of_step: list[dict[str, Any]] = []  # the loss terms of each batch of the step being done
        self._note = ""

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step, every = trainer.global_step, self.config.tracking.log_every_steps
        self._of_step.append({"loss": outputs["batch_loss"], **outputs["terms"]})
        if (batch_idx + 1) % self.config.training.accumulate:
            return  # within a step
        of_step, self._of_step = self._of_step, []
        if self._since_step is None:  # the first step holds all the starting up: measure from after it
            self._restart_clock(trainer)
            return
        if step % every:
            return
        assert isinstance(module, DenoisingModule)
        elapsed_s = time.monotonic() - self._since_s
        # Of the time since the clock was started; what a batch waited does not tell when it did so, for batches are
        # fetched ahead of their step, and of a validation before it.
        waited_s = _waited_s(trainer) - self._waited_s
        steps = step - self._since_step
        values = {name: sum(float(part[name]) for part in of_step) / len(of_step) for name in of_step[0]}
        items = steps * self.config.training.items_per_step
        audio_s = items * batch.noisy.shape[-1] / module.model.sample_rate
        speed = {
            "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
            "steps_per_s": steps / elapsed_s,
            "audio_s_per_s": audio_s / elapsed_s,
            "data_wait_fraction": waited_s / elapsed_s,
        }
        if self.watch_loss.skip:
            speed["skipped_steps"] = self.watch_loss.skipped
        self.tracker.scalars("train", {**values, **speed}, step)
        self._post(
            step,
            f"loss {values['loss']:.3f}, {speed['audio_s_per_s']:.0f} s of audio/s, "
            f"waits for data {speed['data_wait_fraction']:.0%}{self._note}, "
            f"{self._remaining(step, speed['steps_per_s'])} left",
        )
        self._restart_clock(trainer)

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._post(trainer.global_step, f"validating{self._note}")

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, DenoisingModule)
        scores, step = module.validation_scores, trainer.global_step
        gain = scores.get("si_sdr_db", math.nan) - scores.get("noisy_si_sdr_db", math.nan)
        self._note = f", val SI-SDR {gain:+.2f} dB over noisy"
        self.tracker.scalars("val", {k: v for k, v in scores.items() if not k.startswith("noisy_")}, step)
        self.tracker.scalars("noisy", compared_scores(scores)["noisy"], step)
        self._show_examples(module, step)
        self.tracker.send()
        self._restart_clock(trainer)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        register_best(self.tracker, self.checkpoints)

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

    def _post(self, step: int, note: str) -> None:
        if self.board is not None:
            self.board.post.remote(step, self.last_step, note)

    def _remaining(self, step: int, steps_per_s: float) -> str:
        """How long training goes on at this speed, validations aside; early stopping may end it before."""
        left_s = (self.last_step - step) / steps_per_s
        if self.deadline_s is not None:
            left_s = min(left_s, max(0.0, self.deadline_s - time.time()))
        return spoken_duration(left_s)


def register_best(tracker: Tracker, checkpoints: Checkpoints) -> None:
    """The best bundle, which is the one that ships, becomes the tracked run's output model."""
    with tempfile.TemporaryDirectory(prefix="ww-best-") as folder:
        best, bundle = checkpoints.best_bundle(Path(folder))
        copy = shutil.copytree(bundle, Path(folder) / "copy")
        scores = only_scores(best.metrics) | late_scores(read_metrics(tracker.metrics_file), best.metrics)
        add_scores(copy, scores)
        tracker.model(copy, scores)


def _waited_s(trainer: pl.Trainer) -> float:
    """How long this rank has stood still for data so far."""
    batches = trainer.train_dataloader
    assert isinstance(batches, RankBatches)
    return batches.waited_s
