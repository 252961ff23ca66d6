"""Sweeps on Ray: each trial is a training run of its own, somewhere on the cluster; those that are behind are ended."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil
import pytest

from cluster.runs.folder import read_run_config
from cluster.settings.experiment import load_config
from cluster.tuning.live import live_table
from cluster.tuning.page import write_page
from cluster.tuning.plan import plan_of_tries
from cluster.tuning.sweep import open_sweep, run_sweep
from cluster.tuning.tries import read_tries
from tests.cluster.sockets import assert_loopback, listening
from tests.cluster.training.cut_runs import train_workers
from ww_data import Storage
from ww_models import load_bundle

pytestmark = pytest.mark.cluster


def test_each_try_is_a_run_and_one_that_is_behind_is_ended(
    local_ray: str, small_corpus: Path, tmp_path: Path
) -> None:
    file = tmp_path / "tries.yaml"
    file.write_text("base:\nwild: {set: [optimizer.learning_rate=10]}\n")
    shared = ["training.max_steps=12", "training.validate_every_steps=2", "training.skip_bad_batches=1000"]
    tries = read_tries(file, "tiny", shared)
    plan = plan_of_tries(tries, metric="si_sdr_db", prune="asha")
    ledger, heard = open_sweep(plan, str(small_corpus), tmp_path, "tries"), list[dict[str, list[str]]]()
    ledger.on_change = lambda: heard.append(listening(os.getpid()))
    with ledger.held():
        result = run_sweep(ledger)
    for there in heard:
        assert_loopback(there)
    base, wild = result.rows
    assert (base["trial"], base["state"], base["change"]) == ("base", "done", "preset tiny")
    assert (wild["trial"], wild["state"]) == ("wild", "pruned")
    assert base["si_sdr_db"] > wild["si_sdr_db"]
    assert load_bundle(result.folder / "base" / "bundle").num_parameters > 0
    for name, one in tries.items():
        assert read_run_config(Storage(result.folder / name)).optimizer == one.config.optimizer
    last = {name: ledger.curves[name][-1]["step"] for name in tries}
    assert last["base"] == 12
    assert last["wild"] < 12
    deadline_s = time.monotonic() + 60
    while train_workers(psutil.Process()):
        assert time.monotonic() < deadline_s, "the workers of the run that was ended go on"
        time.sleep(0.2)
    assert load_config(str(result.folder / "best.yaml")).optimizer == tries["base"].config.optimizer
    assert "wild" in write_page(ledger).read_text()
    assert live_table(ledger, 20)
