"""What a worker leaves when it fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray

from cluster.tracking.tracker import Tracker
from cluster.training.job import WorkerJob
from cluster.training.loop.bad_batches import BadLossError
from cluster.training.notes import run_notes
from cluster.training.worker import tracked
from tests.cluster.training.training_loop import settings
from ww_data import Storage


def test_a_failure_is_noted_before_the_tracker_closes(
    local_ray: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing may take minutes, and the other ranks wait for the note only seconds."""
    config, close, noted = settings("tracking.clearml=never"), Tracker.close, list[Any]()
    with run_notes() as notes:

        def watched_close(tracker: Tracker, *, failed: bool) -> None:
            noted.append((failed, ray.get(notes.failure.remote())))
            close(tracker, failed=failed)

        monkeypatch.setattr(Tracker, "close", watched_close)
        run, data = Storage(tmp_path), {"manifest_hash": "abc"}
        job = WorkerJob(config, config.resources, "", data, run, "run", 6, None, notes)
        with pytest.raises(BadLossError), tracked(job, rank=0):
            raise BadLossError("nan")
    assert noted == [(True, ("nan", {0}))]
