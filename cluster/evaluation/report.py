"""Writes an evaluation for people (report.html, one file that opens anywhere) and for programs (report.json).

report.json: {"format": "wave-wizard-evaluation", "format_version": 1, ...} followed by the fields of
EvaluationReport as cluster/evaluation/scores.py documents them, undefined numbers as null:

    verdict                        one sentence
    corpus_uri, manifest_hash, sample_rate (Hz), num_mixtures, clip_s, machine, created_at, duration_s, config
    systems[]                      "noisy" first
      name, model                  model: null for noisy, else bundle_id, real_time_factor, latency_ms, ...
      overall, by_snr[]            snr_db (null: all), num_mixtures,
        means.METRIC                   mean, num_defined, num_undefined
        improvements.METRIC            mean, low, high, num_pairs
      best[], worst[]              entries like those of scores[]
    scores[]                       mixture_id, system, mixture_snr_db, speaker, noise_id, a number per METRIC
    examples[]                     the same without a score; audio {name: file, from the report's folder}

METRIC is pesq, stoi, snr_db or si_sdr_db.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import math
import os
from pathlib import Path
from typing import Any

import jinja2
import markupsafe
import numpy as np

from cluster.evaluation.figures import (
    METRIC_TITLES,
    NUM_SERIES,
    improvement_figure,
    spectrogram_db,
    spectrogram_figure,
)
from cluster.evaluation.scores import CLEAN, METRICS, NOISY, EvaluationReport, Example, Interval, SystemResult
from ww_data import write_audio
from ww_data.storage import whole_file

FORMAT, FORMAT_VERSION = "wave-wizard-evaluation", 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportFiles:
    """Paths of what was written; audio: the examples as WAV."""

    json: Path
    html: Path
    audio: tuple[Path, ...]


def write_report(report: EvaluationReport, out_dir: str | os.PathLike[str]) -> ReportFiles:
    """Writes report.html, report.json and examples/*.wav into `out_dir`, which is made if needed."""
    out = Path(out_dir)
    (out / "examples").mkdir(parents=True, exist_ok=True)
    audio = [_write_example(example, number, out) for number, example in enumerate(report.examples, start=1)]
    html = _replace(out / "report.html", render_html(report))
    names = [{name: path.relative_to(out).as_posix() for name, path in paths.items()} for paths in audio]
    content = json.dumps(report_to_dict(report, names), indent=1, ensure_ascii=False, allow_nan=False)
    paths = tuple(path for files in audio for path in files.values())
    return ReportFiles(json=_replace(out / "report.json", content), html=html, audio=paths)


def report_to_dict(report: EvaluationReport, audio: list[dict[str, str]] | None = None) -> dict[str, Any]:
    """The content of report.json. audio: for each example, signal name -> file."""
    examples = []
    for number, example in enumerate(report.examples):
        facts = {f.name: getattr(example, f.name) for f in dataclasses.fields(example) if f.name != "signals"}
        examples.append(facts | {"audio": audio[number] if audio else {}})
    content = dataclasses.asdict(dataclasses.replace(report, examples=()))
    head = {"format": FORMAT, "format_version": FORMAT_VERSION, "verdict": " ".join(verdict(report))}
    return _finite(head | content | {"examples": examples})


def best_system(report: EvaluationReport) -> SystemResult:
    """The bundle that adds most PESQ, then most SI-SDR."""

    def merit(result: SystemResult) -> tuple[float, float]:
        pesq, si_sdr_db = (result.overall.improvements[metric].mean for metric in ("pesq", "si_sdr_db"))
        return (-math.inf if math.isnan(pesq) else pesq, -math.inf if math.isnan(si_sdr_db) else si_sdr_db)

    return max((result for result in report.systems if result.name != NOISY), key=merit)


def verdict(report: EvaluationReport) -> tuple[str, str]:
    """(what came out, the figures behind it), for people, about the best bundle."""
    best = best_system(report)
    changes = {metric: best.overall.improvements[metric] for metric in ("pesq", "si_sdr_db")}
    directions = [_direction(interval) for interval in changes.values()]
    if all(direction > 0 for direction in directions):
        outcome = "makes noisy speech cleaner"
    elif all(direction < 0 for direction in directions):
        outcome = "makes noisy speech worse"
    elif not any(directions):
        outcome = "makes no clear difference"
    elif all(direction >= 0 for direction in directions):
        outcome = "makes noisy speech cleaner by one measure, with no clear change by the other"
    elif all(direction <= 0 for direction in directions):
        outcome = "makes noisy speech worse by one measure, with no clear change by the other"
    else:
        outcome = "gives a mixed result"
    rival = " (the best of those compared)" if len(report.systems) > 2 else ""
    unseen = " of speakers and noises new to it" if best.model and best.model.same_corpus else ""
    before = report.system(NOISY).overall.means
    after = best.overall.means
    confidence = f"{100 * report.config.confidence:g} % interval"
    figures = [
        f"{METRIC_TITLES[metric].removesuffix(' in dB')} goes from "
        f"{format_score(before[metric].mean, metric)} to "
        f"{format_score(after[metric].mean, metric)}{' dB' if metric.endswith('_db') else ''} "
        f"({format_signed(change.mean, metric)}; {confidence} {format_signed(change.low, metric)} to "
        f"{format_signed(change.high, metric)})"
        for metric, change in changes.items()
    ]
    return (
        f"{best.name}{rival} {outcome}.",
        f"Over {report.num_mixtures} mixtures{unseen}, {' and '.join(figures)}.",
    )


def render_html(report: EvaluationReport) -> str:
    """The whole page as one string without references to anything outside it."""
    folder = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "number": format_score,
        "change": format_change,
        "direction": _direction,
        "level": _level,
    }
    bundles = [result for result in report.systems if result.name != NOISY]
    headline, figures = verdict(report)
    return environment.get_template("report.html.jinja").render(
        report=report,
        bundles=bundles,
        best=best_system(report),
        noisy=report.system(NOISY),
        noisy_scores={score.mixture_id: score for score in report.scores if score.system == NOISY},
        headline=headline,
        figures=figures,
        metrics=METRICS,
        titles=METRIC_TITLES,
        num_series=NUM_SERIES,
        undefined=_undefined(report),
        improvement=markupsafe.Markup(improvement_figure(bundles)),
        examples=[_example_cards(example) for example in report.examples],
    )


def _undefined(report: EvaluationReport) -> list[str]:
    """Which scores could not be computed, so that no clip disappears unseen."""
    return [
        f"{METRIC_TITLES[metric]} of {result.name}: {count} of {report.num_mixtures} mixtures"
        for result in report.systems
        for metric in METRICS
        if (count := result.overall.means[metric].num_undefined)
    ]


def _example_cards(example: Example) -> dict[str, Any]:
    top_db = max(float(spectrogram_db(signal_T).max()) for signal_T in example.signals.values())
    cards = []
    for name, signal_T in example.signals.items():
        label = f"{name}, {example.mixture_id}"
        figure = spectrogram_figure(signal_T, example.sample_rate, top_db, name)
        buffer = io.BytesIO()
        write_audio(buffer, np.clip(signal_T, -1, 1), example.sample_rate)
        data = base64.b64encode(buffer.getvalue()).decode()
        cards.append(
            {
                "title": {NOISY: "Noisy", CLEAN: "Clean (what it should be)"}.get(name, f"Enhanced: {name}"),
                "label": label,
                "figure": markupsafe.Markup(figure),
                "audio": f"data:audio/wav;base64,{data}",
            }
        )
    return {"example": example, "cards": cards}


def _write_example(example: Example, number: int, out: Path) -> dict[str, Path]:
    paths = {}
    for name, signal_T in example.signals.items():
        paths[name] = out / "examples" / f"{number}-{name}.wav"
        write_audio(paths[name], np.clip(signal_T, -1, 1), example.sample_rate)
    return paths


def _direction(interval: Interval) -> int:
    """1 for a clear gain, -1 for a clear loss, 0 where the interval holds zero or there is none."""
    return int(interval.low > 0) - int(interval.high < 0)


def format_score(value: float, metric: str) -> str:
    """With the decimals that its measure deserves; a dash where it is undefined."""
    if not math.isfinite(value):
        return "–"
    decimals = {"pesq": 2, "stoi": 3}.get(metric, 1)
    return f"{value:.{decimals}f}".replace("-", "−")


def _level(value_db: float) -> str:
    return f"{value_db:g}".replace("-", "−")


def format_change(change: Interval, metric: str) -> str:
    """The mean change and its interval: +0.08 (+0.05 to +0.10)."""
    mean, low, high = (format_signed(value, metric) for value in (change.mean, change.low, change.high))
    return f"{mean} ({low} to {high})"


def format_signed(value: float, metric: str) -> str:
    """Like format_score, for a change: with its sign."""
    text = format_score(value, metric)
    return text if text[0] in "−–" else f"+{text}"


def _finite(value: Any) -> Any:
    """The same with NaN and infinity as None, since JSON has neither."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _replace(path: Path, text: str) -> Path:
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path
