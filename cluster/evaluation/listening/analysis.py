"""What the answers say: means and intervals of ratings, shares of preferences, and whether they are enough.

For whoever shows them beside a report:

    listening = read_listening(path)                       # every answer of a file
    summary = summarise(listening, report=identity)        # ListeningSummary, plain dataclasses; no file is touched

where identity is `report_identity(manifest_hash, sample_rate, {system: bundle_id, None for "noisy"})`. Answers about
other reports are counted (`num_foreign`), not used.

Ratings: a listener who puts the hidden reference below 90 in more than 15 % of his clips is set apart (ITU-R
BS.1534-3). Of the rest, each system's mean over all ratings, with an interval by the pigeonhole bootstrap (Owen, 2007):
listeners and clips are both drawn with replacement, since ratings of one listener resemble each other, as do those of
one clip. It errs on the wide side. The rule for the mid anchor is not applied: at 16 kHz it is hard to tell by ear.

Preferences: the share of the first system among the answers that prefer one, with the exact interval of a binomial
(Clopper and Pearson, 1934). It takes answers for independent, so many answers of few listeners make it too narrow.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cluster.evaluation.listening.answers import Answer, Listening, last_answers, read_listening
from cluster.evaluation.listening.design import AB, MUSHRA
from cluster.evaluation.listening.source import CLEAN, NOISY, ListeningError
from cluster.evaluation.statistics import Interval

__all__ = [
    "ListeningSummary",
    "MushraResult",
    "Preference",
    "SystemRating",
    "read_listening",
    "summarise",
    "summarise_files",
]

LEAST_REFERENCE, MOST_BELOW = 90.0, 0.15  # of the hidden reference; of a listener's clips
MIN_LISTENERS, WIDEST = 5, 20.0  # fewer are too few; points, or percent of the preferences


@dataclass(frozen=True, kw_only=True)
class SystemRating:
    """A stimulus' mean rating, 0 to 100. improvement: less that of "noisy"; None for itself, or without it."""

    name: str
    rating: Interval
    improvement: Interval | None


@dataclass(frozen=True, kw_only=True)
class MushraResult:
    """systems: best first, the hidden reference ("clean") and the anchors among them.

    listeners: who counts. set_apart: {listener: why not}. warnings: why this is not enough to go by, a sentence each.
    """

    systems: tuple[SystemRating, ...]
    listeners: tuple[str, ...]
    set_apart: dict[str, str]
    num_clips: int
    num_answers: int
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Preference:
    """share: of `first` among those who preferred one, 0 to 1; NaN if nobody did. num_same: saw no difference."""

    first: str
    second: str
    num_first: int
    num_second: int
    num_same: int
    share: float
    low: float
    high: float
    listeners: tuple[str, ...]
    num_clips: int
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ListeningSummary:
    """num_foreign: answers about other reports; num_damaged: lines of the file that are no answers."""

    mushra: MushraResult | None
    preferences: tuple[Preference, ...]
    num_foreign: int
    num_damaged: int


