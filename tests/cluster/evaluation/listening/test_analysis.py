"""What answers say, against cases whose answer is known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.evaluation.listening.analysis import (
    Listening,
    exact_interval,
    pigeonhole_interval,
    screen,
    summarise,
    summarise_files,
)
from cluster.evaluation.listening.answers import Answer, append_answer
from cluster.evaluation.listening.source import ListeningError
from tests.cluster.evaluation.listening.made_reports import made_answer


def listening(answers: list[Answer], num_damaged: int = 0) -> Listening:
    return Listening(answers=tuple(answers), num_damaged=num_damaged)


def panel(num_listeners: int = 8, num_clips: int = 12, spread: float = 5.0) -> list[Answer]:
    """Who rates noisy about 30, one about 60 and finds the hidden reference."""
    rng = np.random.default_rng(0)
    answers = []
    for listener in range(num_listeners):
        leaning = rng.normal(0, 2 * spread)
        for clip in range(num_clips):
            ratings = {
                "noisy": 30 + leaning + rng.normal(0, spread),
                "one": 60 + leaning + rng.normal(0, spread),
                "clean": 100.0,
            }
            answers.append(made_answer(f"listener{listener}", f"clip{clip}", ratings))
    return answers


def test_means_improvements_and_order() -> None:
    answers = panel()
    result = summarise(listening(answers), report="r").mushra
    assert result is not None
    assert [system.name for system in result.systems] == ["clean", "one", "noisy"]
    clean, one, noisy = result.systems
    assert clean.rating.mean == clean.rating.low == clean.rating.high == 100
    assert one.rating.mean == pytest.approx(np.mean([a.ratings["one"] for a in answers]))
    assert one.rating.low < one.rating.mean < one.rating.high
    assert one.improvement is not None
    assert one.improvement.mean == pytest.approx(one.rating.mean - noisy.rating.mean)
    widths = [interval.high - interval.low for interval in (one.improvement, one.rating)]
    assert widths[0] < widths[1], "how a listener leans is in both of his ratings"
    assert noisy.improvement is None
    assert (result.num_clips, result.num_answers, result.warnings) == (12, 96, ())
    again = summarise(listening(answers), report="r").mushra
    assert again == result, "the interval is another one each time"


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """Ratings with a part of each listener's own and one of each clip's: the interval is of both."""
    rng = np.random.default_rng(1)
    hits, naive_hits, num = 0, 0, 200
    for _ in range(num):
        listener_L1, clip_1C = rng.normal(0, 8, (10, 1)), rng.normal(0, 8, (1, 12))
        values_LC = 50 + listener_L1 + clip_1C + rng.normal(0, 5, (10, 12))
        interval = pigeonhole_interval(values_LC, 400, 0.95, 0)
        hits += interval.low <= 50 <= interval.high
        half = 1.96 * values_LC.std(ddof=1) / math.sqrt(values_LC.size)
        naive_hits += abs(values_LC.mean() - 50) <= half
    assert 0.87 * num < hits <= num
    assert naive_hits < 0.75 * num, "the case is too easy: it does not tell the two apart"


def test_missing_ratings_are_left_out() -> None:
    values_LC = np.array([[10.0, np.nan, 30.0], [np.nan, 20.0, np.nan]])
    interval = pigeonhole_interval(values_LC, 500, 0.95, 0)
    assert interval.mean == 20
    assert 10 <= interval.low <= interval.high <= 30
    assert interval.num_pairs == 3
    assert math.isnan(pigeonhole_interval(np.full((2, 2), np.nan), 100, 0.95, 0).mean)


@pytest.mark.parametrize(
    ("num_below", "num_clips", "is_apart"),
    [(0, 12, False), (1, 12, False), (2, 12, True), (3, 20, False), (4, 20, True), (1, 6, True)],
)
def test_who_does_not_find_the_reference_in_15_percent_of_the_clips_is_set_apart(
    num_below: int, num_clips: int, is_apart: bool
) -> None:
    answers = [
        made_answer("anna", f"clip{n}", {"clean": 89.0 if n < num_below else 90.0, "one": 50.0})
        for n in range(num_clips)
    ]
    assert ("anna" in screen(answers)) == is_apart


def test_who_is_set_apart_does_not_count_and_is_named() -> None:
    deaf = [made_answer("deaf", f"clip{n}", {"noisy": 90.0, "one": 0.0, "clean": 10.0}) for n in range(12)]
    result = summarise(listening([*panel(), *deaf]), report="r").mushra
    assert result == summarise(listening(panel()), report="r").mushra.__class__(
        **{**vars(summarise(listening(panel()), report="r").mushra), "set_apart": result.set_apart}
    )
    assert result.set_apart == {"deaf": "the hidden reference below 90 in 12 of 12 clips"}
    alone = summarise(listening(deaf), report="r").mushra
    assert alone is not None
    assert (alone.systems, alone.listeners) == ((), ())
    assert "too few listeners: 0" in alone.warnings[0]


def test_too_few_listeners_and_wide_intervals_are_said() -> None:
    few = summarise(listening(panel(num_listeners=4)), report="r").mushra
    assert few is not None
    assert any("too few listeners: 4" in warning for warning in few.warnings)
    wide = summarise(listening(panel(num_clips=3, spread=40.0)), report="r").mushra
    assert wide is not None
    assert any("the interval of one is" in warning for warning in wide.warnings)
    mixed = [*panel(), made_answer("listener0", "other", {"clean": 100.0, "two": 50.0})]
    result = summarise(listening(mixed), report="r").mushra
    assert result is not None
    assert any("same stimuli" in warning for warning in result.warnings)


def test_only_the_last_answer_and_only_this_report_count() -> None:
    answers = [
        made_answer("anna", "a", {"one": 10.0, "clean": 100.0}),
        made_answer("anna", "a", {"one": 70.0, "clean": 100.0}),
        made_answer("anna", "b", {"one": 0.0, "clean": 100.0}, report="another"),
    ]
    summary = summarise(listening(answers, num_damaged=2), report="r")
    assert summary.mushra is not None
    assert {s.name: s.rating.mean for s in summary.mushra.systems} == {"clean": 100, "one": 70}
    assert (summary.num_foreign, summary.num_damaged) == (1, 2)
    assert summarise(listening([]), report="r").mushra is None


def preferring(listener: str, clip: int, which: str | None, pair: tuple[str, str]) -> Answer:
    return made_answer(listener, f"clip{clip}", mode="ab", order=pair, preferred=which)


def test_preferences() -> None:
    answers = []
    for n in range(10):
        pair = ("two", "one") if n % 2 else ("one", "two")
        answers += [preferring(f"l{n}", clip, "one", pair) for clip in range(8)]
        answers += [preferring(f"l{n}", 8, "two", pair), preferring(f"l{n}", 9, None, pair)]
    answers.append(preferring("l0", 0, "other", ("other", "one")))
    first, second = summarise(listening(answers), report="r").preferences
    assert (first.first, first.second) == ("one", "two")
    assert (first.num_first, first.num_second, first.num_same) == (80, 10, 10)
    assert first.share == pytest.approx(80 / 90)
    assert (first.low, first.high) == pytest.approx((0.8051, 0.9454), abs=1e-4)
    assert first.warnings == ()
    assert (second.first, second.second, second.num_second) == ("one", "other", 1)
    assert any("too few listeners: 1" in warning for warning in second.warnings)
    assert any("interval is" in warning for warning in second.warnings)


def test_nobody_prefers_anything() -> None:
    (only,) = summarise(listening([preferring("anna", 0, None, ("one", "two"))]), report="r").preferences
    assert math.isnan(only.share)
    assert (only.low, only.high, only.num_same) == (0, 1, 1)


@given(num_trials=st.integers(1, 60), data=st.data())
def test_the_exact_interval_is_what_its_definition_says(num_trials: int, data: st.DataObject) -> None:
    """At its ends, what was seen or more extreme has a probability of 2.5 %."""
    num_hits = data.draw(st.integers(0, num_trials))
    low, high = exact_interval(num_hits, num_trials)
    assert 0 <= low <= num_hits / num_trials <= high <= 1

    def probability(share: float, counts: range) -> float:
        return sum(math.comb(num_trials, k) * share**k * (1 - share) ** (num_trials - k) for k in counts)

    if num_hits > 0:
        assert probability(low, range(num_hits, num_trials + 1)) == pytest.approx(0.025, abs=1e-6)
    if num_hits < num_trials:
        assert probability(high, range(num_hits + 1)) == pytest.approx(0.025, abs=1e-6)


def test_several_files_are_one_test(tmp_path: Path) -> None:
    """Whoever answers anew, in whichever file, is heard with his last answer."""
    paths = [tmp_path / "monday.jsonl", tmp_path / "tuesday.jsonl"]
    append_answer(paths[1], made_answer("anna", ratings={"one": 80.0}, at="2030-01-02T09:00:00+00:00"))
    append_answer(paths[0], made_answer("anna", ratings={"one": 10.0}, at="2030-01-01T09:00:00+00:00"))
    append_answer(paths[0], made_answer("ben", ratings={"one": 60.0}))
    for files in (paths, paths[::-1], [*paths, paths[0]]):
        mushra = summarise_files(files, report="r").mushra
        assert mushra is not None
        assert mushra.systems[0].rating.mean == 70
        assert mushra.num_answers == 2
    with pytest.raises(ListeningError, match=r"monday\.jsonl: none of its 2 answers"):
        summarise_files(paths, report="another")
