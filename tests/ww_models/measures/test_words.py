"""Word error rate, by hand and by what any edit distance has."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ww_models.measures.words import word_error_rate, words_of

WORDS = st.lists(st.sampled_from("abcd"), min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("heard", "percent"),
    [
        ("the cat sat", 0),
        ("the cat", 100 / 3),
        ("the a cat sat", 100 / 3),
        ("a dog ran off", 400 / 3),
        ("", 100),
    ],
)
def test_by_hand(heard: str, percent: float) -> None:
    assert word_error_rate(words_of("The cat sat."), words_of(heard)) == pytest.approx(percent)


def test_words_are_without_case_and_punctuation() -> None:
    assert words_of("“It’s 5 o'clock,” SHE said…") == ["it's", "5", "o'clock", "she", "said"]
    assert words_of(["Two", "words!"]) == ["two", "words"]


def test_nothing_said_is_nan() -> None:
    assert math.isnan(word_error_rate([], ["a"]))


@given(WORDS, WORDS, WORDS)
def test_it_is_a_distance(x: list[str], y: list[str], z: list[str]) -> None:
    def distance(a: list[str], b: list[str]) -> float:
        return word_error_rate(a, b) * len(a) / 100

    assert word_error_rate(x, x) == 0
    assert distance(x, y) == pytest.approx(distance(y, x))
    assert distance(x, z) <= distance(x, y) + distance(y, z) + 1e-9
