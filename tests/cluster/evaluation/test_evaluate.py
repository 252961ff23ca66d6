"""An evaluation through Ray finds what scoring clip by clip finds, and counts what cannot be scored."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import scipy.stats
import torch

from cluster.enhancement import enhance_audio
from cluster.evaluation.evaluate import EvaluationError, choose_mixtures, evaluate
from cluster.evaluation.scores import (
    NOISY,
    EvaluationConfig,
    EvaluationReport,
    Score,
    choose_examples,
    summarize,
)
from cluster.evaluation.statistics import mean_of_defined, paired_interval
from tests.cluster.sockets import assert_loopback, listening
from ww_data import open_corpus
from ww_models import BundleError, build_model, load_bundle, save_bundle, score_clip
from ww_models.quality import MEASURES


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory, small_corpus: Path) -> list[Path]:
    folder = tmp_path_factory.mktemp("bundles")
    torch.manual_seed(0)
    manifest_hash = open_corpus(small_corpus).manifest_hash
    first = build_model("gatewave", hidden=4, depth=2)
    second = build_model("gatewave", hidden=3, depth=2, causal=False)
    return [
        save_bundle(folder / "first" / "bundle", first, data={"manifest_hash": manifest_hash}, licence="MIT"),
        save_bundle(folder / "second", second, licence="MIT"),
    ]


@pytest.fixture(scope="module")
def report(local_ray: str, small_corpus: Path, bundles: list[Path]) -> EvaluationReport:
    seen, heard = [], []

    def note(*state: Any) -> None:
        seen.append(state)
        heard.append(listening(os.getpid()))

    config = EvaluationConfig(num_mixtures=7, batch_size=2, num_resamples=200)
    report = evaluate(bundles, str(small_corpus), config, note)
    assert_loopback(heard[len(heard) // 2])
    assert [state[0] for state in seen] == sorted(state[0] for state in seen)
    assert seen[-1][:2] == (7, 7)
    return report


def test_scores_equal_direct_scoring(
    report: EvaluationReport, small_corpus: Path, bundles: list[Path]
) -> None:
    table = pq.read_table(open_corpus(small_corpus).mixtures("test").path)
    noisy_KT, clean_KT = (table[name].combine_chunks().to_numpy_ndarray() for name in ("noisy", "clean"))
    models = {"first": load_bundle(bundles[0]), "second": load_bundle(bundles[1])}
    row_of = {mixture_id: row for row, mixture_id in enumerate(table["id"].to_pylist())}
    assert len(report.scores) == 7 * 3
    for score in report.scores:
        row = row_of[score.mixture_id]
        estimate_T = noisy_KT[row]
        if score.system != NOISY:
            estimate_T = enhance_audio(models[score.system], noisy_KT[row][:, None], 16_000)[:, 0]
        expected = score_clip(clean_KT[row], estimate_T, 16_000)
        for measure in MEASURES:
            assert getattr(score, measure) == pytest.approx(getattr(expected, measure), abs=1e-4, nan_ok=True)
        assert score.mixture_snr_db == pytest.approx(table["snr_db"][row].as_py())
        assert score.speaker == table["speaker"][row].as_py()


def test_report_says_what_was_measured(
    report: EvaluationReport, small_corpus: Path, bundles: list[Path]
) -> None:
    assert report.manifest_hash == open_corpus(small_corpus).manifest_hash
    assert report.num_mixtures == 7
    assert report.clip_s == 2.0
    assert [result.name for result in report.systems] == [NOISY, "first", "second"]
    first, second = report.system("first").model, report.system("second").model
    assert first is not None
    assert second is not None
    assert first.same_corpus is True
    assert second.same_corpus is None
    assert first.latency_ms == pytest.approx(load_bundle(bundles[0]).latency_ms)
    assert first.real_time_factor > 0
    assert second.num_parameters == load_bundle(bundles[1]).num_parameters


def test_buckets_add_up_to_the_whole(report: EvaluationReport) -> None:
    for result in report.systems:
        assert sum(bucket.num_mixtures for bucket in result.by_snr) == 7
        mean_db = np.average(
            [bucket.means["snr_db"].mean for bucket in result.by_snr],
            weights=[bucket.num_mixtures for bucket in result.by_snr],
        )
        assert mean_db == pytest.approx(result.overall.means["snr_db"].mean)
    noisy, first = report.system(NOISY).overall, report.system("first").overall
    assert not noisy.improvements
    change = first.improvements["si_sdr_db"]
    assert change.mean == pytest.approx(first.means["si_sdr_db"].mean - noisy.means["si_sdr_db"].mean)
    assert change.low <= change.mean <= change.high


def test_examples_are_what_the_models_make(report: EvaluationReport, bundles: list[Path]) -> None:
    assert len(report.examples) == 2
    for example in report.examples:
        assert list(example.signals) == [NOISY, "first", "second", "clean"]
        noisy_TC = example.signals[NOISY][:, None]
        expected_T = enhance_audio(load_bundle(bundles[0]), noisy_TC, 16_000)[:, 0]
        np.testing.assert_allclose(example.signals["first"], expected_T, atol=1e-6)


def test_a_limit_takes_evenly_from_all_snrs(small_corpus: Path) -> None:
    mixtures = open_corpus(small_corpus).mixtures("test")
    snr_db = dict(zip(mixtures.ids, mixtures.snrs_db, strict=True))
    assert len({snr_db[mixture_id] for mixture_id in choose_mixtures(mixtures, 5)}) == 5
    assert sorted(choose_mixtures(mixtures, None)) == sorted(snr_db)


def test_wrong_use_is_refused_in_one_line(
    local_ray: str, small_corpus: Path, bundles: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(EvaluationError, match="no bundle"):
        evaluate([], str(small_corpus))
    with pytest.raises(EvaluationError, match="twice"):
        evaluate([bundles[1]] * 3, str(small_corpus))
    with pytest.raises(BundleError):
        evaluate([tmp_path], str(small_corpus))
    with pytest.raises(ValueError, match="corpus"):
        evaluate(bundles, str(tmp_path))
    with pytest.raises(ValueError, match="confidence"):
        EvaluationConfig(confidence=95)


def make_scores(gains_db: dict[str, list[float]], pesq_of_last: float = 2.0) -> list[Score]:
    """Noisy at 0 dB SI-SDR and one system that adds `gains_db` at each SNR."""
    scores = []
    for snr, gains in gains_db.items():
        for number, gain in enumerate(gains):
            facts = {
                "mixture_id": f"{snr}-{number}",
                "mixture_snr_db": float(snr),
                "speaker": "s",
                "noise_id": "n",
            }
            values = {"pesq": 1.5, "stoi": 0.5, "snr_db": 0.0}
            scores.append(Score(system=NOISY, si_sdr_db=0.0, **values, **facts))
            scores.append(Score(system="m", si_sdr_db=gain, **values, **facts))
    scores[-1] = dataclasses.replace(scores[-1], pesq=pesq_of_last)
    return scores


def test_undefined_scores_are_counted_not_dropped() -> None:
    scores = make_scores({"0": [1.0, 2.0], "5": [3.0]}, pesq_of_last=math.nan)
    result = summarize("m", scores, None, EvaluationConfig(num_resamples=100))
    pesq = result.overall.means["pesq"]
    assert (pesq.num_defined, pesq.num_undefined, pesq.mean) == (2, 1, 1.5)
    assert result.overall.improvements["pesq"].num_pairs == 2
    assert math.isnan(result.by_snr[1].improvements["pesq"].mean)
    assert result.overall.num_mixtures == 3


def test_best_worst_and_typical_mixtures() -> None:
    scores = make_scores({"0": [1.0, 5.0, -2.0, math.nan], "5": [0.5, 0.1, 9.0]})
    result = summarize("m", scores, None, EvaluationConfig(num_resamples=100, num_extremes=2))
    assert [score.si_sdr_db for score in result.best] == [9.0, 5.0]
    assert [score.si_sdr_db for score in result.worst] == [-2.0, 0.1]
    assert [score.si_sdr_db for score in choose_examples(scores, "m", 2)] == [1.0, 0.5]
    assert choose_examples(scores, "m", 0) == []


def test_interval_agrees_with_scipy() -> None:
    rng = np.random.default_rng(3)
    before, after = rng.normal(size=60), rng.normal(loc=0.4, size=60)
    ours = paired_interval(before, after, num_resamples=20_000, confidence=0.95, seed=1)
    theirs = scipy.stats.bootstrap(
        (after - before,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    assert ours.low == pytest.approx(theirs.low, abs=0.01)
    assert ours.high == pytest.approx(theirs.high, abs=0.01)
    assert ours.mean == pytest.approx(np.mean(after - before))


def test_interval_is_paired_and_repeatable() -> None:
    before = np.random.default_rng(4).normal(scale=100, size=40)
    constant = paired_interval(before, before + 1, num_resamples=500, confidence=0.95, seed=0)
    assert (constant.low, constant.high) == (pytest.approx(1), pytest.approx(1))
    after = before + np.random.default_rng(5).normal(size=40)
    first, again, other = (
        paired_interval(before, after, num_resamples=500, confidence=0.95, seed=seed) for seed in (7, 7, 8)
    )
    assert first == again
    assert first != other


def test_interval_leaves_out_broken_pairs_and_survives_none() -> None:
    before, after = np.array([0.0, math.nan, 1.0, 2.0]), np.array([1.0, 5.0, math.inf, 3.0])
    assert paired_interval(before, after, num_resamples=100, confidence=0.9, seed=0).num_pairs == 2
    empty = paired_interval(before[:0], after[:0], num_resamples=100, confidence=0.9, seed=0)
    assert empty.num_pairs == 0
    assert math.isnan(empty.low)
    assert math.isnan(mean_of_defined(np.array([math.nan])).mean)
