"""What is told of a run's speed: above all, what part of the time the trainer waits for data."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from cluster import callbacks
from cluster.callbacks import TrackRun
from cluster.config import load_config
from cluster.datasets import RankBatches
from cluster.lightning import DenoisingModule


class Track:
    """A TrackRun whose steps take as long as a test says, and what it told the tracker."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s, self.told = 0.0, list[dict[str, float]]()
        monkeypatch.setattr(callbacks, "time", SimpleNamespace(monotonic=lambda: self.now_s))
        config = load_config("gatewave-compact", ["tracking.log_every_steps=2"])
        tracker = SimpleNamespace(scalars=self._hear)
        self.run = TrackRun(config, {}, tracker, None)  # type: ignore[arg-type]
        self.batches = RankBatches(None, None, 0)  # type: ignore[arg-type]
        optimizer = SimpleNamespace(param_groups=[{"lr": 0.1}])
        self.trainer: Any = SimpleNamespace(
            global_step=0, train_dataloader=self.batches, optimizers=[optimizer]
        )
        self.module = Mock(spec=DenoisingModule, validation_scores={}, examples=[])
        self.module.model = SimpleNamespace(sample_rate=16_000)

    def _hear(self, series: str, values: dict[str, float], step: int) -> None:
        if series == "train":
            self.told.append(values)

    def fetch(self, wait_s: float) -> None:
        self.now_s += wait_s
        self.batches.waited_s += wait_s

    def step(self, work_s: float) -> None:
        self.now_s += work_s
        self.trainer.global_step += 1
        batch = SimpleNamespace(noisy=torch.zeros(4, 1, 16_000))
        outputs = {"loss": torch.tensor(1.0), "batch_loss": torch.tensor(1.0), "terms": {}}
        self.run.on_train_batch_end(self.trainer, self.module, outputs, batch, 0)


def test_the_part_of_the_time_that_is_spent_waiting_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    track = Track(monkeypatch)
    track.fetch(30.0)  # starting up is not counted
    track.step(10.0)
    for wait_s in (1.0, 0.0, 0.5, 0.5, 0.0):
        track.fetch(wait_s)
        track.step(1.0)
    assert [values["data_wait_fraction"] for values in track.told] == pytest.approx(
        [1 / 2, 0.5 / 2.5, 0.5 / 2.5]
    )


def test_batches_that_are_fetched_ahead_never_wait_for_more_than_all_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As Lightning does it: the next batch is fetched before the step, and kept over a validation."""
    track = Track(monkeypatch)
    track.fetch(5.0)
    track.fetch(60.0)
    track.step(1.0)
    track.step(1.0)
    track.fetch(60.0)
    track.run.on_validation_end(track.trainer, track.module)
    track.step(1.0)
    track.step(1.0)
    assert [values["data_wait_fraction"] for values in track.told] == [0.0, 0.0]


def test_the_progress_line_tells_the_remaining_time(monkeypatch: pytest.MonkeyPatch) -> None:
    track, posted = Track(monkeypatch), list[tuple[int, int, str]]()
    post = SimpleNamespace(remote=lambda *state: posted.append(state))
    track.run.board, track.run.last_step = SimpleNamespace(post=post), 303
    for _ in range(3):
        track.step(2.0)
    track.step(2.0)
    step, last_step, note = posted[-1]
    assert (step, last_step) == (4, 303)
    assert note.endswith(", 10 min left")  # 299 steps of 2 s
