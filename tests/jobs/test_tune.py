"""`python -m jobs.tune` when it is interrupted: what there is, and how to go on, instead of an error."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import pytest

from tests.cluster.environment import interruptible, private_environment
from ww_models import load_bundle


@pytest.mark.cluster
def test_a_sweep_that_is_interrupted_says_how_it_stands(small_corpus: Path, tmp_path: Path) -> None:
    steps = ("--set", "training.max_steps=4", "--set", "training.validate_every_steps=2")
    command = [
        *(sys.executable, "-m", "jobs.tune", "--data", str(small_corpus), "--preset", "tiny", *steps),
        *("--space", "loss.l1_weight=0..5", "--trials", "3", "--storage", str(tmp_path), "--name", "sweep"),
    ]
    sweep = interruptible(command, private_environment())
    try:
        deadline, folder = time.monotonic() + 600, tmp_path / "sweep"
        while len(list(folder.glob("trial_*"))) < 2:  # the first is done, since one runs at a time
            assert time.monotonic() < deadline, "no trial was done"
            assert sweep.poll() is None, "it ended"
            time.sleep(0.2)
        sweep.send_signal(signal.SIGINT)
        _, errors = sweep.communicate(timeout=240)
    finally:
        sweep.kill()
    assert sweep.returncode == 130, errors
    assert "Traceback" not in errors
    (done,) = (path.parent for path in folder.glob("trial_*/bundle"))
    (begun,) = (path for path in folder.glob("trial_*") if path != done)
    assert load_bundle(done / "bundle").num_parameters > 0
    assert f"{folder}: a sweep that was cut (done with a bundle: {done.name}; begun and without one" in errors
    go_on = f"python -m jobs.train --data {small_corpus} --storage {folder} --resume {begun.name}"
    assert f"{go_on} goes on with one" in errors
