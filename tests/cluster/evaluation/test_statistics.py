"""Intervals and p-values against cases with known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from cluster.evaluation.statistics import ends, holm, p_value, paired_interval, resampled_means, widened


def test_interval_agrees_with_scipy() -> None:
    rng = np.random.default_rng(3)
    before, after = rng.normal(size=60), rng.normal(loc=0.4, size=60)
    ours = paired_interval(before, after, num_resamples=20_000, confidence=0.95, seed=1)
    theirs = scipy.stats.bootstrap(
        (after - before,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    assert ours.low == pytest.approx(theirs.low, abs=0.03)
    assert ours.high == pytest.approx(theirs.high, abs=0.03)
    assert ours.high - ours.low > theirs.high - theirs.low, "as Student's t of 60 has it"
    assert ours.mean == pytest.approx(np.mean(after - before))


def test_speakers_are_drawn_not_clips() -> None:
    """Twelve speakers with fifty clips each: as Student's t of their twelve means, and much wider than of clips."""
    rng = np.random.default_rng(4)
    of_speaker = rng.normal(size=12)
    values = np.repeat(of_speaker, 50) + 0.1 * rng.normal(size=600)
    speakers = [f"s{index // 50}" for index in range(600)]
    options = {"num_resamples": 20_000, "confidence": 0.95, "seed": 1}
    clustered = paired_interval(np.zeros(600), values, **options, clusters=speakers)  # type: ignore[arg-type]
    means = values.reshape(12, 50).mean(axis=1)
    theirs = scipy.stats.ttest_1samp(means, 0.0).confidence_interval(0.95)
    assert clustered.low == pytest.approx(theirs.low, abs=0.1)
    assert clustered.high == pytest.approx(theirs.high, abs=0.1)
    by_clip = paired_interval(np.zeros(600), values, **options)  # type: ignore[arg-type]
    assert clustered.high - clustered.low > 3 * (by_clip.high - by_clip.low)


def test_a_speaker_counts_by_its_clips() -> None:
    """Two speakers, three clips of 1 and one of 5: the draws are of means 1, 2 (twice) and 5."""
    drawn = resampled_means(np.array([[1.0, 1, 1, 5]]), ["a", "a", "a", "b"], num_resamples=8000, seed=0)[0]
    values, counts = np.unique(drawn, return_counts=True)
    assert values.tolist() == [1, 2, 5]
    assert counts / 8000 == pytest.approx([0.25, 0.5, 0.25], abs=0.02)


def test_of_one_speaker_clips_are_drawn() -> None:
    values = np.random.default_rng(6).normal(size=(1, 30))
    alone = resampled_means(values, ["a"] * 30, num_resamples=500, seed=0)
    assert (
        alone.tolist()
        == resampled_means(values, [f"{n:02}" for n in range(30)], num_resamples=500, seed=0).tolist()
    )
    assert alone.std() > 0


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


def test_ends_hold_the_middle() -> None:
    assert ends(np.arange(1001.0), 0.9) == pytest.approx((50, 950))


def test_p_values_of_nothing_are_spread_evenly() -> None:
    """Of 400 experiments without an effect about one in ten has p below 0.1."""
    rng = np.random.default_rng(0)
    p_values = []
    for seed in range(400):
        values = rng.normal(size=(1, 40))
        drawn = resampled_means(values, [f"{n}" for n in range(40)], num_resamples=400, seed=seed)[0]
        p_values.append(p_value(float(values.mean()), drawn, 40))
    assert np.mean(np.array(p_values) < 0.1) == pytest.approx(0.1, abs=0.05)
    assert p_value(0.0, np.zeros(100), 40) == 1


@pytest.mark.parametrize("num_speakers", [2, 3, 5, 10])
def test_few_speakers_make_no_certainty(num_speakers: int) -> None:
    """Without an effect, 95 % intervals leave out 0 in one of twenty experiments, however few they are."""
    rng, missed = np.random.default_rng(num_speakers), 0
    speakers = [f"s{n % num_speakers}" for n in range(4 * num_speakers)]
    for seed in range(300):
        after = rng.normal(size=num_speakers)[np.arange(len(speakers)) % num_speakers]
        found = paired_interval(
            np.zeros(len(after)), after, num_resamples=300, confidence=0.95, seed=seed, clusters=speakers
        )
        missed += not found.low <= 0 <= found.high
    assert missed / 300 < 0.1
    sure = np.full(1000, 1.0)
    assert p_value(1.0, sure, num_speakers) >= 2.0 ** (1 - num_speakers)


def test_one_clip_says_nothing_of_others() -> None:
    alone = paired_interval(np.zeros(1), np.ones(1), num_resamples=100, confidence=0.95, seed=0)
    assert alone.mean == 1
    assert math.isnan(alone.low)
    drawn = widened(np.ones((1, 100)), np.ones(1), 1)[0]
    assert p_value(1.0, drawn, 1) == 1


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.6]) == [1, 1]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_keeps_the_order_and_lowers_nothing(p_values: list[float]) -> None:
    corrected = holm(p_values)
    assert all(after >= before for before, after in zip(p_values, corrected, strict=True))
    assert [corrected[i] for i in np.argsort(p_values, kind="stable")] == sorted(corrected)
    assert all(value <= 1 for value in corrected)
