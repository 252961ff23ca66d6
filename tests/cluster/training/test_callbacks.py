"""What is told of a run: its speed, above all what part of the time the trainer waits for data, and its best model."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from cluster.feeding.stream import RankBatches
from cluster.runs.checkpoints import Checkpoints
from cluster.settings.experiment import load_config
from cluster.training import worker as train_worker
from cluster.training.loop import callbacks
from cluster.training.loop.bad_batches import WatchLoss
from cluster.training.loop.callbacks import TrackRun
from cluster.training.loop.module import DenoisingModule
from cluster.training.loop.scorer import Clip, Scorer
from ww_data import Storage
from ww_models import build_model, read_bundle_info, save_bundle


class Track:
    """A TrackRun whose steps take as long as a test says, and what it told the tracker."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s, self.told = 0.0, list[dict[str, float]]()
        monkeypatch.setattr(callbacks, "time", SimpleNamespace(monotonic=lambda: self.now_s))
        config = load_config("gatewave-compact", ["tracking.log_every_steps=2"])
        tracking: Any = SimpleNamespace(scalars=self._hear, send=lambda: None)
        watch_loss = WatchLoss(0, 10, Mock())
        self.run = TrackRun(config, tracking, None, 303, None, watch_loss, Mock())
        self.run._show_examples = Mock()  # type: ignore[method-assign]
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
    track.run.board = SimpleNamespace(post=post)
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


def registered(run: Storage, journal: Path) -> tuple[dict[str, Any], dict[str, float]]:
    """What the bundle that a start registers at its end says of itself, and the scores it is registered with."""
    told: list[tuple[dict[str, Any], dict[str, float]]] = []

    def hear(bundle: Path, scores: dict[str, float]) -> None:
        told.append((read_bundle_info(bundle).metrics, scores))

    config = load_config("tiny", ["training.score=si_sdr_db"])
    tracking: Any = SimpleNamespace(model=hear, metrics_file=journal)
    checkpoints = Checkpoints(run, config.training)
    TrackRun(config, tracking, None, 10, None, Mock(), checkpoints).on_train_end(Mock(), Mock())
    ((metrics, scores),) = told
    return metrics, scores


def test_the_registered_model_is_the_best_of_all_starts_with_scores_that_came_late(tmp_path: Path) -> None:
    config = load_config("tiny")
    model = build_model(config.model_name, **dataclasses.asdict(config.model))
    run, journal = Storage(tmp_path / "run"), tmp_path / "metrics.jsonl"
    late = [{"step": step, "series": "val", "pesq": 1.0 + step / 10} for step in (1, 2, 3)]
    journal.write_text("".join(json.dumps(line) + "\n" for line in late))
    for step, score, best in ((1, 5.0, 1), (2, 9.0, 2), (3, 7.0, 2), (4, 6.0, 2), (5, 10.0, 5)):
        scores = {"si_sdr_db": score, "noisy_si_sdr_db": 1.0}
        save_bundle(tmp_path / "made" / str(step) / "bundle", model, metrics={"step": step})
        Checkpoints(run, config.training).store(tmp_path / "made" / str(step), step, {**scores, "step": step})
        metrics, told = registered(run, journal)
        assert metrics["step"] == best
        assert told.get("pesq") == (1.0 + best / 10 if best < 4 else None)
        assert metrics["enhanced"]["si_sdr_db"] == told["si_sdr_db"]


SILENCE_T = torch.zeros(1).numpy()


def clip(place: int, value: float) -> Clip:
    return Clip(place, SILENCE_T, SILENCE_T, SILENCE_T + value)


