"""What streaming.py prints and writes of its results: a table for each model, the bars, and JSON."""

import os
import platform
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.table import Table
from streaming_measure import ALONE, BATCH, PEER, PEER_PLAIN, TORCH_CLIP, TORCH_STEPS, Result

from ww_models import PRESETS
from ww_models.streaming.onnx_engine import has_vnni
from ww_models.streaming.onnx_export import PRECISIONS

COMPACT = [name for name in PRESETS if name.endswith("-compact")]
MEASURED = ["demucs48", "demucs64", *COMPACT]  # unless --presets or --bundle say else
SILENCE = "silence over speech"
HEADINGS = {TORCH_STEPS: "vs torch\nsteps", PEER: "vs Demucs-\nStreamer", PEER_PLAIN: "vs oneDNN\noff"}


@dataclass(frozen=True)
class Bar:
    """What a preset is to reach: at most `limit`, or at least so many times as fast as a peer."""

    preset: str
    what: str
    limit: float

    @property
    def is_ratio(self) -> bool:
        return self.what in (PEER, PEER_PLAIN)

    def is_met(self, figure: float) -> bool:
        return figure >= self.limit if self.is_ratio else figure <= self.limit


BARS = (
    Bar("demucs48", ALONE, 0.20),
    Bar("demucs48", PEER, 10.0),
    Bar("demucs48", PEER_PLAIN, 5.0),
    Bar("demucs48", BATCH, 0.08),
    Bar("demucs64", ALONE, 0.30),
    Bar("demucs64", BATCH, 0.12),
    *(Bar(name, ALONE, 0.03) for name in COMPACT),
    *(Bar(name, BATCH, 0.010) for name in COMPACT),
    *(Bar(name, SILENCE, 1.2) for name in MEASURED),
)


def figure_of(result: Result, bar: Bar) -> tuple[float, str] | None:
    """The figure that a bar asks for and whose it is; None if it was not measured.

    That of the better precision; of silence that of the worse, since silence must not cost more in any.
    """
    if bar.what == SILENCE:
        ratios = [(median(windows), precision) for precision, windows in result.silence.items()]
        return max(ratios, default=None)
    if bar.is_ratio:
        if bar.what not in result.contestants:
            return None
        return max((result.times_as_fast(result.ours(p, ALONE), bar.what), p) for p in PRECISIONS)
    return min((result.cost(result.ours(precision, bar.what)), precision) for precision in PRECISIONS)


def table_of(result: Result) -> Table:
    model = result.model
    hop_ms = 1000 * model.hop_samples / model.sample_rate
    table = Table(
        title=f"{result.name}: {hop_ms:g} ms a step, latency {model.latency_ms:.1f} ms",
        caption="cost of a batch is per stream, its steps are of all that are ready; vs: how many times as fast",
    )
    table.add_column("", no_wrap=True)
    references = [name for name in HEADINGS if name in result.contestants]
    headings = ["CPU s per\ns of audio", "lowest to\nhighest", "step ms", "p99 ms"]
    headings += [HEADINGS[reference] for reference in references]
    headings += ["silence / speech\n(worst part)"] if result.silence else []
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for name, contestant in result.contestants.items():
        rounds, steps = contestant.per_second(), contestant.step_ms()
        row = [name, f"{median(rounds):.4f}", f"{min(rounds):.4f} – {max(rounds):.4f}"]
        row += ["", ""] if name == TORCH_CLIP else [f"{median(steps):.3f}", f"{np.percentile(steps, 99):.3f}"]
        row += [f"{result.times_as_fast(name, reference):.2f}" for reference in references]
        windows = next(
            (ratios for p, ratios in result.silence.items() if name == result.ours(p, ALONE)), None
        )
        row += [f"{median(windows):.2f} ({max(windows):.2f})"] if windows else []
        table.add_row(*row)
    return table


def verdicts(results: list[Result]) -> list[dict[str, Any]]:
    """Every bar of the presets that were measured; met is None where the figure was not measured."""
    rows = []
    for result in results:
        for bar in (bar for bar in BARS if bar.preset == result.preset):
            found = figure_of(result, bar)
            what = f"{bar.what} of {result.num_streams}" if bar.what == BATCH else bar.what
            rows.append(
                {
                    "model": result.name,
                    "what": f"x as fast as {what}" if bar.is_ratio else what,
                    "limit": bar.limit,
                    "at_least": bar.is_ratio,
                    "figure": found[0] if found else None,
                    "precision": found[1] if found else None,
                    "met": bar.is_met(found[0]) if found else None,
                }
            )
    return rows


def bars_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="bars", caption="int8 counts where its quality holds, which is not measured here")
    table.add_column("")
    table.add_column("")
    for heading in ("bar", "figure", "by"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for row in rows:
        met = {True: "[green]met", False: "[red]missed", None: "not measured"}[row["met"]]
        figure = "" if row["figure"] is None else f"{row['figure']:.4g}"
        limit = f"{'>=' if row['at_least'] else '<='} {row['limit']:g}"
        table.add_row(row["model"], row["what"], limit, figure, row["precision"] or "", met)
    return table


def surroundings(has_peers: bool) -> dict[str, Any]:
    """Hardware, versions, date."""
    packages = ["torch", "onnxruntime", "numpy", *(["denoiser"] if has_peers else [])]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": {
            "cpu": cpu_name(),
            "cores": os.cpu_count(),
            "int8_in_32_bits": has_vnni(),
            "load_average": round(os.getloadavg()[0], 2),
        },
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
    }


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def as_json(result: Result) -> dict[str, Any]:
    return {
        "name": result.name,
        "preset": result.preset,
        "architecture": result.model.name,
        "config": asdict(result.model.config),
        "streams_in_a_batch": result.num_streams,
        "contestants": {
            name: {
                "cpu_s_per_s": median(contestant.per_second()),
                "rounds": contestant.per_second(),
                "step_ms_median": median(contestant.step_ms()),
                "step_ms_p99": float(np.percentile(contestant.step_ms(), 99)),
                "steps": len(contestant.step_ms()),
            }
            for name, contestant in result.contestants.items()
        },
        "silence_over_speech": result.silence,
    }
