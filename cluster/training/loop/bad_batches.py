"""Losses that are not finite: the run stops and keeps the batch for inspection, or by choice leaves such steps out."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from torch import Tensor

from cluster.feeding.blocks import FeedConfig, make_plan, mix_positions
from cluster.training.loop.module import DenoisingModule
from ww_data import Storage, open_corpus, read_shard

BAD_BATCHES_FOLDER = "bad_batches"  # in a run's folder

# keep(step, rank, positions of the batch in the plan, its loss) -> address of the file that describes it
KeepBatch = Callable[[int, int, npt.NDArray[np.int64], float], str]


class BadLossError(ValueError):
    """The loss or its gradients are not finite."""


class _Batch(NamedTuple):
    step: int
    positions: npt.NDArray[np.int64]
    loss: Tensor


class WatchLoss(pl.Callback):
    """Stops at the first loss that is not finite, or leaves out up to `skip` steps and then stops.

    To stop, losses are checked every few steps and before a validation (each check makes a GPU wait, and is a message
    among the ranks), so that no checkpoint ever holds what came of a bad one. Gradients may be bad where the loss is
    not: of the last step before a validation only the weights show it. To skip, each step is checked, by its
    gradients: they are the mean over all ranks, so all of them see the same and leave out the same step.
    """

    def __init__(self, skip: int, check_every_steps: int, keep: KeepBatch) -> None:
        self.skip, self.check_every_steps, self.keep = skip, check_every_steps, keep
        self.skipped = 0
        self._unchecked: list[_Batch] = []
        self._buffers: list[Tensor] = []  # BatchNorm's before this step, which may make them bad

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped = state_dict["skipped"]

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, DenoisingModule)
        module.on_loss = lambda *batch: self._unchecked.append(_Batch(*batch))

    def on_train_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.skip and batch_idx % trainer.accumulate_grad_batches == 0:
            self._buffers = [buffer.clone() for buffer in module.buffers()]

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if not self.skip:
            return
        unchecked, self._unchecked = self._unchecked, []
        gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
        if math.isfinite(float(torch.nn.utils.get_total_norm(gradients))):
            return
        step = trainer.global_step + 1
        kept = self._keep_bad(unchecked, step, trainer.global_rank)
        self.skipped += 1
        if self.skipped > self.skip:
            raise BadLossError(
                f"the loss or its gradients were not finite at step {step}, time no. {self.skipped}, and "
                f"training.skip_bad_batches={self.skip} were to be skipped{kept}"
            )
        # Adam passes over parameters without a gradient: weights, averages and their count stay as they are.
        for parameter in module.parameters():
            parameter.grad = None
        for buffer, before in zip(module.buffers(), self._buffers, strict=True):
            buffer.copy_(before)

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        ends_step = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if not self.skip and ends_step and trainer.global_step % self.check_every_steps == 0:
            self._check(trainer, module)

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.check_before_saving(trainer, module)

    def check_before_saving(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Raises BadLossError where weights or losses since the last check are not finite; for all ranks together."""
        if not self.skip:
            self._check(trainer, module)
        values = [*module.parameters(), *module.buffers()]
        finite = torch.stack([torch.isfinite(value).all() for value in values]).all().to(torch.int64)
        if not int(trainer.strategy.reduce(finite, reduce_op=_MINIMUM)):  # type: ignore[arg-type]
            raise BadLossError(
                f"the weights became nan or infinite at step {trainer.global_step}, though the losses were finite; "
                "lower optimizer.learning_rate, or set optimizer.gradient_clip_norm or training.skip_bad_batches"
            )

    def _check(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        unchecked, self._unchecked = self._unchecked, []
        finite = (
            torch.isfinite(torch.stack([batch.loss for batch in unchecked])).tolist() if unchecked else []
        )
        bad = [batch for batch, is_finite in zip(unchecked, finite, strict=True) if not is_finite]
        # One bad batch makes all that follow bad, on all ranks: the first one of all is the culprit.
        never = torch.iinfo(torch.int64).max
        first = torch.tensor(min((batch.step for batch in bad), default=never), device=module.device)
        step = int(trainer.strategy.reduce(first, reduce_op=_MINIMUM))  # type: ignore[arg-type]
        if step == never:
            return
        kept = self._keep_bad(bad, step, trainer.global_rank)
        raise BadLossError(
            f"the loss became nan or infinite at step {step}; lower optimizer.learning_rate, set "
            f"optimizer.gradient_clip_norm or training.skip_bad_batches{kept}"
        )

    def _keep_bad(self, batches: list[_Batch], step: int, rank: int) -> str:
        """Keeps the first of these batches whose loss is not finite at this step; says where."""
        for batch in batches:
            if batch.step == step and not math.isfinite(loss := float(batch.loss)):
                try:
                    return f" (the batch: {self.keep(step, rank, batch.positions, loss)})"
                except Exception as error:  # the bad loss is what must be reported
                    return f" (its batch could not be kept: {error})"
        return ""


_MINIMUM = torch.distributed.ReduceOp.MIN if torch.distributed.is_available() else "min"


def keep_batch(
    feed: FeedConfig, run: Storage, step: int, rank: int, positions: npt.NDArray[np.int64], loss: float
) -> str:
    """Writes what a batch was made of as JSON, and beside it the batch (.npz: noisy, clean (B, T)).

    The batch itself is gone by then: it is mixed once more, exactly, from the plan.
    """
    name = f"{BAD_BATCHES_FOLDER}/step_{step:07d}_rank_{rank}"
    record = {"step": step, "rank": rank, "loss": str(loss), "positions": positions.tolist()}
    record["segments"] = _segments(feed, positions)
    run.write(f"{name}.json", json.dumps(record, indent=2).encode())
    items = mix_positions(feed, positions)
    with run.writing(f"{name}.npz") as path, path.open("wb") as file:
        np.savez(file, noisy=items.noisy_NT, clean=items.clean_NT, positions=positions)
    return run.address(f"{name}.json")


def _segments(feed: FeedConfig, positions: npt.NDArray[np.int64]) -> list[dict[str, Any]]:
    """For each position its epoch and segment: clip, start in samples, speaker, shard and row."""
    corpus = open_corpus(feed.corpus_uri)
    plan, shards = make_plan(corpus, feed), corpus.shards("train")
    segments = []
    for position in positions.tolist():
        epoch, shard, row = (int(values[0]) for values in plan.at(position, position + 1))
        with corpus.storage.open(shards[shard].name) as file:
            segment = read_shard(file).take([row])
        about = {"epoch": epoch, "segment": f"{segment.key_N[0]:016x}", "clip": str(segment.clip_id_N[0])}
        about |= {"start_samples": int(segment.start_N[0]), "speaker": str(segment.speaker_N[0])}
        segments.append({**about, "shard": shards[shard].name, "row": row})
    return segments
