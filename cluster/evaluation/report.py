"""Writes an evaluation for people (report.html, one file that opens anywhere) and for programs (report.json).

report.json: {"format": "wave-wizard-evaluation", "format_version": 1, ...} followed by the fields of
EvaluationReport as cluster/evaluation/scores.py documents them, undefined numbers as null:

    verdict                        one sentence
    notes[]                        what was converted to be scored
    corpus_uri, manifest_hash, sample_rate (Hz), num_mixtures, clip_s, machine, created_at, duration_s, config
    systems[]                      "noisy" first
      name, model                  model: null for noisy, else bundle_id, real_time_factor, latency_ms, ...
      overall, by_snr[]            snr_db (null: all), num_mixtures,
        means.MEASURE                  mean, num_defined, num_undefined
        improvements.MEASURE           mean, low, high, num_pairs
      best[], worst[]              entries like those of scores[]
    scores[]                       mixture_id, mixture_snr_db, speaker, noise_id, system, a number per MEASURE
    examples[]                     mixture_id, mixture_snr_db, speaker, noise_id, sample_rate (Hz);
                                   audio {name: file, from the report's folder}

MEASURE is a name in ww_models.quality.MEASURES.
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

from cluster.evaluation.figures import NUM_SERIES, format_level, improvement_figure, spectrogram_figures
from cluster.evaluation.scores import CLEAN, NOISY, EvaluationReport, Example, Interval, SystemResult
from ww_data import write_audio
from ww_models.quality import MEASURES
from ww_models.whole_files import write_whole

FORMAT, FORMAT_VERSION = "wave-wizard-evaluation", 1
_DECIDING = ("pesq", "si_sdr_db")  # measures, the first one first


def write_report(report: EvaluationReport, out_dir: str | os.PathLike[str]) -> Path:
    """Writes report.html, report.json and examples/*.wav into `out_dir`, which is made if needed.

    Returns the path of report.html.
    """
    out = Path(out_dir)
    (out / "examples").mkdir(parents=True, exist_ok=True)
    audio = [_write_example(example, number, out) for number, example in enumerate(report.examples, start=1)]
    content = json.dumps(_to_dict(report, audio), indent=1, ensure_ascii=False, allow_nan=False)
    html = out / "report.html"
    write_whole({html: render_html(report).encode(), out / "report.json": content.encode()})
    return html


def _write_example(example: Example, number: int, out: Path) -> dict[str, str]:
    """Writes an example's signals; returns signal name -> file, from `out`."""
    files = {name: f"examples/{number}-{name}.wav" for name in example.signals}
    for name, signal_T in example.signals.items():
        write_audio(out / files[name], np.clip(signal_T, -1, 1), example.sample_rate)
    return files


def _to_dict(report: EvaluationReport, audio: list[dict[str, str]]) -> dict[str, Any]:
    """The content of report.json. audio: for each example, signal name -> file."""
    examples = []
    for example, files in zip(report.examples, audio, strict=True):
        facts = {f.name: getattr(example, f.name) for f in dataclasses.fields(example) if f.name != "signals"}
        examples.append(facts | {"audio": files})
    content = dataclasses.asdict(dataclasses.replace(report, examples=()))
    head = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "verdict": " ".join(verdict(report)),
        "notes": report.notes,
    }
    return _finite(head | content | {"examples": examples})


def best_system(report: EvaluationReport) -> SystemResult:
    """The bundle that adds most PESQ, then most SI-SDR."""

    def gains(result: SystemResult) -> list[float]:
        means = (result.overall.improvements[measure].mean for measure in _DECIDING)
        return [-math.inf if math.isnan(mean) else mean for mean in means]

    return max((result for result in report.systems if result.name != NOISY), key=gains)


def verdict(report: EvaluationReport) -> tuple[str, str]:
    """(what came out, the figures behind it), for people, about the best bundle."""
    best = best_system(report)
    changes = {measure: best.overall.improvements[measure] for measure in _DECIDING}
    directions = {_direction(change) for change in changes.values()}
    if directions == {0}:
        outcome = "makes no clear difference"
    elif directions >= {1, -1}:
        outcome = "gives a mixed result"
    else:
        outcome = f"makes noisy speech {'cleaner' if 1 in directions else 'worse'}"
        if 0 in directions:
            outcome += " by one measure, with no clear change by the other"
    rival = " (the best of those compared)" if len(report.systems) > 2 else ""
    unseen = " of speakers and noises new to it" if best.model and best.model.same_corpus else ""
    before, after = report.system(NOISY).overall.means, best.overall.means
    confidence = f"{100 * report.config.confidence:g} % interval"
    figures = []
    for name, change in changes.items():
        measure = MEASURES[name]
        old, new = (format_score(means[name].mean, name) for means in (before, after))
        mean, low, high = format_interval(change, name)
        new = f"{new} {measure.unit}".rstrip()
        figures.append(f"{measure.title} goes from {old} to {new} ({mean}; {confidence} {low} to {high})")
    return (
        f"{best.name}{rival} {outcome}.",
        f"Over {report.num_mixtures} mixtures{unseen}, {' and '.join(figures)}.",
    )


def render_html(report: EvaluationReport) -> str:
    """The whole page as one string without references to anything outside it."""
    folder = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=folder, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"score": format_score, "interval": format_interval}
    environment.filters |= {"direction": _direction, "level": format_level}
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
        measures=MEASURES,
        num_series=NUM_SERIES,
        undefined=_undefined(report),
        improvement=markupsafe.Markup(improvement_figure(bundles)),
        examples=[_example_cards(example) for example in report.examples],
    )


def _undefined(report: EvaluationReport) -> list[str]:
    """Which scores could not be computed, so that no clip disappears unseen."""
    return [
        f"{measure.title} of {result.name}: {count} of {report.num_mixtures} mixtures"
        for result in report.systems
        for measure in MEASURES.values()
        if (count := result.overall.means[measure.name].num_undefined)
    ]


def _example_cards(example: Example) -> dict[str, Any]:
    """What the page shows of an example: picture and sound of each signal."""
    figures = spectrogram_figures(example.signals, example.sample_rate)
    titles = {NOISY: "Noisy", CLEAN: "Clean (what it should be)"}
    cards = []
    for name, signal_T in example.signals.items():
        buffer = io.BytesIO()
        write_audio(buffer, np.clip(signal_T, -1, 1), example.sample_rate)
        card = {
            "title": titles.get(name, f"Enhanced: {name}"),
            "label": f"{name}, {example.mixture_id}",
            "figure": markupsafe.Markup(figures[name]),
            "audio": f"data:audio/wav;base64,{base64.b64encode(buffer.getvalue()).decode()}",
        }
        cards.append(card)
    return {"example": example, "cards": cards}


def _direction(change: Interval) -> int:
    """1 for a clear gain, -1 for a clear loss, 0 where the interval holds zero or there is none."""
    return int(change.low > 0) - int(change.high < 0)


def format_score(value: float, measure: str) -> str:
    """With the digits that its measure deserves; a dash where it is undefined."""
    if not math.isfinite(value):
        return "–"
    return f"{value:.{MEASURES[measure].digits}f}".replace("-", "−")


def format_interval(change: Interval, measure: str) -> tuple[str, ...]:
    """Mean, low and high of a change, with their signs: ("+0.08", "+0.05", "+0.10")."""
    texts = (format_score(value, measure) for value in (change.mean, change.low, change.high))
    return tuple(text if text[0] in "−–" else f"+{text}" for text in texts)


def _finite(value: Any) -> Any:
    """The same with NaN and infinity as None, since JSON has neither."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
