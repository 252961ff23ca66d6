"""Two systems clip by clip: what the page's script draws from, and the picture that stands there without it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cluster.evaluation.page.figures import scatter_figure
from cluster.evaluation.scores import NOISY, EvaluationReport
from cluster.evaluation.summaries import ScoreTable
from cluster.evaluation.verdict import best_system, deciding_measures
from ww_models.quality import MEASURES

MAX_CLIPS = 2000  # more would make the page slow, and points cover each other


def scatter_data(report: EvaluationReport, table: ScoreTable) -> dict[str, Any]:
    """For JSON. clips[]; systems[]; x, y: those that are shown first; measures[]: name, label, digits,
    higher_is_better, values[system][clip], null where undefined.
    """
    places = _places(table)
    x, y = first_pair(report)
    measures = []
    for name in dict.fromkeys([*deciding_measures(report), *report.measures]):
        measure = MEASURES[name]
        rows = [[_rounded(value, measure.digits + 1) for value in row[places]] for row in table.values[name]]
        facts = {"name": name, "label": measure.label, "digits": measure.digits}
        measures.append(facts | {"higher_is_better": measure.higher_is_better, "values": rows})
    return {
        "clips": [table.clips[place].clip_id for place in places],
        "systems": list(table.systems),
        "x": x,
        "y": y,
        "measures": measures,
    }


def static_scatter(report: EvaluationReport, table: ScoreTable) -> str:
    """The picture of the first pair by the first measure, as SVG."""
    pair, places = first_pair(report), _places(table)
    measure = deciding_measures(report)[0]
    x_N, y_N = (table.values[measure][table.systems.index(name)][places] for name in pair)
    return scatter_figure(x_N, y_N, pair, measure)


def first_pair(report: EvaluationReport) -> tuple[str, str]:
    """(the second best by the first measure, the best); with one system alone, (noisy, it)."""
    best, measure = best_system(report).name, deciding_measures(report)[0]
    rivals = {system for found in report.comparisons for system in (found.a, found.b)} - {best}
    means = {name: report.system(name).overall.means[measure].mean for name in rivals}
    means = {name: mean for name, mean in means.items() if math.isfinite(mean)}
    sign = 1 if MEASURES[measure].higher_is_better else -1
    second = max(sorted(means), key=lambda name: sign * means[name], default=NOISY)
    return second, best


def _places(table: ScoreTable) -> np.ndarray:
    """Of the clips that are shown: all, or so many evenly."""
    num = len(table.clips)
    shown = min(num, MAX_CLIPS)
    return np.arange(shown) * num // shown


def _rounded(value: float, digits: int) -> float | None:
    return round(float(value), digits) if math.isfinite(value) else None
