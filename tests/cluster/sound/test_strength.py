"""How much of the noise goes: one share, however it is said."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.sound.strength import OPTIONS, strength_from


@given(st.floats(0, 120))
def test_noise_that_is_taken_away_whole_stays_so_many_db_below_where_it_was(
    max_attenuation_db: float,
) -> None:
    strength = strength_from(None, max_attenuation_db)
    assert 0 <= strength <= 1
    assert -20 * math.log10(1 - strength) == pytest.approx(max_attenuation_db, abs=1e-6)


def test_all_of_it_goes_unless_something_is_given() -> None:
    assert strength_from(None, None) == 1
    assert strength_from(0.3, None) == 0.3
    assert strength_from(None, 0) == 0
    assert strength_from(None, math.inf) == strength_from(None, 10**400) == 1


@pytest.mark.parametrize(
    ("strength", "max_attenuation_db", "words"),
    [
        (0.5, 6.0, "give either --strength or --max-attenuation"),
        (1.5, None, "--strength must lie between"),
        (math.nan, None, "--strength must lie between"),
        (None, -1.0, "--max-attenuation is in dB and at least 0"),
        (None, math.nan, "--max-attenuation is in dB and at least 0"),
    ],
)
def test_what_is_wrong_is_said_in_the_callers_words(
    strength: float | None, max_attenuation_db: float | None, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        strength_from(strength, max_attenuation_db, OPTIONS)
