"""The validation curves of a run, as it noted them: loss, PESQ, STOI and SNR, and what the noisy mixtures score."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from cluster.runs.folder import METRICS_FILE, TRACKING_FOLDER, parse_lines, read_run_config
from cluster.svg import draw_curve
from ww_data import Storage
from ww_models.quality import MEASURES

CURVES = {"loss": "validation loss"} | {name: MEASURES[name].label for name in ("pesq", "stoi", "snr_db")}
AXES = {"hours": "hours of mixtures", "minutes": "minutes of training", "steps": "steps"}
Curves = dict[str, dict[int, dict[str, Any]]]


def read_curves(run: Path) -> Curves:
    """Series ("val", "noisy") to {step: its scores and where it lies on each of AXES}.

    Of a step that was done again the last counts. Hours are of mixtures that the model was trained on, NaN without
    mixing.crop_s; minutes are on the clock, validations included, but not the time between an interruption and the
    resume. ConfigError or OSError if there is no run in the folder.
    """
    config = read_run_config(Storage(run))
    hours_per_step = config.training.items_per_step * (config.mixing.crop_s or math.nan) / 3600
    curves: Curves = {"val": {}, "noisy": {}}
    spent_s, started_s, now_s = 0.0, math.nan, math.nan
    for line in parse_lines((run / TRACKING_FOLDER / METRICS_FILE).read_text(encoding="utf-8")):
        if line["series"] == "start":  # again after an interruption
            spent_s += 0.0 if math.isnan(started_s) else now_s - started_s
            started_s = line["time_s"]
        now_s = line["time_s"]
        if line["series"] in curves:
            step = line["step"]
            minutes = (spent_s + now_s - started_s) / 60
            at = {"hours": step * hours_per_step, "minutes": minutes, "steps": step}
            row = curves[line["series"]].setdefault(step, {})
            is_late = "pesq" in line and "loss" not in line  # comes minutes after the rest of its step
            row.update(line if is_late else {**line, **at})
    return curves


def draw_curves(
    every_axes: Sequence[Axes], runs: Mapping[str, Curves], over: str, colors: Mapping[str, str], noisy: str
) -> None:
    """One of CURVES into each of four axes, a line a run. over: one of AXES. noisy: the colour of that, dashed."""
    for axes, (key, title) in zip(every_axes, CURVES.items(), strict=True):
        for number, (name, curves) in enumerate(runs.items()):
            for series in ("val", "noisy"):
                points = [
                    (row[over], row[key])
                    for _, row in sorted(curves[series].items())
                    if {key, over} <= row.keys()
                ]
                x, y = [point[0] for point in points], [point[1] for point in points]
                if series == "val":
                    draw_curve(axes, x, y, colors[name])
                elif number == 0 and points:  # all runs hear the same noisy mixtures
                    draw_curve(axes, x, y, noisy, style="--")
        axes.set(title=title, xlabel=AXES[over])
