"""Spaces and plans are read strictly; settings of a trial are checked like any other."""

from __future__ import annotations

import pytest

from cluster.settings.experiment import ConfigError, load_config
from cluster.tuning.plan import plan_from_dict, plan_of_space
from cluster.tuning.space import parse_space, with_settings

TINY = load_config("tiny", ["training.max_steps=4", "training.validate_every_steps=2"])


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("loss.l1_wieght=0..5", "did you mean loss.l1_weight?"),
        ("loss.l1_weight", "--space takes KEY=LOW..HIGH"),
        ("loss.l1_weight=5..0", "must run upwards"),
        ("loss.l1_weight=a..b", "not LOW..HIGH with two numbers"),
        ("loss.l1_weight=0..5:log", "starts above 0"),
        ("loss.l1_weight=0..5:sqrt", "may end in ':log'"),
        ("loss.l1_weight=0..inf", "two finite numbers"),
        ("loss.l1_weight=1,", "takes a value of type float"),
        ("loss.l1_weight=[1,2]", "is not a value"),
        ("loss.l1_weight=a,b", "takes a value of type float"),
        ("loss.l1_weight=-1..2", "give a finite number of at least 0"),
        ("training.batch_size=1.5..4", "takes whole numbers"),
        ("training.batch_size=0..4", "must be at least 1"),
        ("loss.l1_weight=0..5/1", "takes at least 2, as 0..5/5"),
        ("training.score=pesq,stoi", "is what --metric is for"),
        ("seed=1,2", "is what --repeats is for"),
        ("resources.num_workers=1,2", "does not decide what a run learns"),
        ("tracking.clearml=never,offline", "does not decide what a run learns"),
    ],
)
def test_wrong_spaces_are_refused_in_plain_words(expression: str, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_space([expression], TINY)
    assert words in str(error.value)


def test_a_space_without_any_loss_is_refused() -> None:
    with pytest.raises(ConfigError, match="nothing to train on"):
        parse_space(["loss.l1_weight=0..0", "loss.stft_weight=0,0"], TINY)
    parse_space(["loss.l1_weight=0..0", "loss.stft_weight=0..1"], TINY)


def test_points_of_a_range_are_its_ends_and_what_lies_between() -> None:
    space = [
        "loss.l1_weight=0..1/5",
        "optimizer.learning_rate=1e-4..1e-2/3:log",
        "training.batch_size=1..8/3",
    ]
    linear, logarithmic, whole = parse_space(space, TINY)
    assert linear.choices == (0, 0.25, 0.5, 0.75, 1)
    assert logarithmic.choices == (1e-4, 1e-3, 1e-2)
    assert whole.choices == (1, 4, 8)
    assert all(type(value) is int for value in whole.choices)


def test_a_setting_is_given_once() -> None:
    with pytest.raises(ConfigError, match=r"given twice: 0\.\.1 and 0\.\.2"):
        parse_space(["loss.l1_weight=0..1", "loss.l1_weight=0..2"], TINY)


def test_settings_of_a_trial_are_checked_like_any_other() -> None:
    assert with_settings(TINY, {"loss.l1_weight": 2.5}).loss.l1_weight == 2.5
    with pytest.raises(ConfigError, match="all weights"):
        with_settings(TINY, {"loss.l1_weight": 0, "loss.stft_weight": 0})


def test_a_grid_is_of_points() -> None:
    plan = plan_of_space(TINY, ["loss.l1_weight=0..5/6"], metric="pesq", search="grid")
    assert plan.num_settings == 6
    with pytest.raises(ConfigError, match=r"LOW..HIGH/N, which are N points; got 0..5"):
        plan_of_space(TINY, ["loss.l1_weight=0..5"], metric="pesq", search="grid")


def test_a_run_is_judged_by_what_the_sweep_raises_and_seeded_by_its_repeat() -> None:
    plan = plan_of_space(TINY, ["loss.l1_weight=0..5"], metric="stoi", repeats=2)
    first, second = (plan.config_of({"loss.l1_weight": 3.0}, repeat) for repeat in (0, 1))
    assert (first.training.score, first.loss.l1_weight) == ("stoi", 3.0)
    assert (first.seed, second.seed) == (0, 1)


def test_a_plan_is_read_back_and_says_what_is_different() -> None:
    space = ["loss.l1_weight=0..5", "optimizer.learning_rate=1e-4..1e-2:log", "training.batch_size=2,4"]
    plan = plan_of_space(TINY, space, metric="pesq", prune="asha", budget_minutes=3.0)
    assert plan_from_dict(plan.to_dict()) == plan
    other = load_config("tiny", ["training.max_steps=5", "training.validate_every_steps=2"])
    # Where runs run and how many there are may change; what decides their results may not.
    assert (
        plan.differences(plan_of_space(TINY, space, metric="pesq", prune="asha", trials=99, concurrent=2))
        == []
    )
    assert plan.differences(plan_of_space(other, [*space[:2], "training.batch_size=2"], metric="pesq")) == [
        "prune: asha -> none",
        "settings.training.max_steps: 4 -> 5",
        "space.training.batch_size: 2,4 -> 2",
    ]
