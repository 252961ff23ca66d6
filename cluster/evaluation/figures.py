"""The report's figures as inline SVG, whose colours follow the page (light or dark) through CSS variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from cluster.evaluation.scores import NOISY, STREAM, SystemResult
from cluster.svg import INK as _INK
from cluster.svg import LINE as _LINE
from cluster.svg import NUM_SERIES, STYLE
from cluster.svg import SERIES as _SERIES
from cluster.svg import to_svg as _to_svg
from ww_models.quality import MEASURES

_STYLE: dict[Any, Any] = {**STYLE, "image.origin": "lower", "image.aspect": "auto", "image.cmap": "magma"}
_FFT, _HOP, _RANGE_DB = 512, 128, 80.0


def improvement_figure(systems: Sequence[SystemResult], measures: Sequence[str]) -> str:
    """What each system adds to each measure at each SNR of the clips: dots are means, lines intervals."""
    levels = [summary.bucket.removesuffix(" dB") for summary in systems[0].by["snr"]]
    rows = -(-len(measures) // 2)
    with mpl.rc_context(_STYLE | {"svg.hashsalt": "improvement"}):
        figure = Figure(figsize=(9.2, 2.6 * rows), layout=ConstrainedLayoutEngine(wspace=0.06, hspace=0.08))
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
    with mpl.rc_context(_STYLE | {"svg.hashsalt": "cost"}):
        figure = Figure(figsize=(9.2, 4.2), layout="constrained")
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


def spectrogram_figures(signals: Mapping[str, np.ndarray], sample_rate: int) -> dict[str, str]:
    """The spectrogram of each signal (T,) by its name, all on one scale, from the loudest point of all down."""
    levels_db = {name: _spectrogram_db(signal_T) for name, signal_T in signals.items()}
    top_db = max(float(level_db.max()) for level_db in levels_db.values())
    figures = {}
    for name, level_db in levels_db.items():
        with mpl.rc_context(_STYLE | {"svg.hashsalt": name, "font.size": 8}):
            figure = Figure(figsize=(3.2, 2.1), dpi=110, layout="constrained")
            axes = figure.subplots()
            extent = (0.0, len(signals[name]) / sample_rate, 0.0, sample_rate / 2000)
            axes.imshow(level_db, extent=extent, vmin=top_db - _RANGE_DB, vmax=top_db)
            axes.spines["bottom"].set_visible(False)
            axes.set(xlabel="s", ylabel="kHz")
            figures[name] = _to_svg(figure, f"Spectrogram: {name}")
    return figures


def _spectrogram_db(signal_T: np.ndarray) -> np.ndarray:
    """(T,) -> (F, frames), F = 257: level of each 512-sample Hann window every 128 samples, in dB."""
    padded_T = np.pad(signal_T, (0, max(0, _FFT - len(signal_T))))
    frames = np.lib.stride_tricks.sliding_window_view(padded_T, _FFT)[::_HOP]
    power = np.abs(np.fft.rfft(frames * np.hanning(_FFT), axis=1)).T ** 2
    return 10 * np.log10(power + 1e-12)
