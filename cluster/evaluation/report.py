"""Writes an evaluation for people (report.html, one file that opens anywhere) and for programs (see `files`)."""

from __future__ import annotations

import base64
import io
import math
import os
from pathlib import Path
from typing import Any

import markupsafe
import numpy as np

from cluster.evaluation.figures import (
    NUM_SERIES,
    improvement_figure,
    quality_cost_figure,
    spectrogram_figures,
)
from cluster.evaluation.files import report_json, scores_parquet
from cluster.evaluation.scores import CLEAN, NOISY, STREAM, EvaluationReport, Example, Interval, SystemResult
from cluster.pages import page_environment
from ww_data import write_audio
from ww_models.quality import MEASURES
from ww_models.whole_files import write_whole

_DECIDING = ("pesq", "si_sdr_db")  # measures, the first one first
_DECIDING_WITHOUT_CLEAN = ("dnsmos_ovrl",)
ALPHA = 0.05
WAYS = {
    "noise": "Kind of noise",
    "speaker": "Speaker",
    "level": "Level of the input",
    "dataset": "Where the clips are from",
}


def write_report(report: EvaluationReport, out_dir: str | os.PathLike[str]) -> Path:
    """Writes report.html, report.json, scores.parquet and examples/*.wav into `out_dir`, which is made if needed.

    Returns the path of report.html.
    """
    out = Path(out_dir)
    (out / "examples").mkdir(parents=True, exist_ok=True)
    audio = [_write_example(example, number, out) for number, example in enumerate(report.examples, start=1)]
    html = out / "report.html"
    write_whole(
        {
            html: render_html(report).encode(),
            out / "report.json": report_json(report, " ".join(verdict(report)), audio),
            out / "scores.parquet": scores_parquet(report),
        }
    )
    return html


def _write_example(example: Example, number: int, out: Path) -> dict[str, str]:
    """Writes an example's signals; returns signal name -> file, from `out`."""
    files = {name: f"examples/{number}-{name}.wav" for name in example.signals}
    for name, signal_T in example.signals.items():
        write_audio(out / files[name], np.clip(signal_T, -1, 1), example.sample_rate)
    return files


def deciding_measures(report: EvaluationReport) -> tuple[str, ...]:
    """Those that the verdict goes by."""
    return tuple(measure for measure in (*_DECIDING, *_DECIDING_WITHOUT_CLEAN) if measure in report.measures)[
        :2
    ]


def best_system(report: EvaluationReport) -> SystemResult:
    """The system that adds most PESQ, then most SI-SDR; without clean sides, most of what is measured instead."""

    def gains(result: SystemResult) -> list[float]:
        means = (result.overall.improvements[measure].mean for measure in deciding_measures(report))
        return [-math.inf if math.isnan(mean) else mean for mean in means]

    rivals = [
        result for result in report.systems if result.name != NOISY and not result.name.endswith(STREAM)
    ]
    return max(rivals, key=gains)


def verdict(report: EvaluationReport) -> tuple[str, str]:
    """(what came out, the figures behind it), for people, about the best system."""
    best = best_system(report)
    changes = {measure: best.overall.improvements[measure] for measure in deciding_measures(report)}
    directions = {direction(change, measure) for measure, change in changes.items()}
    if directions == {0}:
        outcome = "makes no clear difference"
    elif directions >= {1, -1}:
        outcome = "gives a mixed result"
    else:
        outcome = f"makes noisy speech {'cleaner' if 1 in directions else 'worse'}"
        if 0 in directions:
            outcome += " by one measure, with no clear change by the other"
    num_compared = sum(not result.name.endswith(STREAM) for result in report.systems) - 1
    rival = " (the best of those compared)" if num_compared > 1 else ""
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
        f"Over {report.num_clips} clips{unseen}, {' and '.join(figures)}.",
    )


