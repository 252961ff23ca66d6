"""The thin Lightning layer around a plain denoiser and a plain loss, and the settings of the loop around it."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from cluster.datasets import Batch
from ww_models import Denoiser, DenoisingLoss, LossConfig, score_clip


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Adam with a linear warm-up and, by choice, a cosine decay.

    learning_rate: peak rate. beta1, beta2: Adam's averages.
    warmup_steps: steps over which the rate rises from 0.
    final_rate_fraction: the rate at the last step over the peak; 1 keeps it constant after the warm-up.
    gradient_clip_norm: gradients with a larger total norm are scaled down to it; 0 never does.
    """

    learning_rate: float = 3e-4
    beta1: float = 0.9
    beta2: float = 0.999
    warmup_steps: int = 0
    final_rate_fraction: float = 1.0
    gradient_clip_norm: float = 0.0

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be above 0; got {self.learning_rate}")
        if not 0 <= self.final_rate_fraction <= 1:
            raise ValueError(f"final_rate_fraction lies between 0 and 1; got {self.final_rate_fraction}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How long, on how much at once, and how often to look.

    batch_size: items of one step over all workers. max_steps: optimizer steps in all.
    validate_every_steps: steps between two validations; each is also a checkpoint. Must divide max_steps.
    num_val_mixtures: stored validation mixtures to use (0: all); num_pesq_mixtures: how many of them are also scored
        with PESQ and STOI, which are slow.
    precision: 32-true, or bf16-mixed where the device has it; auto chooses bf16-mixed on such GPUs.
    """

    batch_size: int = 32
    max_steps: int = 100_000
    validate_every_steps: int = 1000
    num_val_mixtures: int = 0
    num_pesq_mixtures: int = 20
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_steps", "validate_every_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        for name in ("num_val_mixtures", "num_pesq_mixtures"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative; got {getattr(self, name)}")
        if self.max_steps % self.validate_every_steps:
            raise ValueError(
                f"max_steps={self.max_steps} must be a multiple of validate_every_steps={self.validate_every_steps}, "
                "or the last steps would be neither validated nor saved"
            )


class DenoisingModule(pl.LightningModule):
    """Trains `model` on Batch(noisy, clean) and scores it on stored validation mixtures.

    After each validation `validation_scores` holds the mean of every metric over all ranks' mixtures, the same
    whatever the number of ranks, and `examples` a few (noisy, clean, estimate) triples of (T,) for eyes and ears.
    """

    def __init__(
        self,
        model: Denoiser,
        loss: LossConfig,
        optimizer: OptimizerConfig,
        training: TrainingConfig,
        seed: int,
    ) -> None:
        super().__init__()
        self.model: Denoiser = model
        self.loss = DenoisingLoss(loss)
        self.optimizer_config, self.training_config, self.seed = optimizer, training, seed
        self.validation_scores: dict[str, float] = {}
        self.examples: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._rows: list[dict[str, float]] = []

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Whatever a model draws while training (its initial level, say) depends on the step alone, never on what
        # this process did before; so a resumed run draws what an uninterrupted one draws.
        torch.manual_seed((self.seed * 1_000_003 + self.global_step) * 4099 + self.global_rank)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        losses = self.loss(self.model(batch.noisy), batch.clean, batch.noisy)
        terms = {name: value.detach() for name, value in losses.terms.items()}
        return {"loss": losses.total, "terms": terms}

    def on_validation_epoch_start(self) -> None:
        self._rows, self.examples = [], []

    def validation_step(self, item: dict[str, Any], batch_idx: int) -> None:
        noisy, clean = item["noisy"], item["clean"]  # (1, 1, T) each
        estimate = self.model(noisy)
        losses = self.loss(estimate, clean, noisy)
        row = {"index": float(item["index"]), "loss": float(losses.total)}
        row |= {name: float(value) for name, value in losses.terms.items()}
        noisy_T, clean_T, estimate_T = (_to_numpy(signal) for signal in (noisy, clean, estimate))
        slow = item["index"] < self.training_config.num_pesq_mixtures
        for prefix, signal_T in (("", estimate_T), ("noisy_", noisy_T)):
            quality = score_clip(clean_T, signal_T, self.model.sample_rate, perceptual=slow)
            scores = {f"{prefix}{name}": value for name, value in dataclasses.asdict(quality).items()}
            row |= {name: value for name, value in scores.items() if not math.isnan(value)}
        self._rows.append(row)
        if len(self.examples) < 2:
            self.examples.append((noisy_T, clean_T, estimate_T))

    def on_validation_epoch_end(self) -> None:
        rows = sorted(_gather(self._rows), key=lambda row: row["index"])  # one order, so one rounding
        names = sorted({name for row in rows for name in row} - {"index"})
        self.validation_scores = {
            name: float(np.mean([row[name] for row in rows if name in row])) for name in names
        }

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        if isinstance(batch, Batch):
            noisy, clean = (part.to(device, non_blocking=True) for part in (batch.noisy, batch.clean))
            return dataclasses.replace(batch, noisy=noisy, clean=clean)
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def configure_optimizers(self) -> Any:
        config = self.optimizer_config
        optimizer = torch.optim.Adam(
            self.model.parameters(), lr=config.learning_rate, betas=(config.beta1, config.beta2)
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate_fraction)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _rate_fraction(self, step: int) -> float:
        """The learning rate at a step over its peak: linear warm-up, then half a cosine down to the final rate."""
        config, last = self.optimizer_config, self.training_config.max_steps
        if step < config.warmup_steps:
            return (step + 1) / (config.warmup_steps + 1)
        progress = (step - config.warmup_steps) / max(1, last - config.warmup_steps)
        cosine = (1 + math.cos(math.pi * min(1.0, progress))) / 2
        return config.final_rate_fraction + (1 - config.final_rate_fraction) * cosine


def compared_scores(scores: dict[str, float]) -> dict[str, dict[str, float]]:
    """{"noisy": {metric: score}, "enhanced": {metric: score}} of validation scores, which name the former noisy_*."""
    noisy = {
        name.removeprefix("noisy_"): value for name, value in scores.items() if name.startswith("noisy_")
    }
    return {"noisy": noisy, "enhanced": {name: scores[name] for name in noisy if name in scores}}


def _to_numpy(signal: Tensor) -> np.ndarray:
    return signal.detach().float().cpu().numpy().reshape(-1)


def _gather(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    """All ranks' rows on each rank."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return rows
    gathered: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, rows)
    return [row for part in gathered for row in part]
