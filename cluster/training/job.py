"""What a worker of a run is told. Without Lightning, whose import takes seconds: the driver knows this, too."""

from __future__ import annotations

import dataclasses
from typing import Any

from cluster.runs.checkpoints import Checkpoints
from cluster.settings.experiment import ExperimentConfig
from cluster.settings.resources import ResourcesConfig
from ww_data import Storage


@dataclasses.dataclass(frozen=True)
class WorkerJob:
    """All that a worker needs to know.

    resources: resolved. data: what the model card says of it, the weights that the run starts from (`finetuned_from`)
    included. run: its folder, which all nodes reach. last_step: optimizer steps of the whole run. deadline_s: when it
    has to end, seconds since 1970, or None. notes: see cluster.training.notes.
    """

    config: ExperimentConfig
    resources: ResourcesConfig
    corpus_uri: str
    data: dict[str, Any]
    run: Storage
    run_name: str
    last_step: int
    deadline_s: float | None
    notes: Any

    @property
    def checkpoints(self) -> Checkpoints:
        return Checkpoints(self.run, self.config.training)
