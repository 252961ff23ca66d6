"""The folder of a run: nobody trains into it while another does."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.runs.folder import claim_run_folder, open_run, trained_alone
from cluster.settings.experiment import ConfigError, load_config


def test_a_run_that_is_being_trained_is_not_resumed(tmp_path: Path) -> None:
    run, config = open_run(tmp_path, "run"), load_config("tiny")
    claim_run_folder(run, config, "hash", resume=False)
    with trained_alone(run):
        (run.path() / "failure.txt").write_text("of before")
        with pytest.raises(ConfigError, match="is being trained by another command"):
            claim_run_folder(run, config, "hash", resume=True)
        assert (run.path() / "failure.txt").exists()
    claim_run_folder(run, config, "hash", resume=True)
    assert sorted(path.name for path in run.path().iterdir()) == ["run.json"]


def test_addresses_know_no_locks() -> None:
    with trained_alone(open_run("memory://runs", "run")), trained_alone(open_run("memory://runs", "run")):
        pass
