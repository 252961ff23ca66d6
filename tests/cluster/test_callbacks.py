"""What is told of a run: its speed, above all what part of the time the trainer waits for data, and its best model."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from cluster import callbacks, perceptual
from cluster.bad_batches import WatchLoss
from cluster.callbacks import TrackRun
from cluster.config import load_config
from cluster.datasets import RankBatches
from cluster.lightning import DenoisingModule
from cluster.perceptual import Clip, Scorer
from ww_models import build_model, read_bundle_info, save_bundle


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


def test_skipped_steps_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    track = Track(monkeypatch)
    track.run.watch_loss = WatchLoss(5, 10, Mock())
    track.run.watch_loss.skipped = 3
    for _ in range(4):
        track.step(1.0)
    assert track.told[-1]["skipped_steps"] == 3


class Start:
    """A start of a run that validates with given scores, and the model that it registers at its end."""

    def __init__(
        self, run_dir: Path, first_step: int, scores: list[float], state: dict[str, Any] | None
    ) -> None:
        self.registered = list[tuple[float, dict[str, float]]]()
        tracker = Mock(model=self._hear)
        config = load_config("tiny", ["training.score=si_sdr_db"])
        self.track = TrackRun(config, {}, tracker, None, run_dir=run_dir)
        if state is not None:
            self.track.load_state_dict(state)
        model = build_model(config.model_name, **dataclasses.asdict(config.model))
        module = DenoisingModule(model, config.loss, config.optimizer, config.training, 0, 100)
        trainer: Any = SimpleNamespace(callbacks=[], train_dataloader=RankBatches(None, None, 0))  # type: ignore[arg-type]
        for step, score in enumerate(scores, start=first_step):
            trainer.global_step = step
            module.validation_scores = {"si_sdr_db": score, "noisy_si_sdr_db": 1.0}
            self.track.on_validation_end(trainer, module)
            save_bundle(run_dir / f"checkpoint_{step}" / "bundle", model, metrics={"step": step})
        self.state = self.track.state_dict()
        self.track.on_train_end(trainer, module)

    def _hear(self, bundle: Path, scores: dict[str, float]) -> None:
        self.registered.append((read_bundle_info(bundle).metrics["step"], scores))


def test_the_registered_model_is_the_best_of_all_starts(tmp_path: Path) -> None:
    first = Start(tmp_path, 1, [5.0, 9.0], None)
    assert [(step, scores["si_sdr_db"]) for step, scores in first.registered] == [(2, 9.0)]
    worse = Start(tmp_path, 3, [7.0, 6.0], first.state)
    assert [(step, scores["si_sdr_db"]) for step, scores in worse.registered] == [(2, 9.0)]
    better = Start(tmp_path, 5, [10.0, 6.0], worse.state)
    assert [(step, scores["si_sdr_db"]) for step, scores in better.registered] == [(5, 10.0)]


def test_a_step_that_is_done_again_is_scored_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the earlier start one of two clips came through, and another comes late: none of them may be mixed in."""

    def score(clean_T: Any, estimate_T: Any, sample_rate: int) -> dict[str, float]:
        if estimate_T[0] == 3.0:
            time.sleep(0.3)
        return {"pesq": float(estimate_T[0])}

    monkeypatch.setattr(perceptual, "_score_clip", SimpleNamespace(remote=score))
    monkeypatch.setattr(perceptual, "ray", SimpleNamespace(get=lambda value: value))
    scorer, silence_T = Scorer(2, 4), torch.zeros(1).numpy()

    def clip(place: int, value: float) -> Clip:
        return Clip(place, silence_T, silence_T, silence_T + value)

    scorer.submit(10, [clip(0, 1.0), clip(1, 3.0)], 16_000, start=1)
    scorer.submit(10, [clip(0, 2.0)], 16_000, start=2)
    scorer.submit(10, [clip(1, 1.0)], 16_000, start=1)
    assert scorer.take(0.6) == {}
    scorer.submit(10, [clip(1, 2.5)], 16_000, start=2)
    assert scorer.take(5.0)[10]["pesq"] == 2.25
    assert scorer.take(0.0) == {}
