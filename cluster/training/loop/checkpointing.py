"""Checkpoints: stored and reported after each validation; the best one's bundle becomes the run's output model."""

from __future__ import annotations

import pickle
import tempfile
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import ray.train
import torch

from cluster.errors import one_line
from cluster.runs.checkpoints import BUNDLE_FOLDER, STATE_FILE, CheckpointError, Checkpoints
from cluster.runs.result import only_scores
from cluster.settings.experiment import ExperimentConfig
from cluster.tracking.tracker import Tracker
from cluster.training.loop.bad_batches import WatchLoss
from cluster.training.loop.module import DenoisingModule, compared_scores
from cluster.training.loop.stopping import is_cut, trained_s
from cluster.training.loop.weight_average import shipped_weights
from ww_models import save_bundle


def read_state(path: Path) -> dict[str, Any]:
    """What Lightning stored of a run at a checkpoint, on the CPU.

    Tensors and plain values alone are read: a file that holds other things is a CheckpointError, and runs nothing.
    """
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise CheckpointError(
            f"{path.parent.name}/{path.name} holds other than tensors and plain values, so no run of ours wrote it: "
            f"nothing of it was run, and it cannot be resumed from ({one_line(error)[:200]})"
        ) from error
    return state


class ReportCheckpoint(pl.Callback):
    """After each validation rank 0 stores a checkpoint and every rank reports the scores to Ray Train.

    A run that is cut between two leaves one without scores, from which only a resume starts.

    Ray Train is given no checkpoint: it would know of one only once it polls, and one that is damaged or missing would
    stop it (see cluster/runs/checkpoints.py). data: what the model card says of the data.
    """

    def __init__(
        self, config: ExperimentConfig, data: dict[str, Any], checkpoints: Checkpoints, watch_loss: WatchLoss
    ) -> None:
        self.config, self.data, self.checkpoints, self.watch_loss = config, data, checkpoints, watch_loss

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, DenoisingModule)
        self._store(trainer, module, module.validation_scores)

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if is_cut(trainer):
            assert isinstance(module, DenoisingModule)
            self.watch_loss.check_before_saving(trainer, module)
            self._store(trainer, module, {})

    def _store(self, trainer: pl.Trainer, module: DenoisingModule, scores: dict[str, float]) -> None:
        counts = {"step": trainer.global_step, "skipped_steps": self.watch_loss.skipped}
        metrics = {**scores, **counts}
        with tempfile.TemporaryDirectory(prefix="ww-checkpoint-") as folder:
            trainer.save_checkpoint(Path(folder) / STATE_FILE)  # all ranks take part, rank 0 writes
            if trainer.global_rank == 0:
                with shipped_weights(trainer, module):
                    save_bundle(
                        Path(folder) / BUNDLE_FOLDER,
                        module.model,
                        metrics={**compared_scores(scores), "step": trainer.global_step},
                        training=self.config.to_dict(),
                        data=self.data,
                        licence=self.config.licence,
                    )
                self.checkpoints.store(Path(folder), trainer.global_step, metrics)
        ray.train.report({**metrics, "trained_s": trained_s(trainer)})


def register_best(tracker: Tracker, checkpoints: Checkpoints) -> None:
    """The best bundle, which is the one that ships, becomes the tracked run's output model."""
    with tempfile.TemporaryDirectory(prefix="ww-best-") as folder:
        best, bundle = checkpoints.best_bundle(Path(folder))
        tracker.model(bundle, only_scores(best.metrics))
