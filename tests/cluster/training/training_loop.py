"""Lightning's loop as the workers of a training run set it up, on made-up batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from cluster.feeding.stream import Batch
from cluster.settings.experiment import ExperimentConfig, load_config
from cluster.training.loop.bad_batches import WatchLoss
from cluster.training.loop.module import DenoisingModule
from cluster.training.loop.stopping import is_cut
from cluster.training.loop.weight_average import shipped_weights
from cluster.training.worker import loop_callbacks, loop_settings
from ww_models import build_model

ITEM = 2048  # samples


def settings(*overrides: str) -> ExperimentConfig:
    """A very small demucs. It has no BatchNorm, so a step does not depend on how it is cut into batches."""
    small = ["model.hidden=2", "model.depth=2", "model.normalize=utterance", "optimizer.warmup_steps=0"]
    loss = ["loss.compressed_weight=0", "loss.si_sdr_weight=0", "loss.l1_weight=1"]
    size = ["training.batch_size=4", "training.max_steps=6", "training.validate_every_steps=3"]
    return load_config("demucs-compact", [*small, *loss, *size, "training.num_pesq_mixtures=0", *overrides])


class Plan:
    """Endless batches as a function of the position of their items alone, from a batch on; each is waited for."""

    def __init__(
        self,
        batch_size: int,
        first_batch: int = 0,
        bad: tuple[int, ...] = (),
        wait_s: Callable[[int], float] = lambda batch: 0.0,
    ) -> None:
        self.batch_size, self.batch, self.bad, self.wait_s = batch_size, first_batch, bad, wait_s
        self.waited_s = 0.0

    def __iter__(self) -> Iterator[Batch]:
        while True:
            self.waited_s += self.wait_s(self.batch)
            positions = np.arange(self.batch * self.batch_size, (self.batch + 1) * self.batch_size)
            self.batch += 1
            clean = torch.stack([self._item(int(position)) for position in positions])
            noise = torch.stack([self._item(1_000_000 + int(position)) for position in positions])
            if self.batch - 1 in self.bad:
                noise[0, 0, 100] = torch.nan
            yield Batch(clean + noise, clean, torch.zeros(len(positions)), "active", positions)

    @staticmethod
    def _item(seed: int) -> torch.Tensor:
        return 0.1 * torch.randn(1, ITEM, generator=torch.Generator().manual_seed(seed))


class Keep(pl.Callback):
    """Does what a run does after a validation, or where it is cut: saves the state, and the weights that would ship."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.steps, self.shipped = folder, list[int](), dict[str, torch.Tensor]()

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *rest: Any) -> None:
        if is_cut(trainer):
            self.on_validation_end(trainer, module)

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, DenoisingModule)
        self.steps.append(trainer.global_step)
        trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")
        with shipped_weights(trainer, module):
            self.shipped = {name: value.clone() for name, value in module.model.state_dict().items()}


@dataclasses.dataclass
class Run:
    module: DenoisingModule
    keep: Keep
    trained: dict[str, torch.Tensor]  # the weights that the optimizer has come to
    kept_bad: list[tuple[int, list[int]]]  # (step, positions) of batches that were kept for inspection
    validated: list[int]  # steps


def train(
    config: ExperimentConfig,
    folder: Path,
    *,
    resume_at: int = 0,
    deadline_s: float | None = None,
    is_told_to_stop: Callable[[], bool] = lambda: False,
    bad: tuple[int, ...] = (),
    bad_gradient_at: int = 0,
    keep_bad: Callable[..., str] = lambda *batch: "bad.json",
    wait_s: Callable[[int], float] = lambda batch: 0.0,
    callbacks: Callable[[WatchLoss], list[pl.Callback]] = lambda watch_loss: [],
) -> Run:
    """bad: batches (0, 1, ...) that have a sample which is not a number. bad_gradient_at: a step with a finite loss.

    keep_bad: of WatchLoss. wait_s: called as a batch is fetched, how long it is waited for. callbacks: more of them.
    """
    folder.mkdir(exist_ok=True)
    pl.seed_everything(0, verbose=False)
    model = build_model(config.model_name, **dataclasses.asdict(config.model))
    training = config.training
    last_step = training.num_steps(12)
    module = DenoisingModule(model, config, last_step)
    validation = next(iter(Plan(2, 1_000)))
    items = [{"index": n, "noisy": validation.noisy[n], "clean": validation.clean[n]} for n in range(2)]
    keep, kept = Keep(folder), list[tuple[int, list[int]]]()

    def note_bad(step: int, rank: int, positions: np.ndarray, loss: float) -> str:
        kept.append((step, positions.tolist()))
        return keep_bad(step, rank, positions, loss)

    watch_loss = WatchLoss(training.skip_bad_batches, 10, note_bad)
    trained: dict[str, torch.Tensor] = {}
    validated: list[int] = []

    class Trained(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
            trained.update({name: value.clone() for name, value in module.model.state_dict().items()})

        def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
            validated.append(trainer.global_step)

    class SpoilGradient(pl.Callback):
        def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
            if trainer.global_step + 1 == bad_gradient_at:
                next(iter(module.model.parameters())).grad.fill_(torch.nan)  # type: ignore[union-attr]

    trainer = pl.Trainer(
        **loop_settings(config, last_step),
        callbacks=[
            *loop_callbacks(config, watch_loss, deadline_s, is_told_to_stop),
            *callbacks(watch_loss),
            Trained(),
            keep,
            SpoilGradient(),
        ],
        accelerator="cpu",
    )
    trainer.fit(
        module,
        Plan(training.batch_size, resume_at * training.accumulate, bad, wait_s),
        DataLoader(items, batch_size=1),  # type: ignore[arg-type]
        ckpt_path=str(folder / f"{resume_at}.ckpt") if resume_at else None,
        weights_only=True,
    )
    return Run(module, keep, trained, kept, validated)


def assert_equal(weights: dict[str, torch.Tensor], others: dict[str, torch.Tensor], tolerance: float) -> None:
    for name, value in weights.items():
        assert (value - others[name]).abs().max() <= tolerance, name
