"""The thin Lightning layer around a plain denoiser and a plain loss."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from cluster.feeding.stream import Batch
from cluster.settings.experiment import ExperimentConfig
from ww_models import Denoiser, DenoisingLoss, score_clip


def estimate_in_a_row(model: Denoiser, noisy: Tensor, num_crops: int) -> Tensor:
    """Crops (B, 1, T) -> (B, 1, T): `num_crops` at a time, or as many as divide B, are heard as one signal."""
    count = math.gcd(len(noisy), num_crops)
    return model(noisy.reshape(len(noisy) // count, 1, -1)).reshape(noisy.shape)


class DenoisingModule(pl.LightningModule):
    """Trains `model` on Batch(noisy, clean) and scores it on stored validation mixtures.

    last_step: optimizer steps of the whole run, with which the decay of the learning rate ends; where the run has a
    budget of time, `share_used` of it (0 to 1), which is for others to set on all ranks alike, takes their place.

    After each validation `validation_scores` holds the mean of every metric over all ranks' mixtures, the same
    whatever the number of ranks, and `examples` a few (noisy, clean, estimate) triples of (T,) for eyes and ears.
    `on_loss`, if set, is called with the step, the positions and the loss of each batch, before its gradients.
    """

    def __init__(self, model: Denoiser, config: ExperimentConfig, last_step: int) -> None:
        super().__init__()
        self.model: Denoiser = model
        if config.training.compile:
            model.compile()  # in place: names in checkpoints stay as they are
        self.loss = DenoisingLoss(config.loss, config.model.sample_rate)
        self.config, self.last_step, self.share_used = config, last_step, 0.0
        self.on_loss: Callable[[int, np.ndarray, Tensor], None] | None = None
        self.validation_scores: dict[str, float] = {}
        self.examples: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._rows: list[dict[str, float]] = []
        self._noisy_rows: dict[int, dict[str, float]] = {}  # of each mixture: the same at every validation

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Whatever a model draws while training (its initial level, say) depends on the batch's place in the run
        # alone, never on what this process did before; so a resumed run draws what an uninterrupted one draws.
        accumulate = self.config.training.accumulate
        batch_number = self.global_step * accumulate + batch_idx % accumulate
        torch.manual_seed((self.config.seed * 1_000_003 + batch_number) * 4099 + self.global_rank)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        estimate = estimate_in_a_row(self.model, batch.noisy, self.config.training.crops_in_a_row)
        losses = self.loss(estimate, batch.clean, batch.noisy)
        terms = {name: value.detach() for name, value in losses.terms.items()}
        if self.on_loss is not None:
            self.on_loss(self.global_step + 1, batch.positions, losses.total.detach())
        # Lightning divides "loss" by the number of accumulated batches; this is the batch's own, for the curves.
        return {"loss": losses.total, "batch_loss": losses.total.detach(), "terms": terms}

    def on_validation_epoch_start(self) -> None:
        self._rows, self.examples = [], []
        # BatchNorm's statistics are rank 0's, as in the checkpoint: all ranks' mixtures are scored with one model.
        if _is_distributed():
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def validation_step(self, item: dict[str, Any], batch_idx: int) -> None:
        index, noisy, clean = int(item["index"]), item["noisy"], item["clean"]  # signals: (1, 1, T)
        # Not through the compiled form, which would be compiled anew for each length of a clip.
        estimate = self.model.forward(noisy)
        losses = self.loss(estimate, clean, noisy)
        terms = {name: float(value) for name, value in losses.terms.items()}
        noisy_T, clean_T, estimate_T = (_to_numpy(signal) for signal in (noisy, clean, estimate))
        perceptual = index < self.config.training.num_pesq_mixtures
        if index not in self._noisy_rows:
            baseline = self._scores(clean_T, noisy_T, perceptual)
            baseline["loss"] = float(self.loss(noisy, clean, noisy).total)
            self._noisy_rows[index] = {f"noisy_{name}": value for name, value in baseline.items()}
        row = {"index": index, "loss": float(losses.total), **terms, **self._noisy_rows[index]}
        self._rows.append(row | self._scores(clean_T, estimate_T, perceptual))
        if len(self.examples) < 2:
            self.examples.append((noisy_T, clean_T, estimate_T))

    def _scores(self, clean_T: np.ndarray, signal_T: np.ndarray, perceptual: bool) -> dict[str, float]:
        quality = score_clip(clean_T, signal_T, self.model.sample_rate, perceptual=perceptual)
        return {name: value for name, value in dataclasses.asdict(quality).items() if not math.isnan(value)}

    def on_validation_epoch_end(self) -> None:
        rows = [row for part in from_all_ranks(self._rows) for row in part]
        rows.sort(key=lambda row: row["index"])  # one order, so one rounding
        names = sorted({name for row in rows for name in row} - {"index"})
        self.validation_scores = {
            name: float(np.mean([row[name] for row in rows if name in row])) for name in names
        }
        self.log_dict(self.validation_scores)  # where Lightning's own callbacks look for them

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        if isinstance(batch, Batch):
            noisy, clean = (part.to(device, non_blocking=True) for part in (batch.noisy, batch.clean))
            return dataclasses.replace(batch, noisy=noisy, clean=clean)
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def configure_optimizers(self) -> Any:
        config = self.config.optimizer
        optimizer = torch.optim.Adam(
            self.model.parameters(), lr=config.learning_rate, betas=(config.beta1, config.beta2)
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate_fraction)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _rate_fraction(self, step: int) -> float:
        """The learning rate at a step over its peak: linear warm-up, then half a cosine down to the final rate.

        step: optimizer steps done before it; the final rate is that of `last_step`, which is not done any more.
        """
        config, last = self.config.optimizer, self.last_step
        if step < config.warmup_steps:
            return (step + 1) / (config.warmup_steps + 1)
        if self.config.training.budget_minutes:
            return config.decayed(self.share_used)
        return config.decayed((step - config.warmup_steps) / max(1, last - config.warmup_steps))


def _to_numpy(signal: Tensor) -> np.ndarray:
    return signal.detach().float().cpu().numpy().reshape(-1)


def compared_scores(scores: dict[str, float]) -> dict[str, dict[str, float]]:
    """Validation scores as {"noisy": {metric: score}, "enhanced": {metric: score}}, as a bundle's card has them."""
    noisy = {
        name.removeprefix("noisy_"): value for name, value in scores.items() if name.startswith("noisy_")
    }
    return {"noisy": noisy, "enhanced": {name: scores[name] for name in noisy if name in scores}}


def from_all_ranks(value: Any) -> list[Any]:
    """The values of all ranks, on each of them."""
    if not _is_distributed():
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def _is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
