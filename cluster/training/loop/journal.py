"""Which items a run was trained on, step by step, as each rank saw them: proof that none was lost and none came twice.

    <run>/journal/<start>-rank_<rank>.jsonl   {"start": step resumed from}, then {"step": 7, "positions": [24, 25]}

Positions are places in the plan (`cluster.feeding.blocks.make_plan` tells the epoch and the segment of each). A start
that resumed from a step discards what earlier ones did after it; `read_lineage` gives what is left.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from typing import Any, TextIO

import pytorch_lightning as pl

from cluster.runs.folder import parse_lines
from cluster.runs.transfer import WorkingCopy
from cluster.training.loop.stopping import is_cut
from ww_data import Storage

JOURNAL_FOLDER = "journal"


class ItemJournal(pl.Callback):
    """One rank's part of the journal; at an address it is sent before each checkpoint."""

    def __init__(self, run: Storage) -> None:
        self._copy = WorkingCopy(run, JOURNAL_FOLDER, fetch=False)
        self._file: TextIO | None = None
        self._of_step: list[int] = []

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        start = int(trainer.strategy.broadcast(time.time_ns()))  # the same on all ranks
        path = self._copy.path / f"{start}-rank_{trainer.global_rank}.jsonl"
        self._file = path.open("x", encoding="utf-8")
        self._write({"start": trainer.global_step})

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._of_step += batch.positions.tolist()
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self._write({"step": trainer.global_step, "positions": self._of_step})
            self._of_step = []
        if is_cut(trainer):
            self._copy.send()

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._copy.send()

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert self._file is not None
        self._file.close()
        self._copy.close()

    def _write(self, line: dict[str, Any]) -> None:
        assert self._file is not None
        print(json.dumps(line), file=self._file, flush=True)


def read_lineage(run: Storage) -> dict[int, list[int]]:
    """{step: positions of its items, sorted} along the way to the run's last weights."""
    names = sorted(file.name for file in run.files() if file.name.startswith(f"{JOURNAL_FOLDER}/"))
    steps: dict[int, list[int]] = {}
    for _, of_start in itertools.groupby(names, key=lambda name: name.partition("-")[0]):
        lines = [line for name in of_start for line in parse_lines(run.read(name).decode())]
        resumed_at = next((line["start"] for line in lines if "start" in line), math.inf)
        steps = {step: positions for step, positions in steps.items() if step <= resumed_at}
        for line in lines:
            if "step" in line:
                steps.setdefault(line["step"], []).extend(line["positions"])
    return {step: sorted(positions) for step, positions in sorted(steps.items())}
