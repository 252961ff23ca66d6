"""`python -m jobs.evaluate`: a table on the terminal and a report on disk."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cluster.evaluation.files import read_report
from cluster.promotion.store import ModelStore
from jobs.evaluate import in_force
from tests.jobs.conftest import Done
from ww_data import open_corpus, write_audio
from ww_models import PRETRAINED, read_bundle_info

QUICK = ("--resamples", 100, "--timing", 0)


def test_it_prints_the_verdict_and_writes_the_report(
    run_job: Callable[..., Done], local_ray: str, small_corpus: Path, bundle: Path, tmp_path: Path
) -> None:
    options = ("--clips", 3, "--stream", *QUICK)
    done = run_job("evaluate", "--data", small_corpus, "--bundle", bundle, "--out", tmp_path, *options)
    assert done.code == 0
    content = read_report(tmp_path)
    assert content["num_clips"] == 3
    assert content["verdict"] in done.out
    for title in ("PESQ", "ESTOI", "SNR in dB", "SI-SDR in dB", "COVL", "LSD in dB, lower"):
        assert f"│ {title} " in done.out
    assert "tiny (stream) differs from the whole clip by" in done.out
    paths = (
        f"report: {tmp_path}/report.html",
        f"JSON:   {tmp_path}/report.json",
        f"scores: {tmp_path}/scores.parquet",
    )
    assert "\n".join(paths) + "\n" in done.out
    assert (tmp_path / "report.html").exists()
    assert (tmp_path / "scores.parquet").exists()


def test_pairs_and_files_of_another_program(
    run_job: Callable[..., Done], local_ray: str, small_corpus: Path, bundle: Path, tmp_path: Path
) -> None:
    mixtures = open_corpus(small_corpus).mixtures("test")
    for clip_id in mixtures.ids[:3]:
        noisy_T, clean_T = mixtures[clip_id]
        for folder, signal_T in (("noisy", noisy_T), ("clean", clean_T), ("made", (noisy_T + clean_T) / 2)):
            (tmp_path / folder).mkdir(exist_ok=True)
            write_audio(tmp_path / folder / f"{clip_id}.wav", signal_T, 16_000)
    pairs = f"mine={tmp_path}/noisy:{tmp_path}/clean"
    options = ("--pairs", pairs, "--system", f"half={tmp_path}/made", "--bundle", bundle, *QUICK)
    done = run_job("evaluate", *options, "--out", tmp_path / "out")
    assert done.code == 0
    assert "PESQ: tiny − half" in done.out
    content = read_report(tmp_path / "out")
    assert [system["name"] for system in content["systems"]] == ["noisy", "tiny", "half"]
    assert content["systems"][2]["overall"]["improvements"]["snr_db"]["mean"] == pytest.approx(6.02, abs=0.1)
    assert content["sources"] == {"mine": f"{tmp_path}/noisy:{tmp_path}/clean"}


def test_noisy_files_alone_need_dnsmos(
    run_job: Callable[..., Done],
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_audio(tmp_path / "a.wav", np.zeros(16_000, np.float32) + 0.1, 16_000)
    options = ("--noisy", tmp_path, "--bundle", bundle, "--out", tmp_path / "out", *QUICK)
    assert "add --dnsmos" in run_job("evaluate", *options).error
    monkeypatch.setitem(sys.modules, "speechmos", None)
    assert "pip install 'wave-wizard[dnsmos]'" in run_job("evaluate", *options, "--dnsmos").error


def test_wrong_use_is_one_line(
    run_job: Callable[..., Done], local_ray: str, small_corpus: Path, bundle: Path, tmp_path: Path
) -> None:
    for data, model, words in ((tmp_path, bundle, "corpus"), (small_corpus, tmp_path, "bundle")):
        done = run_job("evaluate", "--data", data, "--bundle", model)
        assert done.code == 2
        assert words in done.error
    for option, value, words in (
        ("--pairs", "mine", "give NAME=..."),
        ("--pairs", "mine=noisy", "NAME=NOISY_DIR:CLEAN_DIR"),
        ("--system", "a/b=made", "letters, digits"),
        ("--group", f"g={bundle}", "no spread"),
        ("--listening", tmp_path / "none.jsonl", "no answers yet"),
    ):
        done = run_job("evaluate", "--data", small_corpus, "--bundle", bundle, option, value)
        assert done.code == 2
        assert words in done.error


def test_of_a_store_the_model_in_force_is_measured(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    assert in_force(None) == in_force(str(tmp_path)) == []
    store.add(PRETRAINED, None)
    (bundle,) = in_force(str(tmp_path))
    assert read_bundle_info(bundle).id == store.current()
