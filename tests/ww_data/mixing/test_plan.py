"""The plan: every epoch a permutation, any step computable alone, the same list for any number of workers."""

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
    global_batch=st.integers(1, 50),
    window_shards=st.integers(1, 10),
)


def rows_of(plan: Plan, start: int, stop: int) -> list[tuple[int, int, int]]:
    return list(zip(*(column.tolist() for column in plan.at(start, stop)), strict=True))


@given(PLANS, st.integers(0, 5))
def test_every_epoch_is_a_permutation(plan: Plan, epoch: int) -> None:
    rows = rows_of(plan, epoch * plan.num_items, (epoch + 1) * plan.num_items)
    everything = [(epoch, shard, row) for shard, size in enumerate(plan.shard_sizes) for row in range(size)]
    assert sorted(rows) == everything


@given(PLANS, st.lists(st.integers(0, 40), min_size=1, max_size=6))
def test_any_step_alone_is_the_step_of_the_whole_walk(plan: Plan, steps: list[int]) -> None:
    walk = rows_of(plan, 0, 41 * plan.global_batch)
    fresh = Plan(
        seed=plan.seed,
        shard_sizes=list(plan.shard_sizes),
        global_batch=plan.global_batch,
        window_shards=plan.window_shards,
    )
    for step in steps:
        items = fresh.items(step)
        assert all(column.dtype == np.int64 and len(column) == plan.global_batch for column in items)
        first = step * plan.global_batch
        assert (
            list(zip(*(column.tolist() for column in items), strict=True))
            == walk[first : first + plan.global_batch]
        )


@given(PLANS, st.integers(0, 20), st.integers(1, 9))
def test_workers_share_a_step_whole_and_evenly(plan: Plan, step: int, num_workers: int) -> None:
    shares = [plan.share(step, rank, num_workers) for rank in range(num_workers)]
    for whole, parts in zip(plan.items(step), zip(*shares, strict=True), strict=True):
        np.testing.assert_array_equal(np.concatenate(parts), whole)
    sizes = [len(share.row) for share in shares]
    assert max(sizes) - min(sizes) <= 1


def test_batches_straddle_epochs() -> None:
    plan = Plan(seed=0, shard_sizes=[3, 4], global_batch=5)
    assert plan.items(1).epoch.tolist() == [0, 0, 1, 1, 1]
    assert plan.steps_per_epoch == pytest.approx(1.4)


def test_a_batch_may_be_larger_than_the_corpus() -> None:
    items = Plan(seed=0, shard_sizes=[2, 1], global_batch=8).items(0)
    assert items.epoch.tolist() == [0, 0, 0, 1, 1, 1, 2, 2]


def test_epochs_and_seeds_differ() -> None:
    plan = Plan(seed=0, shard_sizes=[50] * 10, global_batch=500, window_shards=3)
    other = Plan(seed=1, shard_sizes=[50] * 10, global_batch=500, window_shards=3)
    orders = {
        (tuple(items.shard.tolist()), tuple(items.row.tolist()))
        for items in (plan.items(0), plan.items(1), other.items(0), other.items(1))
    }
    assert len(orders) == 4
    assert len({tuple(plan.items(step).shard[:50].tolist()) for step in range(5)}) == 5


def test_reading_stays_within_a_window_of_shards() -> None:
    plan = Plan(seed=3, shard_sizes=[10] * 20, global_batch=40, window_shards=4)
    for step in range(10):  # 40 items are one window
        assert len(set(plan.items(step).shard.tolist())) == 4
    shards = plan.items(0).shard
    assert np.count_nonzero(np.diff(shards)) > 20  # and are mixed within it


def test_the_order_never_changes() -> None:
    """A resumed run must find the walk that it left, also after an update of numpy."""
    plan = Plan(seed=7, shard_sizes=[4, 3, 5], global_batch=6, window_shards=2)
    items = plan.items(1)
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
        {"global_batch": 0},
        {"window_shards": 0},
    ],
)
def test_settings_are_checked(wrong: dict[str, object]) -> None:
    settings: dict[str, object] = {"seed": 0, "shard_sizes": [1], "global_batch": 1} | wrong
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Plan(**settings)
    with pytest.raises(ValueError, match="step is -1"):
        Plan(seed=0, shard_sizes=[1], global_batch=1).items(-1)
