"""Runs that are behind are ended, by rules that look at curves alone; the best never is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cluster.tuning.pruning import Curve, is_behind_asha, is_behind_median, rungs

LENGTH = 90.0
curve_values = st.lists(st.floats(1, 4.6), min_size=9, max_size=9)


def curve(values: Sequence[float], until: int = 9) -> Curve:
    """A validation each 10 steps."""
    return [(10.0 * (number + 1), value) for number, value in enumerate(values[:until])]


def test_rungs_are_parts_of_the_length() -> None:
    assert rungs(LENGTH) == [90 / 27, 10, 30]


@given(st.lists(curve_values, min_size=1, max_size=8))
def test_the_best_at_each_time_is_never_behind(several: list[list[float]]) -> None:
    best = np.max(several, axis=0).tolist()
    for until in range(1, 10):
        others = [curve(values) for values in several]
        assert not is_behind_asha(curve(best, until), others, rungs(LENGTH))
        assert not is_behind_median(curve(best, until), others, 10)


@given(curve_values, st.lists(curve_values, min_size=3, max_size=8))
def test_the_worst_is_ended_at_the_first_rung(worst: list[float], several: list[list[float]]) -> None:
    below = [value - 4 for value in worst]
    others = [curve(values) for values in several]
    assert is_behind_asha(curve(below, 1), others, rungs(LENGTH))
    assert is_behind_median(curve(below, 1), others, 10)


def test_asha_looks_at_rungs_alone_and_at_those_who_got_there() -> None:
    good, bad = curve([3.0] * 9), [1.0] * 9
    assert is_behind_asha(curve(bad, 3), [good], rungs(LENGTH)), "at 30 steps"
    assert not is_behind_asha(curve(bad, 2), [good], rungs(LENGTH)), "between two"
    assert not is_behind_asha(curve(bad, 3), [curve([3.0] * 9, 2)], rungs(LENGTH)), (
        "nobody else has got there"
    )
    assert not is_behind_asha(curve(bad, 3), [], rungs(LENGTH))


def test_asha_keeps_a_third() -> None:
    finals = [1 + number / 10 for number in range(9)]
    several = [curve([final] * 9) for final in finals]
    kept = [
        final
        for number, final in enumerate(finals)
        if not is_behind_asha(curve([final] * 3), several[:number] + several[number + 1 :], rungs(LENGTH))
    ]
    assert kept == finals[-3:]


def test_the_median_rule_waits_for_three_others_and_for_its_grace() -> None:
    good, bad = curve([3.0] * 9), [1.0] * 9
    assert not is_behind_median(curve(bad, 3), [good, good], 10)
    assert is_behind_median(curve(bad, 3), [good, good, good], 10)
    assert not is_behind_median(curve(bad, 3), [good, good, good], 40)