def differences(report: EvaluationReport) -> list[str]:
    """What is sure among the systems by the deciding measures, a line for each pair."""
    lines = []
    for found in report.comparisons:
        if found.measure not in deciding_measures(report):
            continue
        mean, low, high = format_interval(found.difference, found.measure)
        sure = (
            f"p {max(found.p_holm, 0.001):.3f}"
            if found.p_holm < ALPHA
            else f"no sure difference, p {found.p_holm:.2f}"
        )
        lines.append(
            f"{MEASURES[found.measure].label}: {found.a} − {found.b} {mean} ({low} to {high}; {sure})"
        )
    return lines


def render_html(report: EvaluationReport) -> str:
    """The whole page as one string without references to anything outside it."""
    environment = page_environment(Path(__file__).parent)
    environment.filters |= {"score": format_score, "interval": format_interval}
    environment.filters |= {"decibels": format_decibels}
    environment.globals |= {"direction": direction, "mark": _marks(report)}
    systems = [result for result in report.systems if result.name != NOISY]
    headline, figures = verdict(report)
    by_snr = len(report.system(NOISY).by.get("snr", ())) > 0
    return environment.get_template("report.html.jinja").render(
        report=report,
        systems=systems,
        models=[result for result in systems if result.harm],
        best=best_system(report),
        noisy=report.system(NOISY),
        noisy_scores={score.clip_id: score for score in report.scores if score.system == NOISY},
        headline=headline,
        figures=figures,
        measures={name: MEASURES[name] for name in report.measures},
        deciding={name: MEASURES[name] for name in deciding_measures(report)},
        ways={way: title for way, title in WAYS.items() if len(report.system(NOISY).by.get(way, ())) > 1},
        differences=differences(report),
        alpha=ALPHA,
        num_series=NUM_SERIES,
        undefined=_undefined(report),
        improvement=markupsafe.Markup(improvement_figure(systems, report.measures)) if by_snr else "",
        quality_cost=markupsafe.Markup(quality_cost_figure(report.systems, deciding_measures(report)[0])),
        examples=[_example_cards(example) for example in report.examples],
    )


def _marks(report: EvaluationReport) -> dict[tuple[str, str], str]:
    """By (system, measure): "best", or "as good" where the difference to the best is not sure; else nothing."""
    marks = {}
    for leader in report.leaders:
        if leader.behind:
            marks[leader.best, leader.measure] = "best"
        marks |= {(name, leader.measure): "as good" for name, p in leader.behind.items() if p >= ALPHA}
    return marks


def _undefined(report: EvaluationReport) -> list[str]:
    """Which scores could not be computed, so that no clip disappears unseen."""
    return [
        f"{MEASURES[found.measure].title} of {found.system}: {len(found.clips)} of {report.num_clips} clips "
        f"({', '.join(found.clips[:3])}{', ...' if len(found.clips) > 3 else ''})"
        for found in report.undefined
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
            "label": f"{name}, {example.clip_id}",
            "figure": markupsafe.Markup(figures[name]),
            "audio": f"data:audio/wav;base64,{base64.b64encode(buffer.getvalue()).decode()}",
        }
        cards.append(card)
    return {"example": example, "cards": cards}


def direction(change: Interval, measure: str) -> int:
    """1 for a clear gain, -1 for a clear loss, 0 where the interval holds zero or there is none."""
    sign = int(change.low > 0) - int(change.high < 0)
    return sign if MEASURES[measure].higher_is_better else -sign


def format_score(value: float, measure: str) -> str:
    """With the digits that its measure deserves; a dash where it is undefined."""
    if not math.isfinite(value):
        return "–"
    return f"{value:.{MEASURES[measure].digits}f}".replace("-", "−")


def format_interval(change: Interval, measure: str) -> tuple[str, ...]:
    """Mean, low and high of a change, with their signs: ("+0.08", "+0.05", "+0.10")."""
    texts = (format_score(value, measure) for value in (change.mean, change.low, change.high))
    return tuple(text if text[0] in "−–" else f"+{text}" for text in texts)


def format_decibels(value: float) -> str:
    """−62.3"""
    return f"{value:.1f}".replace("-", "−") if math.isfinite(value) else "–"
