"""The figures of a sweep's page: the objective over two settings, curves, importance, all settings side by side."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from cluster.svg import INK, LINE, SERIES, draw_curve, drawn, to_svg
from cluster.tuning.ledger import Ledger
from cluster.tuning.search import Outcome, importance
from cluster.tuning.space import Dimension
from ww_models.quality import VALIDATION_MEASURES

NUM_NAMED = 5  # curves that have a colour, and a name, of their own
_MAP = mpl.colormaps["viridis"]


def heat_map_pair(ledger: Ledger, scored: Sequence[Outcome]) -> tuple[Dimension, Dimension] | None:
    """The two numeric settings that are shown against each other: of several the most important; None of fewer."""
    shares = importance(ledger.plan, scored)
    numeric = [one for one in ledger.plan.dimensions if one.is_numeric and len(set(one.extremes)) > 1]
    two = sorted(numeric, key=lambda one: -shares.get(one.path, 0.0))[:2]
    first_two = [one for one in numeric if one in two]  # in the plan's order
    return (first_two[0], first_two[1]) if len(first_two) == 2 else None


def heat_map(ledger: Ledger, scored: Sequence[Outcome], pair: tuple[Dimension, Dimension]) -> str:
    """The objective over two settings: the cells of a grid, or else each place as the setting nearest to it."""
    label = VALIDATION_MEASURES[ledger.plan.metric].label
    with drawn("heat map", 6.4, 5.0) as figure:
        axes = figure.subplots()
        norm = _norm([one.score for one in scored])
        if all(dimension.choices for dimension in pair):
            _draw_cells(axes, scored, pair, norm, VALIDATION_MEASURES[ledger.plan.metric].digits + 1)
        else:
            _draw_nearest(axes, scored, pair, norm)
        axes.set(xlabel=pair[0].path, ylabel=pair[1].path)
        axes.spines["bottom"].set_visible(False)
        bar = figure.colorbar(mpl.cm.ScalarMappable(norm, _MAP), ax=axes, label=label)
        bar.outline.set_visible(False)
        return to_svg(figure, f"{label} over {pair[0].path} and {pair[1].path}")


def _draw_cells(
    axes: Axes, scored: Sequence[Outcome], pair: tuple[Dimension, Dimension], norm: Normalize, digits: int
) -> None:
    values_x, values_y = (sorted(set(dimension.choices)) for dimension in pair)
    best: dict[tuple[int, int], float] = {}
    for one in scored:
        at = values_x.index(one.values[pair[0].path]), values_y.index(one.values[pair[1].path])
        best[at] = max(best.get(at, -math.inf), one.score)
    grid = np.full((len(values_y), len(values_x)), np.nan)
    for (x, y), score in best.items():
        grid[y, x] = score
    axes.imshow(np.ma.masked_invalid(grid), origin="lower", aspect="auto", cmap=_MAP, norm=norm)
    for x, y in itertools.product(range(len(values_x)), range(len(values_y))):
        there = best.get((x, y), math.nan)
        is_known = math.isfinite(there)
        color = _readable_on(norm(there)) if is_known else INK
        axes.text(x, y, f"{there:.{digits}f}" if is_known else "–", ha="center", va="center", color=color)
    axes.set_xticks(range(len(values_x)), [f"{value:.4g}" for value in values_x])
    axes.set_yticks(range(len(values_y)), [f"{value:.4g}" for value in values_y])


def _draw_nearest(
    axes: Axes, scored: Sequence[Outcome], pair: tuple[Dimension, Dimension], norm: Normalize
) -> None:
    places_N2 = np.array([[place(dimension, one.values) for dimension in pair] for one in scored])
    side = (np.arange(80) + 0.5) / 80
    pixels_P2 = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    nearest_P = ((pixels_P2[:, None] - places_N2[None]) ** 2).sum(-1).argmin(1)
    grid = np.array([one.score for one in scored])[nearest_P].reshape(80, 80)
    axes.imshow(grid, origin="lower", aspect="auto", extent=(0, 1, 0, 1), cmap=_MAP, norm=norm)
    axes.plot(places_N2[:, 0], places_N2[:, 1], "o", color="#fff", mec="#000", markersize=5)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    for set_ticks, dimension in zip((axes.set_xticks, axes.set_yticks), pair, strict=True):
        set_ticks(*_ticks(dimension))


def curves(ledger: Ledger, named: Sequence[int]) -> str:
    """The validations of all runs, those of some settings in colours; a cross ends a run that was pruned."""
    metric, scale = ledger.plan.metric, 60 if ledger.plan.is_equal_time else 1
    with drawn("curves", 9.2, 4.2) as figure:
        axes = figure.subplots()
        axes.grid(axis="y", color=LINE, linewidth=0.8)
        # Those in colours above the others.
        for name, trial in sorted(ledger.trials.items(), key=lambda item: item[1].setting in named):
            points = [point for point in ledger.curves[name] if metric in point]
            is_named = trial.setting in named
            x = [point[ledger.time_attribute] / scale for point in points]
            y = [point[metric] for point in points]
            color = SERIES[named.index(trial.setting)] if is_named else INK
            draw_curve(axes, x, y, color, width=2.2 if is_named else 1)
            if trial.state == "pruned" and x:
                axes.plot(x[-1:], y[-1:], "x", color=color, markersize=7)
        axes.set_xlabel("minutes of training" if ledger.plan.is_equal_time else "steps")
        axes.set_ylabel(VALIDATION_MEASURES[metric].label)
        return to_svg(
            figure,
            f"{VALIDATION_MEASURES[metric].label} of the validation mixtures while training, of all runs",
        )


def importance_bars(shares: dict[str, float]) -> str:
    """How much each setting decides, the largest on top."""
    with drawn("importance", 9.2, 0.8 + 0.45 * len(shares)) as figure:
        axes = figure.subplots()
        names = list(shares)[::-1]
        bars = axes.barh(names, [shares[name] for name in names], color=SERIES[0], height=0.6)
        axes.bar_label(bars, [f"{shares[name]:.0%}" for name in names], padding=4)
        axes.set(xlim=(0, 1), xticks=[])
        axes.spines["bottom"].set_visible(False)
        return to_svg(figure, "Importance: " + ", ".join(f"{name} {shares[name]:.0%}" for name in shares))


def parallel_coordinates(ledger: Ledger, scored: Sequence[Outcome]) -> str:
    """A line for each setting through its values, to its objective on the right; the best in colour."""
    dimensions = ledger.plan.dimensions
    norm = _norm([one.score for one in scored])
    with drawn("parallel", 9.2, 4.2) as figure:
        axes = figure.subplots()
        columns = range(len(dimensions) + 1)
        for column in columns:
            axes.axvline(column, color=LINE, linewidth=1)
        for rank, one in reversed(list(enumerate(sorted(scored, key=lambda one: -one.score)))):
            heights = [place(dimension, one.values) for dimension in dimensions] + [float(norm(one.score))]
            axes.plot(
                columns, heights, color=_MAP(norm(one.score)) if rank else SERIES[1], lw=1.3 if rank else 3
            )
        for column, dimension in enumerate(dimensions):
            for height, text in zip(*_ticks(dimension, 2), strict=True):
                axes.annotate(
                    text,
                    (column, height),
                    xytext=(-5, 0),
                    textcoords="offset points",
                    ha="right",
                    va="center",
                )
        digits = VALIDATION_MEASURES[ledger.plan.metric].digits + 1
        for score in {min(one.score for one in scored), max(one.score for one in scored)}:
            axes.annotate(
                f"{score:.{digits}f}",
                (columns[-1], float(norm(score))),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
            )
        axes.set_xticks(
            columns,
            [
                *(one.path.replace(".", ".\n") for one in dimensions),
                VALIDATION_MEASURES[ledger.plan.metric].label,
            ],
        )
        axes.set(yticks=[], xlim=(-0.35, len(dimensions) + 0.25), ylim=(-0.05, 1.05))
        axes.spines["bottom"].set_visible(False)
        return to_svg(figure, "Each setting that was tried, and what came of it")


def place(dimension: Dimension, values: Any) -> float:
    """Where a value lies in its dimension, 0 to 1."""
    value = values[dimension.path]
    if dimension.choices:
        order = _ordered(dimension)
        return order.index(value) / max(1, len(order) - 1)
    if dimension.high == dimension.low:
        return 0.5
    ends = (dimension.low, dimension.high, value)
    low, high, at = (math.log(end) for end in ends) if dimension.log else ends
    return float((at - low) / (high - low))


def _ordered(dimension: Dimension) -> list[Any]:
    choices = list(dict.fromkeys(dimension.choices))
    return sorted(choices) if dimension.is_numeric else choices


def _ticks(dimension: Dimension, count: int = 5) -> tuple[list[float], list[str]]:
    """Places and words: all choices, or so many values of a range."""
    if dimension.choices:
        values = _ordered(dimension)
    elif dimension.log:
        values = np.geomspace(dimension.low, dimension.high, count).tolist()
    else:
        values = np.linspace(dimension.low, dimension.high, count).tolist()
    texts = [f"{value:.3g}" if isinstance(value, float) else str(value) for value in values]
    return [place(dimension, {dimension.path: value}) for value in values], texts


def _norm(scores: Sequence[float]) -> Normalize:
    low, high = min(scores), max(scores)
    return Normalize(low, high if high > low else low + 1e-9)


def _readable_on(at: float) -> str:
    """Black or white, on the colour at a place of the map."""
    red, green, blue, _ = _MAP(at)
    return "#000" if 0.3 * red + 0.6 * green + 0.1 * blue > 0.45 else "#fff"