def summarise(
    listening: Listening,
    *,
    report: str,
    num_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> ListeningSummary:
    """What the answers about one report say. Equal seeds give equal intervals."""
    own = [answer for answer in listening.answers if answer.report == report]
    rated = list(last_answers(answer for answer in own if answer.mode == MUSHRA).values())
    compared = [answer for answer in own if answer.mode == AB]
    pairs = dict.fromkeys(tuple(sorted(answer.order)) for answer in compared)
    preferences = []
    for pair in pairs:
        of_pair = last_answers(answer for answer in compared if tuple(sorted(answer.order)) == pair)
        preferences.append(_preference(pair, list(of_pair.values()), confidence))
    return ListeningSummary(
        mushra=_mushra(rated, num_resamples, confidence, seed) if rated else None,
        preferences=tuple(preferences),
        num_foreign=len(listening.answers) - len(own),
        num_damaged=listening.num_damaged,
    )


def summarise_files(
    paths: Sequence[str | os.PathLike[str]], *, report: str, **options: Any
) -> ListeningSummary:
    """What the answers of several files say together; options: of `summarise`.

    Raises ListeningError, one line, for a file that cannot be read or says nothing about this report.
    """
    answers: list[Answer] = []
    num_damaged = 0
    for path in paths:
        listening = read_listening(path)
        if all(answer.report != report for answer in listening.answers):
            came = f"none of its {len(listening.answers)} answers is about these bundles on these recordings"
            raise ListeningError(f"{path}: {came}; evaluate what the listeners heard, or leave it out")
        answers += listening.answers
        num_damaged += listening.num_damaged
    in_order = sorted(answers, key=lambda answer: answer.at)
    return summarise(Listening(answers=tuple(in_order), num_damaged=num_damaged), report=report, **options)


def _mushra(answers: list[Answer], num_resamples: int, confidence: float, seed: int) -> MushraResult:
    set_apart = screen(answers)
    kept = [answer for answer in answers if answer.listener not in set_apart]
    listeners, clips = ([*dict.fromkeys(getattr(a, what) for a in kept)] for what in ("listener", "clip"))
    ratings = {}  # (listeners, clips) by stimulus, NaN where there is none
    for name in dict.fromkeys(name for answer in kept for name in answer.ratings):
        ratings[name] = np.full((len(listeners), len(clips)), np.nan)
        for answer in kept:
            place = listeners.index(answer.listener), clips.index(answer.clip)
            ratings[name][place] = answer.ratings.get(name, np.nan)
    systems = []
    for name, rating_LC in ratings.items():
        rating = pigeonhole_interval(rating_LC, num_resamples, confidence, seed)
        improvement = None
        if NOISY in ratings and name != NOISY:
            improvement = pigeonhole_interval(rating_LC - ratings[NOISY], num_resamples, confidence, seed)
        systems.append(SystemRating(name=name, rating=rating, improvement=improvement))
    systems.sort(key=lambda system: -system.rating.mean)
    return MushraResult(
        systems=tuple(systems),
        listeners=tuple(listeners),
        set_apart=set_apart,
        num_clips=len(clips),
        num_answers=len(kept),
        warnings=tuple(_warnings_of_mushra(kept, listeners, systems)),
    )


def screen(answers: Sequence[Answer]) -> dict[str, str]:
    """{listener: why he is set apart}, after BS.1534-3: who does not find the hidden reference does not hear enough."""
    references: dict[str, list[float]] = {}
    for answer in answers:
        if CLEAN in answer.ratings:
            references.setdefault(answer.listener, []).append(answer.ratings[CLEAN])
    apart = {}
    for listener, ratings in references.items():
        num_below = sum(rating < LEAST_REFERENCE for rating in ratings)
        if num_below > MOST_BELOW * len(ratings):
            what = f"the hidden reference below {LEAST_REFERENCE:g} in {num_below} of {len(ratings)} clips"
            apart[listener] = what
    return apart


def pigeonhole_interval(
    values_LC: npt.NDArray[np.float64], num_resamples: int, confidence: float, seed: int
) -> Interval:
    """The mean of the finite values of (listeners, clips), with an interval by drawing rows and columns."""
    finite_LC = np.isfinite(values_LC)
    num = int(finite_LC.sum())
    if num == 0:
        return Interval(mean=math.nan, low=math.nan, high=math.nan, num_pairs=0)
    filled_LC = np.where(finite_LC, values_LC, 0.0)
    rng = np.random.default_rng(seed)
    num_rows, num_columns = values_LC.shape
    rows_RL = rng.multinomial(num_rows, np.full(num_rows, 1 / num_rows), size=num_resamples)
    columns_RC = rng.multinomial(num_columns, np.full(num_columns, 1 / num_columns), size=num_resamples)
    weights_R = ((rows_RL @ finite_LC) * columns_RC).sum(axis=1)
    sums_R = ((rows_RL @ filled_LC) * columns_RC).sum(axis=1)
    drawn = weights_R > 0  # where much is missing, a draw may hold nothing
    tail = (1 - confidence) / 2
    low, high = np.quantile(sums_R[drawn] / weights_R[drawn], [tail, 1 - tail])
    return Interval(mean=float(filled_LC.sum() / num), low=float(low), high=float(high), num_pairs=num)


def _preference(pair: tuple[str, ...], answers: list[Answer], confidence: float) -> Preference:
    first, second = pair
    num_first, num_second = (sum(answer.preferred == name for answer in answers) for name in pair)
    num_decided = num_first + num_second
    low, high = exact_interval(num_first, num_decided, confidence)
    listeners = tuple(dict.fromkeys(answer.listener for answer in answers))
    warnings = [*_few_listeners(len(listeners))]
    if 100 * (high - low) > WIDEST:
        width = f"its interval is {100 * (high - low):.0f} % wide, more than {WIDEST:g} %"
        warnings.append(f"too few answers: {num_decided} prefer one of {first} and {second}; {width}")
    return Preference(
        first=first,
        second=second,
        num_first=num_first,
        num_second=num_second,
        num_same=len(answers) - num_decided,
        share=num_first / num_decided if num_decided else math.nan,
        low=low,
        high=high,
        listeners=listeners,
        num_clips=len({answer.clip for answer in answers}),
        warnings=tuple(warnings),
    )


def exact_interval(num_hits: int, num_trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """The interval of a binomial share after Clopper and Pearson (1934); 0 to 1 without trials."""
    from scipy.special import betaincinv

    tail, num_misses = (1 - confidence) / 2, num_trials - num_hits
    low = float(betaincinv(num_hits, num_misses + 1, tail)) if num_hits else 0.0
    high = float(betaincinv(num_hits + 1, num_misses, 1 - tail)) if num_misses else 1.0
    return low, high


def _warnings_of_mushra(
    kept: list[Answer], listeners: Sequence[str], systems: Sequence[SystemRating]
) -> list[str]:
    warnings = _few_listeners(len(listeners))
    for system in systems:
        if (width := system.rating.high - system.rating.low) > WIDEST:
            what = f"the interval of {system.name} is {width:.0f} points wide, more than {WIDEST:g}"
            warnings.append(f"too few answers: {what}")
    if len({frozenset(answer.ratings) for answer in kept}) > 1:
        warnings.append("not all screens had the same stimuli: ratings depend on what stands beside a system")
    return warnings


def _few_listeners(num_listeners: int) -> list[str]:
    if num_listeners >= MIN_LISTENERS:
        return []
    return [f"too few listeners: {num_listeners}, of the {MIN_LISTENERS} that are the least to go by"]
