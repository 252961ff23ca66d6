"""report.html as one string: what its template shows, and the scripts in it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import markupsafe

from cluster.evaluation.listening.stimuli import ANCHORS_HZ
from cluster.evaluation.page.figures import (
    NUM_SERIES,
    curves_figure,
    distribution_figure,
    improvement_figure,
    quality_cost_figure,
)
from cluster.evaluation.page.scatter import MAX_CLIPS, scatter_data, static_scatter
from cluster.evaluation.page.sounds import Clip, choose_typical, make_clips
from cluster.evaluation.scores import CLEAN, NOISY, STREAM, EvaluationReport, SystemResult
from cluster.evaluation.summaries import ScoreTable
from cluster.evaluation.verdict import (
    ALPHA,
    best_system,
    deciding_measures,
    differences,
    direction,
    format_decibels,
    format_interval,
    format_score,
    verdict,
)
from cluster.pages import page_environment
from cluster.runs.curves import Curves, read_curves
from cluster.runs.folder import BUNDLE_FOLDER
from ww_models.quality import MEASURES

WAYS = {
    "noise": "Kind of noise",
    "speaker": "Speaker",
    "level": "Level of the input",
    "dataset": "Where the clips are from",
}
MAX_ROWS, NUM_ENDS = 30, 10  # of a table of buckets; of a longer one so many of each end
_HERE = Path(__file__).parent
_LISTENING_PAGE = _HERE.parent / "listening" / "page"


def render_html(report: EvaluationReport) -> str:
    """The whole page without references to anything outside it."""
    environment = page_environment(_HERE)
    environment.filters |= {"score": format_score, "interval": format_interval}
    environment.filters |= {"decibels": format_decibels}
    environment.globals |= {"direction": direction, "mark": _marks(report)}
    systems = [result for result in report.systems if result.name != NOISY]
    deciding = deciding_measures(report)
    headline, figures = verdict(report)
    return environment.get_template("report.html.jinja").render(
        report=report,
        systems=systems,
        models=[result for result in systems if result.harm],
        best=best_system(report),
        noisy=report.system(NOISY),
        headline=headline,
        figures=figures,
        measures={name: MEASURES[name] for name in report.measures},
        deciding={name: MEASURES[name] for name in deciding},
        by_snr=len(report.system(NOISY).by.get("snr", ())) > 0,
        ways=_ways(report),
        differences=differences(report),
        alpha=ALPHA,
        num_series=NUM_SERIES,
        undefined=_undefined(report),
        stimuli={NOISY: "Noisy, as it came", CLEAN: "Clean speech, hidden"} | _anchors(),
        scripts=_scripts(),
        **_pictures(report, systems),
        **_clips(report),
    )


def _pictures(report: EvaluationReport, systems: list[SystemResult]) -> dict[str, Any]:
    deciding = deciding_measures(report)
    table = score_table(report)
    names = [result.name for result in systems]
    svgs = {
        "quality_cost": quality_cost_figure(report.systems, deciding[0]),
        "distribution": distribution_figure(table, names, deciding),
        "scatter": static_scatter(report, table),
    }
    if report.system(NOISY).by.get("snr"):
        svgs["improvement"] = improvement_figure(systems, report.measures)
    if runs := run_curves(report):
        colors = {run: names.index(system) for run, (system, _) in runs.items()}
        svgs["training"] = curves_figure({run: curves for run, (_, curves) in runs.items()}, colors)
    return {
        "svg": {name: markupsafe.Markup(svg) for name, svg in svgs.items()},
        "runs": {run: names.index(system) for run, (system, _) in runs.items()},
        "scatter_data": scatter_data(report, table),
        "num_points": min(MAX_CLIPS, report.num_clips),
    }


def score_table(report: EvaluationReport) -> ScoreTable:
    """All scores as arrays, several trainings of one system as their mean."""
    groups = {result.name: result.members for result in report.systems if result.members}
    return ScoreTable.of(report.scores, groups)


def run_curves(report: EvaluationReport) -> dict[str, tuple[str, Curves]]:
    """{name: (system, curves)} of the runs whose folder is where their bundle lies; others are left out."""
    found: dict[str, tuple[str, Curves]] = {}
    for result in report.systems:
        if result.name.endswith(STREAM):
            continue
        models = result.seeds or ((result.model,) if result.model else ())
        for number, model in enumerate(models, start=1):
            folder = Path(model.path).resolve()
            try:
                curves = read_curves(folder.parent) if folder.name == BUNDLE_FOLDER else None
            except (OSError, ValueError, KeyError, TypeError):  # no run, or a damaged one
                continue
            if curves and curves["val"]:
                name = f"{result.name} seed {number}" if result.seeds else result.name
                found[name] = result.name, curves
    return found


def _clips(report: EvaluationReport) -> dict[str, list[Clip]]:
    """What is heard: typical clips, and the worst and the best, in the order in which they are listed."""
    best = best_system(report)
    typical = choose_typical(report.examples)
    clips = make_clips([*typical, *report.extremes])
    extremes = {clip.example.clip_id: clip for clip in clips[len(typical) :]}
    scores = {score.clip_id: score for score in report.scores if score.system == NOISY}

    def listed(ranked: tuple[Any, ...]) -> list[Any]:
        return [(score, scores[score.clip_id], extremes.get(score.clip_id)) for score in ranked]

    return {"typical": clips[: len(typical)], "worst": listed(best.worst), "most": listed(best.best)}


def _ways(report: EvaluationReport) -> list[dict[str, Any]]:
    """Tables of buckets. rows: places of those that are shown; note: what is left out, in words."""
    best, measure = best_system(report), deciding_measures(report)[0]
    sign = 1 if MEASURES[measure].higher_is_better else -1
    ways = []
    for way, title in WAYS.items():
        buckets = best.by.get(way, ())
        if len(buckets) < 2:
            continue
        rows, note = list(range(len(buckets))), ""
        if len(buckets) > MAX_ROWS:
            changes = [sign * bucket.improvements[measure].mean for bucket in buckets]
            in_order = sorted(rows, key=lambda row: -changes[row] if math.isfinite(changes[row]) else 0.0)
            rows = [*in_order[:NUM_ENDS], *in_order[-NUM_ENDS:]]
            most = f"the {NUM_ENDS} where {best.name} adds most {MEASURES[measure].title}"
            note = (
                f"Of {len(buckets)}, {most}, then the {NUM_ENDS} where it adds least; all are in report.json."
            )
        ways.append({"name": way, "title": title, "rows": rows, "note": note})
    return ways


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


def _anchors() -> dict[str, str]:
    return {name: f"Clean speech below {hz / 1000:g} kHz (anchor)" for name, hz in ANCHORS_HZ.items()}


def _scripts() -> dict[str, markupsafe.Markup]:
    """The listening test's player and its audio thread, and what the page does with them."""
    files = {
        "worklet": _LISTENING_PAGE / "worklet.js",
        "player": _LISTENING_PAGE / "player.js",
        "clips": _HERE / "clips.js",
        "scatter": _HERE / "scatter.js",
    }
    return {name: markupsafe.Markup(path.read_text(encoding="utf-8")) for name, path in files.items()}
