"""`python -m jobs.promote`: finds the endpoint by its address, and refuses before anything changes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from jobs import promote, serve
from jobs.cli import main


def test_wrong_use_is_one_line(
    monkeypatch: pytest.MonkeyPatch, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for arguments, words in (
        (["--bundle", "nowhere"], "nowhere does not exist"),
        (["--bundle", str(bundle), "--url", "http://127.0.0.1:1"], "none of your endpoints"),
    ):
        monkeypatch.setattr(sys, "argv", ["promote", *arguments])
        with pytest.raises(SystemExit) as exit_info:
            main(promote.parser(), promote.run)
        said = capsys.readouterr().err
        assert exit_info.value.code == 2
        assert words in said
        assert said.count("\n") == 1


def test_a_config_is_written_instead_of_serving(
    monkeypatch: pytest.MonkeyPatch, bundle: Path, tmp_path: Path
) -> None:
    file = tmp_path / "serve.yaml"
    arguments = ["--bundle", str(bundle), "--max-replicas", "3", "--write-config", str(file)]
    monkeypatch.setattr(sys, "argv", ["serve", *arguments])
    with pytest.raises(SystemExit) as exit_info:
        main(serve.parser(), serve.run)
    assert exit_info.value.code == 0
    (application,) = yaml.safe_load(file.read_text())["applications"]
    (deployment,) = application["deployments"]
    assert deployment["user_config"] == {"bundles": [str(bundle)]}
    assert deployment["autoscaling_config"]["max_replicas"] == 3
