"""The page of a sweep, sweep.html: one file that opens anywhere, without a network."""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import markupsafe

from cluster.pages import page_environment
from cluster.runs.result import spoken_duration
from cluster.tuning.figures import (
    NUM_NAMED,
    curves,
    heat_map,
    heat_map_pair,
    importance_bars,
    parallel_coordinates,
)
from cluster.tuning.ledger import Ledger, Trial
from cluster.tuning.results import BEST_FILE, luck, mean, rank, spread, state_of
from cluster.tuning.search import Outcome, importance
from ww_models.perceptual import pesq_note
from ww_models.quality import VALIDATION_MEASURES
from ww_models.whole_files import write_whole

PAGE_FILE = "sweep.html"
_SEARCHES = {
    "grid": "every point of the grid",
    "random": "drawn at random",
    "tpe": "drawn by a tree-structured Parzen estimator, which looks more where results were good (Optuna)",
}
_PRUNES = {
    "none": "none: each run was to go to its end",
    "asha": "ASHA: at 1/27, 1/9 and 1/3 of its length a run ends unless it is among the best third there so far",
    "median": "median rule: a run ends once its best is below the median of what the others had on average by then",
}


def write_page(ledger: Ledger) -> Path:
    """Writes sweep.html into the sweep's folder, and returns its path. At least one run must have a score."""
    path = ledger.folder / PAGE_FILE
    write_whole({path: render_page(ledger).encode()})
    return path


def render_page(ledger: Ledger) -> str:
    """The whole page as one string without references to anything outside it."""
    environment = page_environment(Path(__file__).parent)
    plan, metric = ledger.plan, VALIDATION_MEASURES[ledger.plan.metric]
    ranked = sorted(ledger.settings(), key=lambda runs: rank(ledger, runs))
    rows = [_row(ledger, runs) for runs in ranked]
    named = [runs[0].setting for runs in ranked if ledger.curves[runs[0].name]][:NUM_NAMED]
    return environment.get_template("sweep.html.jinja").render(
        plan=plan,
        ledger=ledger,
        metric=metric,
        measures=VALIDATION_MEASURES,
        columns=list(plan.in_words(ranked[0][0].values)),
        rows=rows,
        best=rows[0],
        headline=_headline(ledger, ranked),
        luck=luck(ledger),
        named=[row["name"] for row in rows if row["setting"] in named],
        best_file=ledger.folder / BEST_FILE,
        note=pesq_note(ledger.corpus.sample_rate),
        search="as they are listed" if plan.is_of_tries else _SEARCHES[plan.search],
        pruning=_PRUNES[plan.prune],
        spent=spoken_duration(ledger.spent_s),
        length=_length(ledger),
        made=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        figures={name: markupsafe.Markup(svg) for name, svg in _figures(ledger, named).items()},
        pair=heat_map_pair(ledger, scored) if (scored := _scored(ledger)) else None,
    )


def _scored(ledger: Ledger) -> list[Outcome]:
    """Settings whose objective can be compared: those that are done; without any, all that have one."""
    found = [one for one in ledger.outcomes() if math.isfinite(one.score)]
    return [one for one in found if one.state == "done"] or found


def _figures(ledger: Ledger, named: Sequence[int]) -> dict[str, str]:
    figures, scored = {"curves": curves(ledger, named)}, _scored(ledger)
    if not scored:  # of no setting all seeds are done
        return figures
    if pair := heat_map_pair(ledger, scored):
        figures["heat"] = heat_map(ledger, scored, pair)
    if shares := importance(ledger.plan, scored):
        figures["importance"] = importance_bars(shares)
    if len(ledger.plan.dimensions) > 1 and len(scored) > 1:
        figures["parallel"] = parallel_coordinates(ledger, scored)
    return figures


def _headline(ledger: Ledger, ranked: Sequence[Sequence[Trial]]) -> tuple[str, str]:
    """(the best settings, their score), in words."""
    runs, metric = ranked[0], VALIDATION_MEASURES[ledger.plan.metric]
    words = ", ".join(
        f"{name} {_value(value)}" if name != "change" else str(value)
        for name, value in ledger.plan.in_words(runs[0].values).items()
    )
    score = _score(mean(runs, metric.name), metric.digits + 1)
    over = f", the mean of {len(runs)} seeds (± {spread(runs, metric.name):.3f})" if len(runs) > 1 else ""
    return (
        f"Best of {len(ranked)}: {words}",
        f"{metric.title} {score} {metric.unit}".rstrip() + f" on the validation mixtures{over}.",
    )


def _row(ledger: Ledger, runs: Sequence[Trial]) -> dict[str, Any]:
    name = runs[0].name.removesuffix("_seed0") if ledger.plan.repeats > 1 else runs[0].name
    points = [ledger.curves[run.name][-1] for run in runs if ledger.curves[run.name]]
    deviation = spread(runs, ledger.plan.metric)
    return {
        "name": name,
        "setting": runs[0].setting,
        "values": [_value(value) for value in ledger.plan.in_words(runs[0].values).values()],
        "scores": {
            one.name: _score(mean(runs, one.name), one.digits + 1) for one in VALIDATION_MEASURES.values()
        },
        "spread": "" if math.isnan(deviation) else f"± {deviation:.3f}",
        "state": state_of(ledger, runs),
        "step": max((int(point["step"]) for point in points), default=0),
        "trained": spoken_duration(max((point["trained_s"] for point in points), default=0.0)),
        "error": next((run.error for run in runs if run.error), ""),
    }


def _length(ledger: Ledger) -> str:
    lengths = [one.training for one in ledger.plan.configs.values()]
    if ledger.plan.is_equal_time:
        minutes = {f"{one.budget_minutes:g}" for one in lengths}
        return f"{' or '.join(sorted(minutes))} minutes of training each, with which the learning rate falls"
    steps = {str(one.max_steps) for one in lengths if one.max_steps}
    return f"{' or '.join(sorted(steps))} steps each" if steps else "as many epochs each"


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _score(value: float, digits: int) -> str:
    return f"{value:.{digits}f}".replace("-", "−") if math.isfinite(value) else "–"
