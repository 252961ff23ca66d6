"""A sweep in ClearML: one task, under which those of its runs lie; on a server and as an offline session."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from cluster.settings.tracking import TrackingConfig
from cluster.tracking.clearml_task import ClearMLTask
from cluster.tuning.ledger import Ledger
from cluster.tuning.results import conclude
from cluster.tuning.tracking import sweep_task
from tests.cluster.tracking.clearml_runs import offline_sessions
from tests.cluster.tracking.clearml_server import ClearMLServer
from tests.cluster.tuning.made_sweeps import made_ledger


def tracked(ledger: Ledger, clearml: str) -> Ledger:
    tracking = TrackingConfig(clearml=clearml, clearml_close_s=20)  # type: ignore[arg-type]
    config = dataclasses.replace(ledger.plan.configs[""], tracking=tracking)
    ledger.plan = dataclasses.replace(ledger.plan, configs={"": config})
    return ledger


def test_runs_lie_under_the_sweep_whose_table_has_them_all(
    server: ClearMLServer, small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**server.environment, "CLEARML_CONFIG_FILE": str(tmp_path / "none.conf")}.items():
        monkeypatch.setenv(name, value)
    ledger = tracked(made_ledger(tmp_path / "weights", small_corpus), "auto")
    with sweep_task(ledger) as task:
        of_run = TrackingConfig(clearml_close_s=20, **task.of_trials)
        (tmp_path / "run").mkdir()
        run = ClearMLTask(tmp_path / "run" / "clearml", "online", of_run, "trial_000", of_run.clearml_tags)
        run.close()
        result = conclude(ledger)
        task.conclude(result)
    tasks = {one["name"]: one for one in server.tasks.values()}
    assert set(tasks) == {"weights", "trial_000"}
    assert tasks["trial_000"]["parent"] == tasks["weights"]["id"]
    assert all(one["status"] == "completed" for one in tasks.values())
    assert all("sweep:weights" in one["tags"] for one in tasks.values())
    space = tasks["weights"]["hyperparams"]["config"]
    assert space["space.loss.l1_weight"]["value"] == "0..4/3"
    assert space["settings.training.score"]["value"] == "pesq" == space["metric"]["value"]
    best = result.rows[0]["pesq"]
    assert list(server.curve("Summary", "PESQ").values()) == [pytest.approx(best)]
    assert server.curve("PESQ", "settings, best first") == {
        place: pytest.approx(row["pesq"]) for place, row in enumerate(result.rows, start=1)
    }
    (table,) = (event for event in server.events if event.get("metric") == "settings")
    assert "trial_008" in table["plot_str"]


def test_an_offline_sweep_is_a_session_and_its_runs_have_its_tag(small_corpus: Path, tmp_path: Path) -> None:
    ledger = tracked(made_ledger(tmp_path / "weights", small_corpus), "offline")
    with sweep_task(ledger) as task:
        assert task.of_trials == {"clearml_parent": "", "clearml_tags": ("sweep:weights",)}
        task.conclude(conclude(ledger))
    (session,) = offline_sessions(tmp_path / "weights")
    about = json.loads((session.with_suffix("") / "task.json").read_text())
    assert (about["name"], about["tags"]) == ("weights", ["sweep:weights"])
