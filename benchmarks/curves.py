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

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cluster.runs.curves import AXES, CURVES, Curves, draw_curves, read_curves


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
    runs = {run.name: checked_curves(run) for run in arguments.runs}
    draw(runs, arguments.over).savefig(arguments.out)
    print(f"curves: {arguments.out}")
    for name, curves in runs.items():
        best = max(curves["val"].values(), key=lambda row: row["si_sdr_db"])
        scores = "  ".join(f"{key} {best[key]:.3f}" for key in (*CURVES, "si_sdr_db") if key in best)
        after = f"{best['hours']:.2f} h, {best['minutes']:.0f} min"
        print(f"{name:16} best after {after}: {scores}")


def checked_curves(run: Path) -> Curves:
    curves = read_curves(run)
    if not curves["val"]:
        raise SystemExit(f"error: {run} has not been validated yet")
    if any(math.isnan(row["hours"]) for row in curves["val"].values()):
        raise SystemExit(f"error: {run} was trained without mixing.crop_s, so its hours are not known")
    return curves


def draw(runs: dict[str, Curves], over: str) -> Figure:
    figure = Figure(figsize=(11, 3.2), dpi=130, layout="constrained")
    colors = {name: f"C{number}" for number, name in enumerate(runs)}
    every_axes = list(figure.subplots(1, len(CURVES)))
    draw_curves(every_axes, runs, over, colors, noisy="0.5")
    for axes in every_axes:
        axes.grid(alpha=0.3)
    lines = [Line2D([], [], color=color, label=name) for name, color in colors.items()]
    lines.append(Line2D([], [], color="0.5", linestyle="--", label="noisy"))
    figure.legend(handles=lines, loc="outside lower center", ncols=len(lines), frameon=False)
    return figure


if __name__ == "__main__":
    main()
