"""What a run's curves and progress line say: its speed, above all for what part of the time it waits for data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl

from cluster.tracking.tracker import open_tracker
from cluster.training.loop import curves
from cluster.training.loop.bad_batches import WatchLoss
from cluster.training.loop.curves import TrackRun
from tests.cluster.training.training_loop import settings, train
from ww_data import Storage


class TimedRun:
    """Six steps of Lightning's loop, validated after the third, on a clock that goes on only as a test says.

    points: (step, values) of the training curves. posted: (step, last step, note) of the progress line.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.now_s = folder, 0.0
        self.posted = list[tuple[int, int, str]]()
        clock = SimpleNamespace(monotonic=lambda: self.now_s, time=lambda: self.now_s)
        monkeypatch.setattr(curves, "time", clock)

    def train(
        self,
        *overrides: str,
        step_s: float,
        wait_s: Callable[[int], float] = lambda batch: 0.0,
        deadline_s: float | None = None,
        bad: tuple[int, ...] = (),
    ) -> list[tuple[int, dict[str, float]]]:
        """The points of the training curves. step_s: time that a step takes; wait_s: that a batch is waited for."""
        config = settings("tracking.clearml=never", *overrides)
        tracker = open_tracker(config, Storage(self.folder), "run", "hash")
        board = SimpleNamespace(post=SimpleNamespace(remote=lambda *state: self.posted.append(state)))

        def pass_time(seconds: float) -> float:
            self.now_s += seconds
            return seconds

        class Work(pl.Callback):
            def on_train_batch_start(self, *_: Any) -> None:
                pass_time(step_s)

        def callbacks(watch_loss: WatchLoss) -> list[pl.Callback]:
            return [Work(), TrackRun(config, tracker, board, deadline_s, watch_loss)]

        train(
            config,
            self.folder / "states",
            bad=bad,
            wait_s=lambda batch: pass_time(wait_s(batch)),
            callbacks=callbacks,
        )
        tracker.close()
        lines = map(json.loads, (self.folder / "tracking" / "metrics.jsonl").read_text().splitlines())
        return [(line["step"], line) for line in lines if line["series"] == "train"]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TimedRun:
    return TimedRun(tmp_path, monkeypatch)


def test_the_part_of_the_time_that_is_spent_waiting_is_logged(run: TimedRun) -> None:
    """Of the time since the first step, which holds all the starting up."""
    points = run.train("tracking.log_every_steps=2", step_s=3.0, wait_s=lambda batch: 1.0 if batch else 30.0)
    assert [step for step, _ in points] == [2, 4, 6]
    for _, values in points:
        assert values["data_wait_fraction"] == pytest.approx(0.25)
        assert values["steps_per_s"] == pytest.approx(0.25)
        assert values["audio_s_per_s"] == pytest.approx(0.25 * 4 * 2048 / 16_000)
        assert values["loss"] > 0


def test_a_batch_that_is_fetched_ahead_is_never_waited_for_more_than_all_the_time(run: TimedRun) -> None:
    """Lightning fetches a batch before the step before it, and keeps it over a validation."""
    points = run.train("tracking.log_every_steps=1", step_s=1.0, wait_s=lambda batch: 60.0 * (batch == 3))
    first, *later = (values for _, values in points)
    assert [values["data_wait_fraction"] for values in later] == pytest.approx([0, 60 / 61, 0, 0, 0])
    # Of the first step, which holds all the starting up, the loss alone is told: it may be the last of a resumed run.
    assert first["loss"] > 0
    assert "steps_per_s" not in first


@pytest.mark.parametrize(("deadline_s", "left"), [(None, "7 min"), (250.0, "50 s")])
def test_the_progress_line_shows_the_remaining_time(
    run: TimedRun, deadline_s: float | None, left: str
) -> None:
    run.train("tracking.log_every_steps=2", step_s=100.0, deadline_s=deadline_s)
    step, last_step, note = run.posted[0]
    assert (step, last_step) == (2, 6)
    assert note.endswith(f", {left} left")


def test_skipped_steps_are_logged(run: TimedRun) -> None:
    points = run.train("tracking.log_every_steps=1", "training.skip_bad_batches=5", step_s=1.0, bad=(1, 3, 4))
    assert [(step, values["skipped_steps"]) for step, values in points] == [
        (1, 0),
        (2, 1),
        (3, 1),
        (4, 2),
        (5, 3),
        (6, 3),
    ]
