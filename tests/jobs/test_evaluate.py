"""`python -m jobs.evaluate`: a table on the terminal and a report on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.jobs.conftest import Done


def test_it_prints_the_verdict_and_writes_the_report(
    run_job: Callable[..., Done], local_ray: str, small_corpus: Path, bundle: Path, tmp_path: Path
) -> None:
    options = ("--mixtures", 3, "--resamples", 100)
    done = run_job("evaluate", "--data", small_corpus, "--bundle", bundle, "--out", tmp_path, *options)
    assert done.code == 0
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["num_mixtures"] == 3
    assert content["verdict"] in done.out
    for title in ("PESQ", "STOI", "SNR in dB", "SI-SDR in dB"):
        assert f"┃ {title} " in done.out
    assert f"report: {tmp_path}/report.html\nJSON:   {tmp_path}/report.json\n" in done.out
    assert (tmp_path / "report.html").exists()


def test_wrong_use_is_one_line(
    run_job: Callable[..., Done], local_ray: str, small_corpus: Path, bundle: Path, tmp_path: Path
) -> None:
    for data, model, words in ((tmp_path, bundle, "corpus"), (small_corpus, tmp_path, "bundle")):
        done = run_job("evaluate", "--data", data, "--bundle", model)
        assert done.code == 2
        assert words in done.error
