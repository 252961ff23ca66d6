"""What is tried next is a function of the plan and of what came before, whatever was cut in between."""

from __future__ import annotations

import itertools
import math

import pytest

from cluster.tuning.plan import Plan, plan_of_space
from cluster.tuning.search import Outcome, importance, next_values
from tests.cluster.tuning.made_sweeps import CONFIG, pesq_of

SPACE = [
    "loss.l1_weight=0..4",
    "loss.stft_weight=0.1..5:log",
    "training.batch_size=2..8",
    "mixing.crop_s=1,2",
]


def plan(search: str, trials: int = 30, space: list[str] = SPACE) -> Plan:
    return plan_of_space(CONFIG, space, metric="pesq", search=search, trials=trials)


def searched(of: Plan) -> list[Outcome]:
    """All settings of a plan, each scored before the next is drawn."""
    outcomes: list[Outcome] = []
    while (values := next_values(of, outcomes)) is not None:
        outcomes.append(Outcome(values=values, state="done", score=pesq_of(values)))
    return outcomes


@pytest.mark.parametrize("search", ["random", "tpe"])
def test_draws_lie_in_the_space_and_differ(search: str) -> None:
    outcomes = searched(plan(search, 15))
    assert len(outcomes) == 15
    for outcome in outcomes:
        values = outcome.values
        assert 0 <= values["loss.l1_weight"] <= 4
        assert 0.1 <= values["loss.stft_weight"] <= 5
        assert values["training.batch_size"] in range(2, 9)
        assert type(values["training.batch_size"]) is int
        assert values["mixing.crop_s"] in (1, 2)
    assert len({outcome.values["loss.l1_weight"] for outcome in outcomes}) == 15
    assert searched(plan(search, 15)) == outcomes, "the same plan draws the same"


def test_tpe_finds_better_settings_than_chance() -> None:
    of_tpe, of_chance = (
        sorted((one.score for one in searched(plan(search, 40))), reverse=True)
        for search in ("tpe", "random")
    )
    assert sum(of_tpe[:15]) > sum(of_chance[:15])


def test_settings_that_still_run_are_not_drawn_again() -> None:
    running: list[Outcome] = searched(plan("tpe", 12))
    for _ in range(4):
        values = next_values(plan("tpe"), running)
        assert values is not None
        assert values not in [one.values for one in running]
        running.append(Outcome(values=values, state="running"))


def test_failed_and_pruned_settings_are_no_hindrance() -> None:
    done = searched(plan("tpe", 12))
    failed = Outcome(values=done[0].values, state="failed")
    pruned = Outcome(values=done[1].values, state="pruned", score=1.2, step=10)
    undefined = Outcome(values=done[2].values, state="done", score=math.nan)
    assert next_values(plan("tpe"), [*done, failed, pruned, undefined]) is not None


def test_a_grid_has_all_its_points_once() -> None:
    grid = plan("grid", space=["loss.l1_weight=0..2/3", "training.batch_size=2,4"])
    points = [tuple(outcome.values.values()) for outcome in searched(grid)]
    assert points == list(itertools.product((0, 1, 2), (2, 4)))


def test_importance_is_that_of_what_decides() -> None:
    settings = searched(plan("random", 40, ["loss.l1_weight=0..4", "mixing.crop_s=1..2"]))
    shares = importance(plan("random", space=["loss.l1_weight=0..4", "mixing.crop_s=1..2"]), settings)
    assert list(shares) == ["loss.l1_weight", "mixing.crop_s"]
    assert shares["loss.l1_weight"] > 0.8
    assert sum(shares.values()) == pytest.approx(1)
    assert importance(plan("random"), settings[:3]) == {}, "too few to tell"
