"""Who hears what in which order."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.evaluation.listening.design import balanced_orders, check_listener, design_test
from cluster.evaluation.listening.source import ListeningError, open_source

STIMULI = ("noisy", "one", "two", "anchor 3.5 kHz", "clean")


@given(num=st.integers(2, 12), num_screens=st.integers(1, 40), seed=st.integers(0, 100))
def test_each_stimulus_is_in_each_place_equally_often(num: int, num_screens: int, seed: int) -> None:
    stimuli = [str(number) for number in range(num)]
    orders = balanced_orders(np.random.default_rng(seed), stimuli, num_screens)
    assert len(orders) == num_screens
    assert all(sorted(order) == sorted(stimuli) for order in orders)
    for stimulus in stimuli:
        places = Counter(order.index(stimulus) for order in orders)
        assert max(places[place] for place in range(num)) - min(places[place] for place in range(num)) <= 1


def test_orders_are_random() -> None:
    """No stimulus mostly follows another, nobody's order is another's, and the next clip's is not the same turned."""
    rng = np.random.default_rng(0)
    follows: Counter[tuple[str, str]] = Counter()
    for _ in range(400):
        for order in balanced_orders(rng, STIMULI, 5):
            follows.update(pairwise(order))
    assert len(follows) == 20
    assert max(follows.values()) < 1.2 * min(follows.values())


def test_a_listener_has_his_own_orders_and_always_the_same(made_report: Path) -> None:
    test = design_test(open_source(made_report))
    assert test.stimuli == STIMULI
    screens = test.screens("anna")
    assert screens == test.screens("anna")
    assert {screen.clip.mixture_id for screen in screens[1:]} == {clip.mixture_id for clip in test.clips}
    others = [tuple(s.order for s in test.screens(f"listener {n}")) for n in range(20)]
    assert len(set(others)) == 20
    firsts = {test.screens(f"listener {n}")[1].clip.mixture_id for n in range(20)}
    assert firsts == {clip.mixture_id for clip in test.clips}
    other_seed = design_test(open_source(made_report), seed=1)
    assert other_seed.screens("anna") != screens


def test_a_spare_clip_is_for_training(made_report: Path) -> None:
    source = open_source(made_report)
    test = design_test(source, num_clips=2)
    assert test.training not in test.clips
    assert design_test(source).training in source.clips


def test_pairs(made_report: Path) -> None:
    source = open_source(made_report)
    test = design_test(source, mode="ab")
    assert test.stimuli == ("one", "two")
    assert design_test(source, mode="ab", systems=["noisy", "two"]).stimuli == ("noisy", "two")
    firsts = Counter(screen.order[0] for screen in test.screens("anna"))
    assert set(firsts.values()) == {2}, "A is one as often as the other, the training included"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_clips": 0}, "at least 1"),
        ({"systems": ["three"]}, "no system is called three; the report has noisy, one, two"),
        ({"systems": ["one", "one"]}, "named twice"),
        ({"mode": "ab", "systems": ["one"]}, "name them with --systems"),
        ({"mode": "ab", "mid_anchor": True}, "--mode mushra"),
    ],
)
def test_what_cannot_be_tested_is_said(made_report: Path, options: dict[str, object], words: str) -> None:
    with pytest.raises(ListeningError, match=words):
        design_test(open_source(made_report), **options)  # type: ignore[arg-type]


def test_names_of_listeners() -> None:
    assert check_listener("  Anna K. ") == "Anna K."
    for name in ("", "  ", "-x", "a" * 41, "a\nb", "a/b", "<b>"):
        with pytest.raises(ListeningError):
            check_listener(name)
