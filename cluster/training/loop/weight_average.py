"""An exponential moving average of the weights: validated and shipped instead of them, and part of a checkpoint."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging


class WeightAverage(WeightAveraging):
    """Lightning's average, with a decay that starts low, so that the first weights do not linger in it.

    The decay after n steps is at most (1 + n) / (10 + n), as is usual. Buffers (BatchNorm's statistics) are averaged
    like weights. Lightning saves and restores it, and puts it in the model's place while validating.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(use_buffers=True, multi_avg_fn=functools.partial(update, decay))

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._device = trainer.strategy.root_device  # the module itself is moved there only later
        super().setup(trainer, pl_module, stage)


def update(decay: float, average: list[Any], current: list[Any], num_averaged: Any) -> None:
    """`multi_avg_fn` of torch's AveragedModel, once its decay is given."""
    n = float(num_averaged)
    weight = 1 - min(decay, (1 + n) / (10 + n))
    if torch.is_floating_point(average[0]):
        torch._foreach_lerp_(average, current, weight)
    else:  # counters
        for old, new in zip(average, current, strict=True):
            old.copy_(new)


@contextlib.contextmanager
def shipped_weights(trainer: pl.Trainer, module: pl.LightningModule) -> Iterator[None]:
    """The module holds the weights that were validated and that ship: the average, where there is one."""
    averages = [callback for callback in trainer.callbacks if isinstance(callback, WeightAverage)]  # type: ignore[attr-defined]
    for average in averages:
        average._swap_models(module)
    try:
        yield
    finally:
        for average in averages:
            average._swap_models(module)
