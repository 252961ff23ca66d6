"""The report's figures as inline SVG, whose colours follow the page (light or dark) through CSS variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from cluster.evaluation.scores import SystemResult
from cluster.svg import INK as _INK
from cluster.svg import LINE as _LINE
from cluster.svg import NUM_SERIES, STYLE
from cluster.svg import SERIES as _SERIES
from cluster.svg import to_svg as _to_svg
from ww_models.quality import MEASURES

_STYLE: dict[Any, Any] = {**STYLE, "image.origin": "lower", "image.aspect": "auto", "image.cmap": "magma"}
_FFT, _HOP, _RANGE_DB = 512, 128, 80.0


def improvement_figure(systems: Sequence[SystemResult]) -> str:
    """What each system adds to each measure at each SNR of the mixtures: dots are means, lines intervals."""
    levels = [format_level(summary.snr_db) for summary in systems[0].by_snr if summary.snr_db is not None]
    with mpl.rc_context(_STYLE | {"svg.hashsalt": "improvement"}):
        figure = Figure(figsize=(9.2, 5.4), layout=ConstrainedLayoutEngine(wspace=0.06, hspace=0.08))
        for axes, measure in zip(figure.subplots(2, 2).flat, MEASURES.values(), strict=True):
            axes.set_title(f"{measure.label}: change", loc="left", fontsize=11)
            axes.grid(axis="y", color=_LINE, linewidth=0.8)
            axes.axhline(0, color=_INK, linewidth=1)
            for index, system in enumerate(systems):
                _draw_intervals(axes, system, measure.name, index, len(systems))
            axes.set_xticks(range(len(levels)), levels)
            axes.set_xlim(-0.6, len(levels) - 0.4)
            axes.set_axisbelow(True)
        figure.supxlabel("SNR of the mixture in dB", fontsize=10)
        return _to_svg(figure, "Change of each measure over the unprocessed mixtures, by SNR of the mixture")


def _draw_intervals(axes: Axes, system: SystemResult, measure: str, index: int, count: int) -> None:
    color = _SERIES[index % NUM_SERIES]
    intervals = [summary.improvements[measure] for summary in system.by_snr]
    places = np.arange(len(intervals)) + (index - (count - 1) / 2) * min(0.18, 0.6 / count)
    axes.vlines(places, [i.low for i in intervals], [i.high for i in intervals], color=color, linewidth=2)
    axes.plot(places, [i.mean for i in intervals], "o", color=color, markersize=6.5)


def format_level(value_db: float) -> str:
    """-5.0 -> −5"""
    return f"{value_db:g}".replace("-", "−")


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
