"""Which setting a sweep tries next, from what has come of those before: points of a grid, draws, or Optuna's TPE.

Nothing is remembered between two calls. What comes next is a function of the plan and of the settings so far, so a
sweep that was cut draws what it would have drawn.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState, create_trial

from cluster.tuning.plan import Plan

State = Literal["running", "done", "pruned", "failed"]
_STATES = {
    "running": TrialState.RUNNING,
    "done": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}
_NUM_AT_RANDOM = 4  # settings that TPE begins with
LEAST_FOR_IMPORTANCE = 6  # settings that are done


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What has come of a setting so far. score: of the objective, NaN where there is none; step: at which it stands."""

    values: Mapping[str, Any]
    state: State
    score: float = math.nan
    step: int = 0


def next_values(plan: Plan, outcomes: Sequence[Outcome]) -> dict[str, Any] | None:
    """The values of the next setting by path; None where the plan has no more. outcomes: of all so far, in order."""
    number = len(outcomes)
    if number >= plan.num_settings:
        return None
    if plan.search == "grid":
        points = itertools.product(*(dimension.choices for dimension in plan.dimensions))
        point = next(itertools.islice(points, number, None))
        return dict(zip((dimension.path for dimension in plan.dimensions), point, strict=True))
    # A seed for each draw: a sampler that goes on draws what one that was never stopped draws.
    seed = int(np.random.SeedSequence([plan.configs[""].seed, number]).generate_state(1)[0])
    if plan.search == "random":
        sampler: optuna.samplers.BaseSampler = optuna.samplers.RandomSampler(seed=seed)
    else:  # settings that still run are taken for bad ones, or all that run at a time would be the same
        sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True, n_startup_trials=_NUM_AT_RANDOM)
    study = _study(plan, outcomes, sampler)
    return dict(study.ask({one.path: one.distribution for one in plan.dimensions}).params)


def importance(plan: Plan, outcomes: Sequence[Outcome]) -> dict[str, float]:
    """How much each setting decides whether the objective is among the better ones: shares of 1 by path, largest first.

    PED-ANOVA (Watanabe, Bansal and Hutter, 2023). Empty where too few settings are done, or all are equally good.
    """
    done = [one for one in outcomes if one.state == "done" and math.isfinite(one.score)]
    if len(plan.dimensions) < 2 or len(done) < LEAST_FOR_IMPORTANCE or len({one.score for one in done}) < 2:
        return {}
    study = _study(plan, done, optuna.samplers.RandomSampler())
    shares = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    return shares if all(math.isfinite(share) for share in shares.values()) else {}


def _study(
    plan: Plan, outcomes: Sequence[Outcome], sampler: optuna.samplers.BaseSampler
) -> optuna.study.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it tells of each study
    study = optuna.create_study(direction="maximize", sampler=sampler)
    distributions = {one.path: one.distribution for one in plan.dimensions}
    for outcome in outcomes:
        state, told = _STATES[outcome.state], dict[str, Any]()
        if math.isnan(outcome.score):
            state = TrialState.FAIL if state in (TrialState.COMPLETE, TrialState.PRUNED) else state
        elif state == TrialState.COMPLETE:
            told["value"] = outcome.score
        elif state == TrialState.PRUNED:
            told["intermediate_values"] = {outcome.step: outcome.score}
        study.add_trial(
            create_trial(params=dict(outcome.values), distributions=distributions, state=state, **told)
        )
    return study
