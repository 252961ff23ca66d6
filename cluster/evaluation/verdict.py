"""What came out, in words and figures for people: which system is best, by how much, and how sure that is."""

from __future__ import annotations

import math

from cluster.evaluation.scores import NOISY, STREAM, EvaluationReport, SystemResult
from cluster.evaluation.statistics import Interval
from ww_models.quality import MEASURES

_DECIDING = ("pesq", "si_sdr_db")  # measures, the first one first
_DECIDING_WITHOUT_CLEAN = ("dnsmos_ovrl",)
ALPHA = 0.05


def deciding_measures(report: EvaluationReport) -> tuple[str, ...]:
    """Those that the verdict goes by."""
    return tuple(measure for measure in (*_DECIDING, *_DECIDING_WITHOUT_CLEAN) if measure in report.measures)[
        :2
    ]


def best_system(report: EvaluationReport) -> SystemResult:
    """The system that adds most PESQ, then most SI-SDR; without clean sides, most of what is measured instead."""

    def gains(result: SystemResult) -> list[float]:
        means = (result.overall.improvements[measure].mean for measure in deciding_measures(report))
        return [-math.inf if math.isnan(mean) else mean for mean in means]

    rivals = [
        result for result in report.systems if result.name != NOISY and not result.name.endswith(STREAM)
    ]
    return max(rivals, key=gains)


def verdict(report: EvaluationReport) -> tuple[str, str]:
    """(what came out, the figures behind it), for people, about the best system."""
    best = best_system(report)
    changes = {measure: best.overall.improvements[measure] for measure in deciding_measures(report)}
    directions = {direction(change, measure) for measure, change in changes.items()}
    if directions == {0}:
        outcome = "makes no clear difference"
    elif directions >= {1, -1}:
        outcome = "gives a mixed result"
    else:
        outcome = f"makes noisy speech {'cleaner' if 1 in directions else 'worse'}"
        if 0 in directions:
            outcome += " by one measure, with no clear change by the other"
    num_compared = sum(not result.name.endswith(STREAM) for result in report.systems) - 1
    rival = " (the best of those compared)" if num_compared > 1 else ""
    unseen = " of speakers and noises new to it" if best.model and best.model.same_corpus else ""
    before, after = report.system(NOISY).overall.means, best.overall.means
    confidence = f"{100 * report.config.confidence:g} % interval"
    figures = []
    for name, change in changes.items():
        measure = MEASURES[name]
        old, new = (format_score(means[name].mean, name) for means in (before, after))
        mean, low, high = format_interval(change, name)
        new = f"{new} {measure.unit}".rstrip()
        figures.append(f"{measure.title} goes from {old} to {new} ({mean}; {confidence} {low} to {high})")
    return (
        f"{best.name}{rival} {outcome}.",
        f"Over {report.num_clips} clips{unseen}, {' and '.join(figures)}.",
    )


def differences(report: EvaluationReport) -> list[str]:
    """What is sure among the systems by the deciding measures, a line for each pair."""
    lines = []
    for found in report.comparisons:
        if found.measure not in deciding_measures(report):
            continue
        mean, low, high = format_interval(found.difference, found.measure)
        sure = (
            f"p {max(found.p_holm, 0.001):.3f}"
            if found.p_holm < ALPHA
            else f"no sure difference, p {found.p_holm:.2f}"
        )
        lines.append(
            f"{MEASURES[found.measure].label}: {found.a} − {found.b} {mean} ({low} to {high}; {sure})"
        )
    return lines


def direction(change: Interval, measure: str) -> int:
    """1 for a clear gain, -1 for a clear loss, 0 where the interval holds zero or there is none."""
    sign = int(change.low > 0) - int(change.high < 0)
    return sign if MEASURES[measure].higher_is_better else -sign


def format_score(value: float, measure: str) -> str:
    """With the digits that its measure deserves; a dash where it is undefined."""
    if not math.isfinite(value):
        return "–"
    return f"{value:.{MEASURES[measure].digits}f}".replace("-", "−")


def format_interval(change: Interval, measure: str) -> tuple[str, ...]:
    """Mean, low and high of a change, with their signs: ("+0.08", "+0.05", "+0.10")."""
    texts = (format_score(value, measure) for value in (change.mean, change.low, change.high))
    return tuple(text if text[0] in "−–" else f"+{text}" for text in texts)


def format_decibels(value: float) -> str:
    """−62.3"""
    return f"{value:.1f}".replace("-", "−") if math.isfinite(value) else "–"
