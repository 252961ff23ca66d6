"""Ray Train's trainer without the processes that a Ray of one's own can spare."""

from __future__ import annotations

from typing import Any

from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback


class LocalTrainer(TorchTrainer):
    """For a Ray that this process has started and ends; on few cores whatever runs beside the workers slows them.

    Left out are an actor that asks every second whether the run's controller is alive, to free its resources for
    others, of whom there are none, and one that deals out `datasets=`, which our workers do not take.
    """

    def _create_default_callbacks(self) -> list[Any]:
        spared = (PlacementGroupCleanerCallback, DatasetsCallback)
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]
        return [each for each in callbacks if not isinstance(each, spared)]
