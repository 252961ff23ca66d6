"""The four curves of training runs as in a paper: loss, PESQ, STOI and SNR on the validation mixtures, a line a run.

Dashed is what the noisy mixtures themselves score. Hours are of mixtures that the model was trained on. Printed is each
run's best validation.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from cluster.json_lines import parse_lines
from cluster.run_folder import read_run_config
from ww_data import Storage

CURVES = {"loss": "validation loss", "pesq": "PESQ", "stoi": "STOI", "snr_db": "SNR, dB"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs, as jobs.train leaves them")
    parser.add_argument(
        "--out", type=Path, default=Path("curves.png"), help="the picture (default curves.png)"
    )
    arguments = parser.parse_args()
    lines = {run.name: read_curves(run) for run in arguments.runs}
    draw(lines).savefig(arguments.out)
    print(f"curves: {arguments.out}")
    for name, curves in lines.items():
        at, best = max(curves["val"].items(), key=lambda item: item[1]["si_sdr_db"])
        scores = "  ".join(f"{key} {best[key]:.3f}" for key in (*CURVES, "si_sdr_db") if key in best)
        print(f"{name:12} best after {at:.2f} h: {scores}")


def read_curves(run: Path) -> dict[str, dict[float, dict[str, Any]]]:
    """Series ("val", "noisy") to {hours of mixtures: its scores}; of a step that was done again the last."""
    config = read_run_config(Storage(run))
    hours_per_step = config.training.items_per_step * (config.mixing.crop_s or 0) / 3600
    if not hours_per_step:
        raise SystemExit(f"error: {run} was trained without mixing.crop_s, so its hours are not known")
    curves: dict[str, dict[float, dict[str, Any]]] = {"val": {}, "noisy": {}}
    for line in parse_lines((run / "tracking" / "metrics.jsonl").read_text(encoding="utf-8")):
        if line["series"] in curves:
            curves[line["series"]].setdefault(line["step"] * hours_per_step, {}).update(line)
    if not curves["val"]:
        raise SystemExit(f"error: {run} has not been validated yet")
    return curves


def draw(runs: dict[str, dict[str, dict[float, dict[str, Any]]]]) -> Figure:
    figure = Figure(figsize=(11, 3), dpi=130, layout="constrained")
    for axes, (key, title) in zip(figure.subplots(1, len(CURVES)), CURVES.items(), strict=True):
        for number, (name, curves) in enumerate(runs.items()):
            for series, style in (("val", "-"), ("noisy", "--")):
                points = [(at, row[key]) for at, row in sorted(curves[series].items()) if key in row]
                if points and (series == "val" or number == 0):  # all runs hear the same noisy mixtures
                    label, color = (name, f"C{number}") if series == "val" else ("noisy", "0.5")
                    axes.plot(*zip(*points, strict=True), style, color=color, label=label, linewidth=1.2)
        axes.set(title=title, xlabel="hours of mixtures")
        axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure


if __name__ == "__main__":
    main()
