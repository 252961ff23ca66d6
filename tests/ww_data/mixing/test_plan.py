"""The plan: every epoch a permutation, any stretch of the walk computable alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ww_data import Plan

PLANS = st.builds(
    Plan,
    seed=st.integers(0, 2**32 - 1),
    shard_sizes=st.lists(st.integers(0, 30), min_size=1, max_size=20).filter(any),
    window_shards=st.integers(1, 10),
)


def rows_of(plan: Plan, start: int, stop: int) -> list[tuple[int, int, int]]:
    return list(zip(*(column.tolist() for column in plan.at(start, stop)), strict=True))


@given(PLANS, st.integers(0, 5))
def test_every_epoch_is_a_permutation(plan: Plan, epoch: int) -> None:
    rows = rows_of(plan, epoch * plan.num_items, (epoch + 1) * plan.num_items)
    everything = [(epoch, shard, row) for shard, size in enumerate(plan.shard_sizes) for row in range(size)]
    assert sorted(rows) == everything


@given(PLANS, st.lists(st.tuples(st.integers(0, 400), st.integers(0, 50)), min_size=1, max_size=6))
def test_any_stretch_alone_is_that_of_the_whole_walk(plan: Plan, stretches: list[tuple[int, int]]) -> None:
    walk = rows_of(plan, 0, 450)
    fresh = Plan(seed=plan.seed, shard_sizes=list(plan.shard_sizes), window_shards=plan.window_shards)
    for start, length in stretches:
        items = fresh.at(start, start + length)
        assert all(column.dtype == np.int64 and len(column) == length for column in items)
        assert list(zip(*(column.tolist() for column in items), strict=True)) == walk[start : start + length]


def test_a_stretch_straddles_epochs_and_may_be_longer_than_one() -> None:
    assert Plan(seed=0, shard_sizes=[3, 4]).at(5, 10).epoch.tolist() == [0, 0, 1, 1, 1]
    assert Plan(seed=0, shard_sizes=[2, 1]).at(0, 8).epoch.tolist() == [0, 0, 0, 1, 1, 1, 2, 2]


def test_epochs_and_seeds_differ() -> None:
    plan = Plan(seed=0, shard_sizes=[50] * 10, window_shards=3)
    other = Plan(seed=1, shard_sizes=[50] * 10, window_shards=3)
    orders = {
        (tuple(items.shard.tolist()), tuple(items.row.tolist()))
        for items in (plan.at(0, 500), plan.at(500, 1000), other.at(0, 500), other.at(500, 1000))
    }
    assert len(orders) == 4
    firsts = {tuple(plan.at(500 * epoch, 500 * epoch + 50).shard.tolist()) for epoch in range(5)}
    assert len(firsts) == 5


def test_reading_stays_within_a_window_of_shards() -> None:
    plan = Plan(seed=3, shard_sizes=[10] * 20, window_shards=4)
    for window in range(10):  # 40 items are one window
        assert len(set(plan.at(40 * window, 40 * window + 40).shard.tolist())) == 4
    assert np.count_nonzero(np.diff(plan.at(0, 40).shard)) > 20  # and are mixed within it


def test_the_order_never_changes() -> None:
    """A resumed run must find the walk that it left, also after an update of numpy."""
    items = Plan(seed=7, shard_sizes=[4, 3, 5], window_shards=2).at(6, 12)
    assert list(zip(items.epoch.tolist(), items.shard.tolist(), items.row.tolist(), strict=True)) == [
        (0, 2, 3),
        (0, 1, 2),
        (0, 0, 1),
        (0, 0, 0),
        (0, 0, 3),
        (0, 0, 2),
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {"seed": -1},
        {"seed": 2**32},
        {"shard_sizes": []},
        {"shard_sizes": [0]},
        {"window_shards": 0},
    ],
)
def test_settings_are_checked(wrong: dict[str, object]) -> None:
    settings: dict[str, object] = {"seed": 0, "shard_sizes": [1]} | wrong
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Plan(**settings)
