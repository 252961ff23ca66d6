"""Means, buckets and comparisons of made-up scores."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cluster.evaluation.scores import NOISY, EvaluationConfig, Score
from cluster.evaluation.summaries import (
    ScoreTable,
    buckets,
    choose_examples,
    compare,
    everything,
    ranked,
    spread_of,
    summarize,
)
from tests.cluster.evaluation.made_scores import make_score, scores_of

CONFIG = EvaluationConfig(num_resamples=500)
NAN = math.nan


def summaries(scores: list[Score]) -> dict:  # type: ignore[type-arg]
    table = ScoreTable.of(scores)
    return summarize(table, everything(table), "", CONFIG)


def test_a_clip_without_a_value_shifts_no_mean() -> None:
    """It is left out for all systems: else noisy's mean would hold the hard clip, and the system's would not."""
    scores = scores_of({NOISY: [0, 1, -50], "a": [2, 3, NAN], "b": [4, 5, 6]})
    found = summaries(scores)
    assert [found[name].means["si_sdr_db"].mean for name in (NOISY, "a", "b")] == [0.5, 2.5, 4.5]
    for name in (NOISY, "a", "b"):
        mean = found[name].means["si_sdr_db"]
        assert (mean.num_defined, mean.num_undefined) == (2, 1)
    assert found["a"].improvements["si_sdr_db"].mean == 2
    (undefined,) = ScoreTable.of(scores).undefined()
    assert (undefined.system, undefined.measure, undefined.clips) == ("a", "si_sdr_db", ("test-00002",))


def test_a_system_without_any_value_takes_none_from_others() -> None:
    found = summaries(scores_of({NOISY: [0, 1], "a": [NAN, NAN], "b": [4, 5]}))
    assert found["b"].improvements["si_sdr_db"].mean == 4
    assert math.isnan(found["a"].means["si_sdr_db"].mean)
    assert found["a"].improvements["si_sdr_db"].num_pairs == 0


def test_buckets_add_up_to_the_whole() -> None:
    rng = np.random.default_rng(0)
    table = ScoreTable.of(scores_of({NOISY: list(rng.normal(size=30)), "a": list(rng.normal(size=30))}))
    whole = summarize(table, everything(table), "", CONFIG)["a"]
    for way, found in buckets(table).items():
        parts = [summarize(table, chosen, name, CONFIG)["a"] for name, chosen in found.items()]
        assert sum(part.num_clips for part in parts) == 30
        mean = np.average(
            [part.means["si_sdr_db"].mean for part in parts], weights=[part.num_clips for part in parts]
        )
        assert mean == pytest.approx(whole.means["si_sdr_db"].mean), way


def test_buckets_go_by_what_the_clips_are() -> None:
    table = ScoreTable.of(scores_of({NOISY: [0] * 12, "a": [1] * 12}))
    found = buckets(table)
    assert list(found["snr"]) == ["−5 dB", "5 dB"]
    assert list(found["noise"]) == ["fan", "rain"]
    assert list(found["speaker"]) == ["s&0", "s&1", "s&2", "s&3"]
    assert list(found["level"]) == ["−50 to −40 dBFS", "−40 to −30 dBFS", "−30 to −20 dBFS"]
    for name, chosen in found["snr"].items():
        snrs_db = {clip.input_snr_db for clip, is_in in zip(table.clips, chosen, strict=True) if is_in}
        assert snrs_db == {-5.0 if name == "−5 dB" else 5.0}


def test_measured_snrs_get_steps_of_5_db() -> None:
    snrs_db = [-7.5, -5.0, -4.9, 0.0, 3.3, 4.99, 5.0, 7, 8, 9, 9.9, 11, 12, 12.5]
    scores = [
        make_score(n, system, {"snr_db": 0.0}, input_snr_db=snr_db)
        for n, snr_db in enumerate(snrs_db)
        for system in (NOISY, "a")
    ]
    counts = {name: int(chosen.sum()) for name, chosen in buckets(ScoreTable.of(scores))["snr"].items()}
    assert counts == {"−10 to −5 dB": 1, "−5 to 0 dB": 2, "0 to 5 dB": 3, "5 to 10 dB": 5, "10 to 15 dB": 3}


def test_a_better_system_is_found_better_and_an_equal_one_is_not() -> None:
    rng = np.random.default_rng(1)
    base = rng.normal(scale=5, size=40)
    values = {
        NOISY: base,
        "a": base + 3 + rng.normal(size=40),
        "same as a": base + 3 + rng.normal(size=40),
        "better": base + 5 + rng.normal(size=40),
    }
    speakers = [f"s{n % 10}" for n in range(40)]
    rows = {name: list(row) for name, row in values.items()}
    comparisons, (leader,) = compare(ScoreTable.of(scores_of(rows, speakers)), CONFIG)
    by_pair = {(found.a, found.b): found for found in comparisons}
    assert set(by_pair) == {("a", "same as a"), ("a", "better"), ("same as a", "better")}
    assert by_pair["a", "better"].p_holm < 0.05
    assert by_pair["a", "better"].difference.high < 0
    assert by_pair["a", "same as a"].p_holm > 0.05
    assert by_pair["a", "same as a"].difference.low < 0 < by_pair["a", "same as a"].difference.high
    assert leader.best == "better"
    assert all(p < 0.05 for p in leader.behind.values())
    assert set(leader.behind) == {"a", "same as a"}


def test_the_best_by_a_distance_is_the_lowest() -> None:
    scores = [
        make_score(n, system, {"lsd_db": value})
        for n in range(8)
        for system, value in ((NOISY, 9.0), ("a", 4.0), ("b", 6.0))
    ]
    _, (leader,) = compare(ScoreTable.of(scores), CONFIG)
    assert leader.best == "a"


def test_an_identity_is_no_difference() -> None:
    base = list(np.random.default_rng(2).normal(size=20))
    found = summaries(scores_of({NOISY: base, "identity": base}))["identity"].improvements["si_sdr_db"]
    assert (found.mean, found.low, found.high) == (0, 0, 0)


def test_seeds_are_one_system_with_a_spread() -> None:
    scores = scores_of({NOISY: [0, 0, 0], "g seed 1": [1, 2, 3], "g seed 2": [3, 4, 5], "b": [0, 1, 2]})
    table = ScoreTable.of(scores, {"g": ["g seed 1", "g seed 2"]})
    assert table.systems == (NOISY, "g", "b")
    assert table.values["si_sdr_db"][1].tolist() == [2, 3, 4]
    spread = spread_of(scores, ["g seed 1", "g seed 2"])["si_sdr_db"]
    assert spread.means == (2, 4)
    assert spread.deviation == pytest.approx(math.sqrt(2))


def test_best_worst_and_typical_clips() -> None:
    scores = scores_of(
        {NOISY: [0.0] * 7, "m": [1.0, 0.5, 5.0, 0.1, -2.0, 9.0, NAN]}
    )  # at −5 and 5 dB in turn
    assert [score.values["si_sdr_db"] for score in ranked(scores, "m")] == [-2, 0.1, 0.5, 1, 5, 9]
    assert [score.values["si_sdr_db"] for score in choose_examples(scores, "m", 2)] == [1.0, 0.5]
    assert choose_examples(scores, "m", 0) == []


def test_where_each_clip_has_its_own_speaker_there_is_no_table_of_them() -> None:
    values = {NOISY: [0.0] * 31, "a": [1.0] * 31}
    own = scores_of(values, speakers=[f"s{n}" for n in range(31)])
    assert "speaker" not in buckets(ScoreTable.of(own))
    shared = scores_of(values, speakers=[f"s{n // 2}" for n in range(31)])
    assert len(buckets(ScoreTable.of(shared))["speaker"]) == 16
