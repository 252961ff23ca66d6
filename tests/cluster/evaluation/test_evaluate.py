"""An evaluation through Ray finds what scoring clip by clip finds, of bundles, files, streams and seeds."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from cluster.enhancement import enhance_audio
from cluster.evaluation.evaluate import EvaluationRequest, evaluate, plan_evaluation
from cluster.evaluation.listening.answers import append_answer
from cluster.evaluation.listening.source import ListeningError, open_source
from cluster.evaluation.report import write_report
from cluster.evaluation.scores import CLEAN, NOISY, EvaluationConfig, EvaluationReport
from tests.cluster.evaluation.listening.made_reports import made_answer
from tests.cluster.sockets import assert_loopback, listening
from ww_data import open_corpus, write_audio
from ww_models import build_model, load_bundle, save_bundle
from ww_models.measures.clip import STANDARD, measure_clip

CONFIG = EvaluationConfig(num_clips=7, batch_s=4, num_resamples=200, num_harm_clips=3, timing_s=0.02)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory, small_corpus: Path) -> list[Path]:
    folder = tmp_path_factory.mktemp("bundles")
    manifest_hash = open_corpus(small_corpus).manifest_hash
    torch.manual_seed(0)
    first = build_model("gatewave", hidden=4, depth=2)
    second = build_model("gatewave", hidden=3, depth=2, causal=False)
    seeds = [build_model("gatewave", hidden=3, depth=2) for _ in range(2)]
    return [
        save_bundle(folder / "first" / "bundle", first, data={"manifest_hash": manifest_hash}, licence="MIT"),
        save_bundle(folder / "second", second, licence="MIT"),
        *(save_bundle(folder / f"seed{n}", model, licence="MIT") for n, model in enumerate(seeds)),
    ]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, small_corpus: Path) -> dict[str, str]:
    """An identity and an oracle, as programs that leave files: the noisy and the clean side of each mixture."""
    folder = tmp_path_factory.mktemp("files")
    mixtures = open_corpus(small_corpus).mixtures("test")
    for place, name in enumerate(("identity", "oracle")):
        (folder / name).mkdir()
        for clip_id in mixtures.ids:
            write_audio(folder / name / f"{clip_id}.wav", mixtures[clip_id][place], 16_000, "FLOAT")
    return {name: str(folder / name) for name in ("identity", "oracle")}


@pytest.fixture(scope="module")
def request_(small_corpus: Path, bundles: list[Path], files: dict[str, str]) -> EvaluationRequest:
    return EvaluationRequest(
        bundles=(str(bundles[0]), str(bundles[1])),
        groups={"seeds": (str(bundles[2]), str(bundles[3]))},
        data=str(small_corpus),
        systems=files,
        stream=True,
        recogniser="tests.cluster.evaluation.recogniser:loudness",
    )


@pytest.fixture(scope="module")
def report(local_ray: str, request_: EvaluationRequest) -> EvaluationReport:
    seen, heard = [], []

    def note(*state: Any) -> None:
        seen.append(state)
        heard.append(listening(os.getpid()))

    report = evaluate(request_, CONFIG, note)
    assert_loopback(heard[len(heard) // 2])
    assert [state[0] for state in seen] == sorted(state[0] for state in seen)
    assert seen[-1][:2] == (7, 7)
    return report


def test_scores_equal_direct_scoring(
    report: EvaluationReport, small_corpus: Path, bundles: list[Path]
) -> None:
    corpus = open_corpus(small_corpus)
    table = pq.read_table(corpus.mixtures("test").path, columns=["id", "snr_db", "speaker"]).to_pylist()
    stored = {row["id"]: row for row in table}
    models = {"first": load_bundle(bundles[0]), "second": load_bundle(bundles[1])}
    assert len(report.scores) == 7 * 10
    for score in report.scores:
        noisy_T, clean_T = corpus.mixtures("test")[score.clip_id]
        assert score.input_snr_db == pytest.approx(stored[score.clip_id]["snr_db"])
        assert score.speaker == stored[score.clip_id]["speaker"]
        assert score.input_level_dbfs == pytest.approx(10 * np.log10(np.mean(noisy_T.astype(float) ** 2)))
        if score.system in (NOISY, *models):
            estimate_T = noisy_T
            if score.system != NOISY:
                estimate_T = enhance_audio(models[score.system], noisy_T[:, None], 16_000)[:, 0]
            expected = measure_clip(clean_T, estimate_T, 16_000)
            for measure in STANDARD:
                assert score.values[measure] == pytest.approx(expected[measure], abs=2e-3, nan_ok=True), (
                    measure
                )


def test_an_identity_scores_what_the_noisy_sound_scores(report: EvaluationReport) -> None:
    noisy, identity = (
        {score.clip_id: score.values for score in report.scores if score.system == name}
        for name in (NOISY, "identity")
    )
    assert identity.keys() == noisy.keys()
    assert repr(identity) == repr(noisy)  # NaN is NaN
    for change in report.system("identity").overall.improvements.values():
        assert (change.mean, change.low, change.high) == (0, 0, 0)


def test_the_clean_side_has_the_best_scores(report: EvaluationReport) -> None:
    means = {name: mean.mean for name, mean in report.system("oracle").overall.means.items()}
    assert means["pesq"] == pytest.approx(4.64, abs=0.01)
    assert (means["stoi"], means["estoi"]) == pytest.approx((1, 1))
    assert (means["lsd_db"], means["wer"], means["csig"]) == (0, 0, 5)
    assert report.system(NOISY).overall.means["wer"].mean > 0
    assert {leader.best for leader in report.leaders} == {"oracle"}


def test_a_stream_is_the_whole_clip(report: EvaluationReport) -> None:
    assert [result.name for result in report.systems] == [
        *(NOISY, "first", "first (stream)", "second", "seeds", "seeds (stream)", "identity", "oracle")
    ]
    stream = report.system("first (stream)")
    assert 0 < stream.stream_difference < 1e-4
    assert math.isnan(report.system("first").stream_difference)
    si_sdr_db = (report.system(name).overall.means["si_sdr_db"].mean for name in ("first", "first (stream)"))
    assert next(si_sdr_db) == pytest.approx(next(si_sdr_db), abs=1e-2)
    assert not any("stream" in f"{found.a} {found.b}" for found in report.comparisons)


def test_seeds_are_one_system(report: EvaluationReport) -> None:
    seeds = report.system("seeds")
    assert len(seeds.seeds) == 2
    spread = seeds.spread["si_sdr_db"]
    assert seeds.overall.means["si_sdr_db"].mean == pytest.approx(np.mean(spread.means), abs=1e-6)
    assert spread.deviation == pytest.approx(np.std(spread.means, ddof=1))
    assert spread.deviation > 0


def test_harm_is_what_models_do_to_clean_speech(
    report: EvaluationReport, small_corpus: Path, bundles: list[Path]
) -> None:
    model, corpus = load_bundle(bundles[0]), open_corpus(small_corpus)
    own = [score for score in report.harm_scores if score.system == "first"]
    assert len(own) == 3
    for score in own:
        assert score.heard == CLEAN
        clean_T = corpus.mixtures("test")[score.clip_id][1]
        expected = measure_clip(clean_T, enhance_audio(model, clean_T[:, None], 16_000)[:, 0], 16_000)
        assert score.values["si_sdr_db"] == pytest.approx(expected["si_sdr_db"], abs=1e-3)
    harm = report.system("first").harm
    assert harm is not None
    assert harm.num_clips == 3
    assert harm.si_sdr_db == pytest.approx(np.mean([score.values["si_sdr_db"] for score in own]))
    assert -120 <= harm.silence_dbfs < -20
    assert report.system("oracle").harm is None


def test_costs_are_measured_of_what_runs_in_steps(report: EvaluationReport) -> None:
    cost = report.system("first").cost
    assert cost is not None
    for costs in (cost.alone, cost.batch_16):
        assert set(costs) == {"fp32", "int8"}
        assert all(value is None or 0 < value < 10 for value in costs.values())
        assert costs["fp32"] is not None
    whole = report.system("second").cost
    assert whole is not None
    assert whole.alone == whole.batch_16 == {"fp32": None, "int8": None}
    assert report.system("identity").cost is None


def test_report_says_what_was_measured(
    report: EvaluationReport, small_corpus: Path, bundles: list[Path]
) -> None:
    assert report.manifest_hash == open_corpus(small_corpus).manifest_hash
    assert (report.num_clips, report.audio_s, report.sample_rates) == (7, 14.0, (16_000,))
    assert report.measures == (*STANDARD, "wer")
    first, second = report.system("first").model, report.system("second").model
    assert first is not None
    assert second is not None
    assert (first.same_corpus, second.same_corpus) == (True, None)
    assert first.latency_ms == pytest.approx(load_bundle(bundles[0]).latency_ms)
    assert first.real_time_factor > 0
    assert second.num_parameters == load_bundle(bundles[1]).num_parameters


def test_examples_are_what_the_systems_make(report: EvaluationReport, bundles: list[Path]) -> None:
    assert len(report.examples) == 2
    for example in report.examples:
        assert list(example.signals) == [NOISY, "first", "second", "seeds", "identity", "oracle", CLEAN]
        noisy_TC = example.signals[NOISY][:, None]
        expected_T = enhance_audio(load_bundle(bundles[0]), noisy_TC, 16_000)[:, 0]
        np.testing.assert_allclose(example.signals["first"], expected_T, atol=1e-6)
        np.testing.assert_array_equal(example.signals["oracle"], example.signals[CLEAN])


def test_the_worst_and_the_best_can_be_heard(report: EvaluationReport, files: dict[str, str]) -> None:
    oracle = report.system("oracle")
    listed = [score.clip_id for score in (*oracle.best, *oracle.worst)]
    assert len(listed) == len(set(listed)) == 7
    assert [example.clip_id for example in report.extremes] == listed
    for example in report.extremes:
        assert list(example.signals) == [NOISY, "oracle", CLEAN]
        np.testing.assert_array_equal(example.signals["oracle"], example.signals[CLEAN])
    seeds = report.system("seeds")
    assert seeds.members == ("seeds seed 1", "seeds seed 2")
    assert {score.system for score in (*seeds.best, *seeds.worst)} == {"seeds seed 1"}


def test_answers_of_listeners_belong_to_what_is_compared(
    report: EvaluationReport, request_: EvaluationRequest, tmp_path: Path
) -> None:
    """Known by what is compared on what, before anything is scored; whoever heard something else is refused."""
    write_report(report, tmp_path)
    identity = open_source(tmp_path).identity
    own, foreign = tmp_path / "own.jsonl", tmp_path / "foreign.jsonl"
    append_answer(own, made_answer(report=identity, ratings={"noisy": 20.0, "first": 60.0, "clean": 100.0}))
    append_answer(own, made_answer(report="another"))
    append_answer(foreign, made_answer(report="another"))

    def planned(*paths: Path) -> Any:
        listening = tuple(map(str, paths))
        return plan_evaluation(dataclasses.replace(request_, listening=listening), CONFIG).listening

    heard = planned(own)
    assert heard.mushra is not None
    assert [system.name for system in heard.mushra.systems] == ["clean", "first", "noisy"]
    assert heard.num_foreign == 1
    assert any("too few listeners: 1" in warning for warning in heard.mushra.warnings)
    assert planned() is None
    for paths in ((foreign,), (own, foreign)):
        with pytest.raises(ListeningError, match="none of its 1 answers is about these bundles") as error:
            planned(*paths)
        assert "\n" not in str(error.value)
