"""What quality.py measured, as tables of text (a header, then rows) and as a picture.

`found` is what it writes to quality.json: the clips, their SNR, and of each system the scores of each clip, its cost,
its latency and what it does to clean speech, to silence and over time.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from rich.console import Console
from rich.table import Table

from cluster.evaluation.statistics import paired_interval

NOISY = "noisy"
DIGITS = {
    "pesq": 3,
    "stoi": 4,
    "estoi": 4,
    "si_sdr_db": 2,
    "dnsmos_sig": 2,
    "dnsmos_bak": 2,
    "dnsmos_ovrl": 2,
}
SNR_EDGES_DB = (-100.0, 0.0, 5.0, 10.0, 15.0, 100.0)


def column(found: dict, name: str, measure_name: str) -> np.ndarray:
    return np.array([row[measure_name] for row in found["systems"][name]["rows"]])


def above(before: np.ndarray, after: np.ndarray, digits: int) -> str:
    """The mean difference, and its interval."""
    gain = paired_interval(before, after, num_resamples=2000, confidence=0.95, seed=0)
    return f"{gain.mean:+.{digits}f} ({gain.low:+.{digits}f} to {gain.high:+.{digits}f})"


def overall(found: dict) -> list[list[str]]:
    """The table: a header, then a row for each system."""
    measures = [name for name in DIGITS if name in found["systems"][NOISY]["rows"][0]]
    header = ["system", *measures, "clean in: PESQ", "SI-SDR dB", "silence in: dBFS", "latency ms", "cost"]
    rows = [header]
    for name, about in found["systems"].items():
        cells = [name]
        for each in measures:
            before, after, digits = column(found, NOISY, each), column(found, name, each), DIGITS[each]
            if name == NOISY:
                cells.append(f"{np.nanmean(after):.{digits}f}")
                continue
            cells.append(above(before, after, digits))
        if name == NOISY:
            rows.append([*cells, "", "", "", "", ""])
            continue
        latency = "whole clip" if about["latency_ms"] is None else f"{about['latency_ms']:.0f}"
        harm_cells = [
            f"{about['clean_pesq']:.2f}",
            f"{about['clean_si_sdr_db']:.1f}",
            f"{about['silence_dbfs']:.0f}",
        ]
        rows.append([*cells, *harm_cells, latency, f"{about['cost']:.4f}"])
    return rows


def over_time(found: dict) -> list[list[str]]:
    """What a long stream does to the sound."""
    rows = [["system", "SI-SDR dB, first minute", "last minute", "changed, dB"]]
    keys = ("first_minute_si_sdr_db", "last_minute_si_sdr_db", "drift_db")
    for name, about in found["systems"].items():
        if keys[0] in about:
            rows.append([name, *(f"{about[key]:.{0 if key == 'drift_db' else 2}f}" for key in keys)])
    return rows


def first_above_others(found: dict) -> list[list[str]]:
    """By how much the first system (a bundle, where one is given) is above each other one, clip by clip."""
    first, *others = (name for name in found["systems"] if name != NOISY)
    measures = [name for name in DIGITS if name in found["systems"][NOISY]["rows"][0]]
    rows = [[f"{first} above", *measures]]
    for name in others:
        cells = []
        for each in measures:
            theirs, ours, digits = column(found, name, each), column(found, first, each), DIGITS[each]
            cells.append(above(theirs, ours, digits))
        rows.append([name, *cells])
    return rows


def by_snr(found: dict) -> list[list[str]]:
    """Gains in PESQ, STOI and SI-SDR for each range of SNR."""
    snr_db = np.array(found["snr_db"])
    rows = [["system", "SNR dB", "clips", "pesq", "stoi", "si_sdr_db"]]
    for name in found["systems"]:
        for low, high in itertools.pairwise(SNR_EDGES_DB):
            inside = (snr_db >= low) & (snr_db < high)
            if name == NOISY or not inside.any():
                continue
            gains = [
                f"{np.nanmean((column(found, name, each) - column(found, NOISY, each))[inside]):+.{DIGITS[each]}f}"
                for each in ("pesq", "stoi", "si_sdr_db")
            ]
            ends = (
                f"under {high:g}"
                if low == -100
                else f"{low:g} and more"
                if high == 100
                else f"{low:g} to {high:g}"
            )
            rows.append([name, ends, str(int(inside.sum())), *gains])
    return rows


def as_markdown(rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]) + "\n"


def show(console: Console, rows: list[list[str]]) -> None:
    table = Table(*rows[0])
    for row in rows[1:]:
        table.add_row(*row)
    console.print(table)


def draw(found: dict, file: Path) -> None:
    """Quality against cost."""
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for name, about in found["systems"].items():
        if name != NOISY:
            gain = float(np.nanmean(column(found, name, "pesq") - column(found, NOISY, "pesq")))
            axes.scatter(about["cost"], gain)
            axes.annotate(name, (about["cost"], gain), xytext=(6, 4), textcoords="offset points")
    axes.set(xscale="log", xlabel="CPU seconds per second of audio, one thread", ylabel="gain in PESQ")
    axes.margins(x=0.3, y=0.15)
    axes.axhline(0, color="0.7", linewidth=1)
    figure.savefig(file, dpi=150)
