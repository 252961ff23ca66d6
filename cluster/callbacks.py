"""Lightning callbacks of a training run: save and report, and tell trackers and people how it goes."""

from __future__ import annotations

import contextlib
import math
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import ray.train
from ray.train import Checkpoint

from cluster.bad_batches import WatchLoss
from cluster.bundle_scores import add_scores, compared_scores
from cluster.config import ExperimentConfig
from cluster.datasets import RankBatches
from cluster.lightning import DenoisingModule
from cluster.pictures import compare_signals
from cluster.tracking import Tracker
from cluster.training_result import spoken_duration
from cluster.weight_average import shipped_weights
from ww_models import read_bundle_info, save_bundle


def save_validated(
    path: Path, trainer: pl.Trainer, module: DenoisingModule, config: ExperimentConfig, data: dict[str, Any]
) -> Path:
    """The model as a bundle whose card holds the scores of the last validation."""
    with shipped_weights(trainer, module):
        return save_bundle(
            path,
            module.model,
            metrics={**compared_scores(module.validation_scores), "step": trainer.global_step},
            training=config.to_dict(),
            data=data,
            licence=config.licence,
        )


class ReportCheckpoint(pl.Callback):
    """After each validation rank 0 saves a checkpoint and every rank reports the scores to Ray Train.

    A checkpoint is a folder: the whole state of the run (`state_file`: weights, optimizer, step) and `bundle/`, the
    model as it would be shipped, so that nobody has to unpickle anything to use it.
    """

    def __init__(
        self, config: ExperimentConfig, data: dict[str, Any], state_file: str, watch_loss: WatchLoss
    ) -> None:
        self.config, self.data, self.state_file = config, data, state_file
        self.watch_loss = watch_loss

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, DenoisingModule)
        counts = {"step": trainer.global_step, "skipped_steps": self.watch_loss.skipped}
        metrics = {**module.validation_scores, **counts}
        with tempfile.TemporaryDirectory(prefix="ww-checkpoint-") as folder:
            trainer.save_checkpoint(Path(folder) / self.state_file)  # all ranks take part, rank 0 writes
            if trainer.global_rank != 0:
                ray.train.report(metrics)
                return
            save_validated(Path(folder) / "bundle", trainer, module, self.config, self.data)
            ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))


class TrackRun(pl.Callback):
    """Rank 0 alone: the curves, sounds and pictures of the tracker, and the progress line of the driver.

    last_step: of the whole run (0: training.max_steps). deadline_s: when it has to end, seconds since 1970.
    run_dir: the run's folder; its checkpoints hold the best bundle where that is of an earlier start.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        data: dict[str, Any],
        tracker: Tracker | None,
        board: Any,
        last_step: int = 0,
        deadline_s: float | None = None,
        late_scores: Mapping[int, dict[str, float]] | None = None,
        watch_loss: WatchLoss | None = None,
        run_dir: Path | None = None,
    ) -> None:
        # {step: scores} that come after their validation; somebody else fills it.
        self.late_scores = {} if late_scores is None else late_scores
        self.last_step = last_step or config.training.max_steps
        self.deadline_s = deadline_s
        self.watch_loss, self.run_dir = watch_loss, run_dir
        self.config, self.data, self.tracker, self.board = config, data, tracker, board
        self._best_score, self._best_scores, self._best_step = math.nan, dict[str, float](), 0
        self._best_folder = tempfile.TemporaryDirectory(prefix="ww-best-")
        self._since_s = time.monotonic()
        self._since_step: int | None = None
        self._waited_s = 0.0
        self._of_step: list[dict[str, Any]] = []  # the loss terms of each batch of the step being done
        self._note = ""

    def state_dict(self) -> dict[str, Any]:
        late = self.late_scores.get(self._best_step, {})
        return {"score": self._best_score, "scores": self._best_scores | late, "step": self._best_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._best_score, self._best_step = state_dict["score"], state_dict["step"]
        self._best_scores = state_dict["scores"]

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
        if self.watch_loss is not None and self.watch_loss.skip:
            speed["skipped_steps"] = self.watch_loss.skipped
        if self.tracker is not None:
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
        if self.tracker is not None:
            self.tracker.scalars("val", {k: v for k, v in scores.items() if not k.startswith("noisy_")}, step)
            self.tracker.scalars("noisy", compared_scores(scores)["noisy"], step)
            self._show_examples(module, step)
            score = scores.get(self.config.training.score, math.nan)
            if self.config.training.is_better(score, self._best_score):
                self._best_score, self._best_scores, self._best_step = score, scores, step
                save_validated(
                    Path(self._best_folder.name) / "bundle", trainer, module, self.config, self.data
                )
        self._restart_clock(trainer)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """The best bundle, which is the one that ships, becomes the tracked run's output model."""
        bundle = Path(self._best_folder.name) / "bundle"
        if self.tracker is None:
            return
        if not bundle.is_dir():
            self._fetch_best(bundle)
        if bundle.is_dir():
            scores = self._best_scores | self.late_scores.get(self._best_step, {})
            add_scores(bundle, scores)
            self.tracker.model(bundle, scores)

    def _fetch_best(self, bundle: Path) -> None:
        """Copies the best bundle of an earlier start from its checkpoint, which is kept for being the best."""
        if self.run_dir is None or not self._best_step:
            return
        for kept in sorted(self.run_dir.glob("checkpoint_*/bundle")):
            # Ray may just be deleting one that is not the best any more.
            with contextlib.suppress(ValueError, OSError):
                if read_bundle_info(kept).metrics.get("step") == self._best_step:
                    shutil.copytree(kept, bundle.with_name("copy"), dirs_exist_ok=True)
                    bundle.with_name("copy").rename(bundle)
                    return

    def teardown(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        self._best_folder.cleanup()

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        # Ray ends the process of a worker without asking objects to tidy up.
        self._best_folder.cleanup()

    def _show_examples(self, module: DenoisingModule, step: int) -> None:
        assert self.tracker is not None
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


def _waited_s(trainer: pl.Trainer) -> float:
    """How long this rank has stood still for data so far."""
    batches = trainer.train_dataloader
    assert isinstance(batches, RankBatches)
    return batches.waited_s
