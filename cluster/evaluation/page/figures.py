"""The report's figures as inline SVG, whose colours follow the page (light or dark) through CSS variables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.layout_engine import ConstrainedLayoutEngine

from cluster.evaluation.scores import NOISY, STREAM, SystemResult
from cluster.evaluation.summaries import ScoreTable
from cluster.runs.curves import Curves, draw_curves
from cluster.svg import INK as _INK
from cluster.svg import LINE as _LINE
from cluster.svg import NUM_SERIES, drawn
from cluster.svg import SERIES as _SERIES
from cluster.svg import to_svg as _to_svg
from ww_models.quality import MEASURES


def improvement_figure(systems: Sequence[SystemResult], measures: Sequence[str]) -> str:
    """What each system adds to each measure at each SNR of the clips: dots are means, lines intervals."""
    levels = [summary.bucket.removesuffix(" dB") for summary in systems[0].by["snr"]]
    rows = -(-len(measures) // 2)
    layout = ConstrainedLayoutEngine(wspace=0.06, hspace=0.08)
    with drawn("improvement", 9.2, 2.6 * rows, layout=layout) as figure:
        every_axes = list(figure.subplots(rows, 2, squeeze=False).flat)
        for axes, name in zip(every_axes, measures, strict=False):
            axes.set_title(f"{MEASURES[name].label}: change", loc="left", fontsize=11)
            axes.grid(axis="y", color=_LINE, linewidth=0.8)
            axes.axhline(0, color=_INK, linewidth=1)
            for index, system in enumerate(systems):
                _draw_intervals(axes, system, name, index, len(systems))
            axes.set_xticks(range(len(levels)), levels, fontsize=10 if len(levels) < 8 else 7)
            axes.set_xlim(-0.6, len(levels) - 0.4)
            axes.set_axisbelow(True)
        for axes in every_axes[len(measures) :]:
            axes.set_axis_off()
        figure.supxlabel("SNR of the clip in dB", fontsize=10)
        return _to_svg(figure, "Change of each measure over the unprocessed clips, by SNR of the clip")


def _draw_intervals(axes: Axes, system: SystemResult, measure: str, index: int, count: int) -> None:
    color = _SERIES[index % NUM_SERIES]
    intervals = [summary.improvements[measure] for summary in system.by["snr"]]
    places = np.arange(len(intervals)) + (index - (count - 1) / 2) * min(0.18, 0.6 / count)
    axes.vlines(places, [i.low for i in intervals], [i.high for i in intervals], color=color, linewidth=2)
    axes.plot(places, [i.mean for i in intervals], "o", color=color, markersize=6.5)


def quality_cost_figure(systems: Sequence[SystemResult], measure: str) -> str:
    """The mean of a measure of all systems over what a second of sound costs, on a logarithmic scale.

    The cost is that of one stream in fp32 or, of what does not run in steps, that of whole clips: a hollow dot. What
    has no cost of its own, the noisy sound and files of other programs, is a line.
    """
    with drawn("cost", 9.2, 4.2) as figure:
        axes = figure.subplots()
        axes.grid(color=_LINE, linewidth=0.8)
        axes.set_axisbelow(True)
        others = [system for system in systems if system.name != NOISY]
        for system in systems:
            if system.name.endswith(STREAM):
                continue
            mean = system.overall.means[measure]
            color = _INK if system.name == NOISY else _SERIES[others.index(system) % NUM_SERIES]
            if system.model is None:
                axes.axhline(mean.mean, color=color, linewidth=1, linestyle="--")
                axes.annotate(system.name, (0, mean.mean), (4, 3), ("axes fraction", "data"), "offset points")
                continue
            stream = system.cost.alone["fp32"] if system.cost else None
            cost = stream or system.model.real_time_factor
            axes.vlines([cost], mean.low, mean.high, color=color, linewidth=2)
            axes.plot(
                [cost], [mean.mean], "o", color=color, markersize=8, fillstyle="full" if stream else "none"
            )
            axes.annotate(system.name, (cost, mean.mean), (8, 4), textcoords="offset points")
        axes.set_xscale("log")
        axes.margins(x=0.25)
        axes.set_xlabel("seconds of computing per second of sound")
        axes.set_ylabel(MEASURES[measure].label)
        return _to_svg(figure, f"{MEASURES[measure].title} of each system over its cost")


def distribution_figure(table: ScoreTable, systems: Sequence[str], measures: Sequence[str]) -> str:
    """How the change against noisy is distributed over clips: a row for each system, a panel for each measure.

    What lies beyond the middle 99 % of all stands in the outermost bars; dots are medians, lines the middle 80 %.
    """
    height = 1.1 + 0.75 * len(systems)
    with drawn("distribution", 9.2, height) as figure:
        every_axes = list(figure.subplots(1, len(measures), squeeze=False, sharey=True).flat)
        for axes, measure in zip(every_axes, measures, strict=True):
            noisy_N = table.values[measure][table.systems.index(NOISY)]
            changes = {name: table.values[measure][table.systems.index(name)] - noisy_N for name in systems}
            finite = {name: change_N[np.isfinite(change_N)] for name, change_N in changes.items()}
            axes.set_title(f"{MEASURES[measure].label}: change", loc="left", fontsize=11)
            axes.axvline(0, color=_INK, linewidth=1)
            _draw_ridges(axes, list(finite.values()))
            axes.set_yticks([-row for row in range(len(systems))], systems)
            axes.set_ylim(-len(systems) + 0.6, 1.05)
        return _to_svg(figure, "Distribution of the change over clips, for each system")


def _draw_ridges(axes: Axes, rows: Sequence[np.ndarray]) -> None:
    """A histogram of each row of values (N,), one below the other, over the same bars."""
    everything = np.concatenate(rows)
    if not len(everything):
        return
    low, high = np.percentile(everything, [0.5, 99.5])
    edges = np.linspace(low, high, 41) if high > low else np.array([low - 0.5, low + 0.5])
    for row, values_N in enumerate(rows):
        if not len(values_N):
            continue
        color = _SERIES[row % NUM_SERIES]
        counts, _ = np.histogram(values_N.clip(edges[0], edges[-1]), edges)
        axes.stairs(
            0.85 * counts / counts.max() - row, edges, baseline=-row, fill=True, color=color, alpha=0.45
        )
        tenth, median, ninth = np.percentile(values_N, [10, 50, 90])
        axes.hlines(-row, tenth, ninth, color=color, linewidth=2.5)
        axes.plot([median], [-row], "o", color=color, markersize=6.5)


def scatter_figure(x_N: np.ndarray, y_N: np.ndarray, names: tuple[str, str], measure: str) -> str:
    """A point for each clip: a measure of one system over that of another, (N,) each."""
    label = MEASURES[measure].label
    with drawn("scatter", 5.6, 5.0) as figure:
        axes = figure.subplots()
        axes.grid(color=_LINE, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.plot(x_N, y_N, "o", color=_SERIES[0], markersize=4, alpha=0.6, markeredgewidth=0)
        both = np.concatenate([x_N, y_N])
        if len(both := both[np.isfinite(both)]):
            axes.plot([both.min(), both.max()], [both.min(), both.max()], color=_INK, linewidth=1)
        axes.set(xlabel=f"{label}: {names[0]}", ylabel=f"{label}: {names[1]}")
        return _to_svg(figure, f"{label} of {names[1]} over that of {names[0]}, clip by clip")


def curves_figure(runs: Mapping[str, Curves], colors: Mapping[str, int]) -> str:
    """What the runs' validations gave while they trained. colors: places of the systems."""
    rows = [row for curves in runs.values() for row in curves["val"].values()]
    over = "hours" if all(math.isfinite(row.get("hours", math.nan)) for row in rows) else "steps"
    with drawn("training", 9.2, 5.2) as figure:
        every_axes = list(figure.subplots(2, 2).flat)
        for axes in every_axes:
            axes.grid(axis="y", color=_LINE, linewidth=0.8)
            axes.title.set_fontsize(11)
        series = {name: _SERIES[place % NUM_SERIES] for name, place in colors.items()}
        draw_curves(every_axes, runs, over, series, noisy=_INK)
        return _to_svg(figure, "Validation loss, PESQ, STOI and SNR of the runs while they trained")