@pytest.fixture
def scorer(monkeypatch: pytest.MonkeyPatch) -> Scorer:
    """Of two clips a step, in this process: a clip's PESQ is its estimate's value, and 3.0 takes its time."""

    def score(clean_T: Any, estimate_T: Any, sample_rate: int) -> dict[str, float]:
        if estimate_T[0] == 3.0:
            time.sleep(0.3)
        return {"pesq": float(estimate_T[0])}

    monkeypatch.setattr("cluster.training.loop.scorer._score_clip", SimpleNamespace(remote=score))
    monkeypatch.setattr("cluster.training.loop.scorer.ray", SimpleNamespace(get=lambda value: value))
    return Scorer(2, 4)


def test_a_step_that_is_done_again_is_scored_again(scorer: Scorer) -> None:
    """Of the earlier start one of two clips came through, and another comes late: none of them may be mixed in."""
    first = scorer.begin(0)
    scorer.submit(10, [clip(0, 1.0), clip(1, 3.0)], 16_000, first)
    second = scorer.begin(0)
    scorer.submit(10, [clip(0, 2.0)], 16_000, second)
    scorer.submit(10, [clip(1, 1.0)], 16_000, first)
    assert scorer.take(0.6, second) == {}
    scorer.submit(10, [clip(1, 2.5)], 16_000, second)
    assert scorer.take(5.0, first) == {}, "its workers are gone"
    assert scorer.take(5.0, second)[10]["pesq"] == 2.25
    assert scorer.take(0.0, second) == {}


def test_scores_that_a_killed_worker_took_are_given_again_until_they_are_kept(scorer: Scorer) -> None:
    start = scorer.begin(0)
    for step in (10, 20, 30):
        scorer.submit(step, [clip(0, step), clip(1, step)], 16_000, start)
    assert list(scorer.take(5.0, start)) == [10, 20, 30]
    assert scorer.take(0.0, start, kept=[10]) == {}
    start = scorer.begin(30)
    assert list(scorer.take(0.0, start)) == [20, 30]
    assert scorer.take(0.0, start, kept=[20, 30]) == {}
    assert scorer.take(0.0, scorer.begin(30)) == {}


def test_what_is_handed_in_after_the_checkpoint_that_is_gone_on_from_is_not_waited_for(
    scorer: Scorer,
) -> None:
    """Of step 20 one rank alone had handed in, and the run may well end before it comes there again."""
    start = scorer.begin(0)
    scorer.submit(10, [clip(0, 1.0), clip(1, 1.0)], 16_000, start)
    scorer.submit(20, [clip(0, 1.0)], 16_000, start)
    since_s = time.monotonic()
    assert list(scorer.take(30.0, scorer.begin(10))) == [10]
    assert time.monotonic() - since_s < 10


@pytest.mark.parametrize("has_trained", [True, False])
def test_workers_that_come_after_the_last_step_write_what_the_killed_ones_did_not(
    monkeypatch: pytest.MonkeyPatch, scorer: Scorer, has_trained: bool
) -> None:
    told: list[Any] = []
    tracking: Any = SimpleNamespace(
        scalars=lambda *point: told.append(point),
        close=lambda failed: told.append("failed" if failed else "completed"),
    )
    killed = scorer.begin(0)
    scorer.submit(10, [clip(0, 1.0), clip(1, 2.0)], 16_000, killed)
    assert list(scorer.take(5.0, killed)) == [10]
    notes = SimpleNamespace(has_trained=SimpleNamespace(remote=lambda: has_trained))
    calls = {name: SimpleNamespace(remote=getattr(scorer, name)) for name in ("begin", "take")}
    job: Any = SimpleNamespace(notes=notes, scorer=SimpleNamespace(**calls), run=Mock(), config=Mock())
    monkeypatch.setattr(train_worker.ray, "get", lambda value: value)
    monkeypatch.setattr(train_worker, "_open_tracking", lambda job: tracking)
    monkeypatch.setattr(train_worker, "register_best", lambda *_: told.append("model"))
    train_worker._conclude(job, 10)
    scores = [("val", {"pesq": 1.5}, 10), ("noisy", {"pesq": 0.0}, 10)]
    assert told == ([*scores, "model"] if has_trained else []) + ["completed"]
