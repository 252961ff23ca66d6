"""The four curves of training runs as in a paper: loss, PESQ, STOI and SNR on the validation mixtures, a line a run.

    python benchmarks/curves.py runs/first runs/second --over minutes --out curves.png

Dashed is what the noisy mixtures themselves score. Hours are of mixtures that the model was trained on; minutes are on
the clock, validations included, but not the time between an interruption and the resume. Printed is each run's best
validation.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from cluster.runs.folder import parse_lines, read_run_config
from ww_data import Storage
from ww_models.quality import MEASURES

CURVES = {"loss": "validation loss"} | {name: MEASURES[name].label for name in ("pesq", "stoi", "snr_db")}
AXES = {"hours": "hours of mixtures", "minutes": "minutes of training"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs, as jobs.train leaves them")
    parser.add_argument(
        "--out", type=Path, default=Path("curves.png"), help="the picture (default curves.png)"
    )
    parser.add_argument(
        "--over", choices=AXES, default="hours", help="what lies along the axis (default: %(default)s)"
    )
    arguments = parser.parse_args()
    runs = {run.name: read_curves(run) for run in arguments.runs}
    draw(runs, arguments.over).savefig(arguments.out)
    print(f"curves: {arguments.out}")
    for name, curves in runs.items():
        best = max(curves["val"].values(), key=lambda row: row["si_sdr_db"])
        scores = "  ".join(f"{key} {best[key]:.3f}" for key in (*CURVES, "si_sdr_db") if key in best)
        after = f"{best['hours']:.2f} h, {best['minutes']:.0f} min"
        print(f"{name:16} best after {after}: {scores}")


def read_curves(run: Path) -> dict[str, dict[int, dict[str, Any]]]:
    """Series ("val", "noisy") to {step: its scores, "hours" and "minutes"}; of a step that was done again the last."""
    config = read_run_config(Storage(run))
    hours_per_step = config.training.items_per_step * (config.mixing.crop_s or 0) / 3600
    if not hours_per_step:
        raise SystemExit(f"error: {run} was trained without mixing.crop_s, so its hours are not known")
    curves: dict[str, dict[int, dict[str, Any]]] = {"val": {}, "noisy": {}}
    spent_s, started_s, now_s = 0.0, math.nan, math.nan
    for line in parse_lines((run / "tracking" / "metrics.jsonl").read_text(encoding="utf-8")):
        if line["series"] == "start":  # again after an interruption
            spent_s += 0.0 if math.isnan(started_s) else now_s - started_s
            started_s = line["time_s"]
        now_s = line["time_s"]
        if line["series"] in curves:
            at = {"hours": line["step"] * hours_per_step, "minutes": (spent_s + now_s - started_s) / 60}
            row = curves[line["series"]].setdefault(line["step"], {})
            is_late = "pesq" in line and "loss" not in line  # comes minutes after the rest of its step
            row.update(line if is_late else {**line, **at})
    if not curves["val"]:
        raise SystemExit(f"error: {run} has not been validated yet")
    return curves


def draw(runs: dict[str, dict[str, dict[int, dict[str, Any]]]], over: str) -> Figure:
    figure = Figure(figsize=(11, 3.2), dpi=130, layout="constrained")
    for axes, (key, title) in zip(figure.subplots(1, len(CURVES)), CURVES.items(), strict=True):
        for number, (name, curves) in enumerate(runs.items()):
            for series, style in (("val", "-"), ("noisy", "--")):
                points = [(row[over], row[key]) for _, row in sorted(curves[series].items()) if key in row]
                if points and (series == "val" or number == 0):  # all runs hear the same noisy mixtures
                    label, color = (name, f"C{number}") if series == "val" else ("noisy", "0.5")
                    axes.plot(*zip(*points, strict=True), style, color=color, label=label, linewidth=1.2)
        axes.set(title=title, xlabel=AXES[over])
        axes.grid(alpha=0.3)
    lines, names = axes.get_legend_handles_labels()
    figure.legend(lines, names, loc="outside lower center", ncols=len(names), frameon=False)
    return figure


if __name__ == "__main__":
    main()
