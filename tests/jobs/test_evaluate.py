"""`python -m jobs.evaluate`: a table on the terminal and a report on disk."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from jobs import evaluate
from jobs.cli import main


def test_it_prints_the_verdict_and_writes_the_report(
    monkeypatch: pytest.MonkeyPatch,
    local_ray: str,
    small_corpus: Path,
    bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [
        "--data",
        small_corpus,
        "--bundle",
        bundle,
        "--out",
        tmp_path,
        "--mixtures",
        3,
        "--resamples",
        100,
    ]
    monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_info:
        main(evaluate.parser(), evaluate.run)
    assert exit_info.value.code == 0
    said = capsys.readouterr().out
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["num_mixtures"] == 3
    assert content["verdict"] in said
    assert str(tmp_path / "report.html") in said
    assert (tmp_path / "report.html").exists()


def test_wrong_use_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    local_ray: str,
    small_corpus: Path,
    bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for data, model, words in ((tmp_path, bundle, "corpus"), (small_corpus, tmp_path, "bundle")):
        monkeypatch.setattr(sys, "argv", ["evaluate", "--data", str(data), "--bundle", str(model)])
        with pytest.raises(SystemExit) as exit_info:
            main(evaluate.parser(), evaluate.run)
        assert exit_info.value.code == 2
        assert words in capsys.readouterr().err
