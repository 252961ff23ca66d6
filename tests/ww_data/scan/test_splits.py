"""Splits are disjoint, complete, about as large as asked, and blind to the order in which files are found."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ww_data.scan.splits import assign_splits

GROUPS = st.dictionaries(st.text(min_size=1, max_size=8), st.floats(0.5, 500), min_size=3, max_size=60)
FRACTIONS = st.floats(0.02, 0.45)


@given(GROUPS, FRACTIONS, FRACTIONS, st.integers(0, 2**32 - 1), st.randoms())
def test_every_group_gets_one_split_and_every_split_a_group(
    groups: dict[str, float], val: float, test: float, seed: int, shuffle: random.Random
) -> None:
    splits = assign_splits(groups, val_fraction=val, test_fraction=test, seed=seed)
    assert splits.keys() == groups.keys()
    assert set(splits.values()) == {"train", "val", "test"}
    names = list(groups)
    shuffle.shuffle(names)
    reordered = {name: groups[name] for name in names}
    assert assign_splits(reordered, val_fraction=val, test_fraction=test, seed=seed) == splits


@given(st.lists(st.floats(3, 15), min_size=60, max_size=200), st.integers(0, 1000))
def test_many_groups_fill_the_fractions_closely(seconds: list[float], seed: int) -> None:
    groups = {f"speaker {index}": value for index, value in enumerate(seconds)}
    splits = assign_splits(groups, val_fraction=0.1, test_fraction=0.2, seed=seed)
    total = sum(seconds)
    for split, fraction in (("val", 0.1), ("test", 0.2)):
        share = sum(groups[name] for name, where in splits.items() if where == split) / total
        assert abs(share - fraction) < 0.03


@given(GROUPS, FRACTIONS, FRACTIONS, st.integers(0, 1000))
def test_a_held_out_split_is_overfilled_by_one_group_at_most(
    groups: dict[str, float], val: float, test: float, seed: int
) -> None:
    """Speakers may have very different lengths: none takes much more than a split's share with it."""
    splits = assign_splits(groups, val_fraction=val, test_fraction=test, seed=seed)
    for split, fraction in (("val", val), ("test", test)):
        seconds = [groups[name] for name, where in splits.items() if where == split]
        assert len(seconds) == 1 or sum(seconds) <= 1.25 * fraction * sum(groups.values()) + 1e-6


def test_one_giant_speaker_trains() -> None:
    groups = {"giant": 1000.0} | {f"small {index}": 10.0 for index in range(20)}
    for seed in range(20):
        assert assign_splits(groups, val_fraction=0.1, test_fraction=0.1, seed=seed)["giant"] == "train"


def test_seeds_differ() -> None:
    groups = {f"speaker {index}": 10.0 for index in range(30)}
    held_out = {
        frozenset(
            name
            for name, split in assign_splits(groups, val_fraction=0.1, test_fraction=0.1, seed=seed).items()
            if split == "test"
        )
        for seed in range(10)
    }
    assert len(held_out) > 5


def test_two_groups_are_too_few() -> None:
    with pytest.raises(ValueError, match="2 groups"):
        assign_splits({"a": 1.0, "b": 1.0}, val_fraction=0.1, test_fraction=0.1, seed=0)


@given(GROUPS, FRACTIONS, FRACTIONS, st.integers(0, 1000), st.data())
def test_what_is_fixed_stays_and_what_is_closed_takes_no_more(
    groups: dict[str, float], val: float, test: float, seed: int, data: st.DataObject
) -> None:
    names = st.sampled_from(sorted(groups))
    fixed = data.draw(
        st.dictionaries(names, st.sampled_from(["train", "val", "test"]), max_size=len(groups) - 3)
    )
    closed = data.draw(st.sets(st.sampled_from(["val", "test"])))
    fractions = {"val_fraction": val, "test_fraction": test}
    splits = assign_splits(groups, **fractions, seed=seed, fixed=fixed, closed=closed)
    assert splits.keys() == groups.keys()
    assert set(splits.values()) == {"train", "val", "test"}
    assert fixed.items() <= splits.items()
    for split in closed & set(fixed.values()):
        assert {name for name in splits if splits[name] == split} == {
            name for name in fixed if fixed[name] == split
        }
    again = assign_splits(groups, **fractions, seed=seed + 1, fixed=splits, closed=closed)
    assert again == splits
