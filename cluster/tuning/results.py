"""What a sweep has found: a row for each setting, the best first, and the best one as a file of settings."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from cluster.settings.experiment import ConfigError, ExperimentConfig
from cluster.tuning.ledger import Ledger, Trial
from ww_models.quality import VALIDATION_MEASURES
from ww_models.whole_files import write_whole

BEST_FILE = "best.yaml"
_ORDER = ("done", "pruned", "cut", "failed")


@dataclasses.dataclass(frozen=True)
class SweepResult:
    """rows: one per setting, the one of the best `measure` first: trial, its values or change, state, scores, error.

    Where settings run with several seeds, scores are means, `runs` says of how many and `spread` is the standard
    deviation of `measure` over them.
    """

    rows: list[dict[str, Any]]
    measure: str
    folder: Path


def conclude(ledger: Ledger) -> SweepResult:
    """Writes the table into sweep.json, and best.yaml. Raises ConfigError where nothing can be said of any setting."""
    ledger.note_scores()
    settings = sorted(ledger.settings(), key=lambda runs: rank(ledger, runs))
    ledger.rows = [_row(ledger, runs) for runs in settings]
    ledger.save()
    measure = ledger.plan.metric
    if not any(measure in row for row in ledger.rows):
        errors = [row["error"] for row in ledger.rows if row["error"]]
        raise ConfigError(
            f"all {len(errors)} trials failed; the first one: {errors[0]}"
            if len(errors) == len(ledger.rows)
            else f"no trial of {ledger.folder} was ever validated: give the sweep more time"
        )
    preset = yaml.safe_dump(best_config(ledger).to_dict(), sort_keys=False)
    write_whole({ledger.folder / BEST_FILE: preset.encode()})
    return SweepResult(ledger.rows, measure, ledger.folder)


def rank(ledger: Ledger, runs: Sequence[Trial]) -> tuple[int, float]:
    """What settings are sorted by: those that are done first, of those the one with the best mean."""
    score = mean(runs, ledger.plan.metric)
    return _ORDER.index(state_of(ledger, runs)), math.inf if math.isnan(score) else -score


def best_config(ledger: Ledger) -> ExperimentConfig:
    """The settings of the best, as a run of its first seed has them."""
    runs = min(ledger.settings(), key=lambda runs: rank(ledger, runs))
    return ledger.plan.config_of(runs[0].values)


def state_of(ledger: Ledger, runs: Sequence[Trial]) -> str:
    """done, pruned, cut (by the time, or between two starts) or failed."""
    states = {run.state for run in runs}
    if "failed" in states or "pruned" in states:
        return "failed" if "failed" in states else "pruned"
    return "done" if states == {"done"} and len(runs) == ledger.plan.repeats else "cut"


def mean(runs: Sequence[Trial], measure: str) -> float:
    """Over the runs of a setting that have this measure; NaN where none has."""
    scores = [run.scores[measure] for run in runs if measure in run.scores]
    return statistics.fmean(scores) if scores else math.nan


def spread(runs: Sequence[Trial], measure: str) -> float:
    """Standard deviation over the runs of a setting; NaN of fewer than two."""
    scores = [run.scores[measure] for run in runs if measure in run.scores]
    return statistics.stdev(scores) if len(scores) > 1 else math.nan


def luck(ledger: Ledger) -> str:
    """Whether the best is better than the second by more than seeds make, in a sentence; "" where only one is done."""
    measure = VALIDATION_MEASURES[ledger.plan.metric]
    done = [runs for runs in ledger.settings() if state_of(ledger, runs) == "done"]
    done = sorted(
        (runs for runs in done if measure.name in runs[0].scores), key=lambda runs: rank(ledger, runs)
    )
    if len(done) < 2:
        return ""
    lead = mean(done[0], measure.name) - mean(done[1], measure.name)
    words = f"The best is {lead:.3f} {measure.unit}".rstrip() + " ahead of the second"
    if ledger.plan.repeats == 1:
        return f"{words}, of one run each: how much of that is luck, --repeats 3 would tell."
    variances = [spread(runs, measure.name) ** 2 / len(runs) for runs in done]
    error = 2 * math.sqrt(2 * statistics.fmean(variances))
    verdict = "more than seeds alone make" if lead > error else "no more than seeds alone may make"
    return (
        f"{words}, which is {verdict} (two standard errors of a difference: {error:.3f}, "
        f"from {ledger.plan.repeats} seeds of each of {len(done)} settings)."
    )


def _row(ledger: Ledger, runs: Sequence[Trial]) -> dict[str, Any]:
    plan = ledger.plan
    name = runs[0].name if plan.repeats == 1 else runs[0].name.removesuffix("_seed0")
    row: dict[str, Any] = {"trial": name, **plan.in_words(runs[0].values), "state": state_of(ledger, runs)}
    scores = {measure: mean(runs, measure) for measure in VALIDATION_MEASURES}
    row |= {measure: score for measure, score in scores.items() if not math.isnan(score)}
    if plan.repeats > 1:
        deviation = spread(runs, plan.metric)
        row |= {"runs": len(runs), "spread": None if math.isnan(deviation) else deviation}
    return row | {"error": next((run.error for run in runs if run.error), "")}
