"""What a sweep is to do: what its trials start from, what is searched and how, what they are judged by."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from cluster.runs.folder import deciding
from cluster.settings.experiment import ConfigError, ExperimentConfig, differences
from cluster.training.checks import check_measure
from cluster.tuning.space import Dimension, parse_space, with_settings
from cluster.tuning.tries import Try
from ww_models.quality import VALIDATION_MEASURES

Search = Literal["random", "grid", "tpe"]
Prune = Literal["none", "asha", "median"]
SEARCHES, PRUNES = get_args(Search), get_args(Prune)
TRY = "try"  # what is searched where tries are compared: which of them
MAX_GRID = 10_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """A setting is a point of the space (or a try); it is run `repeats` times, with as many seeds.

    configs: what trials start from: one, named "", or that of each try. metric: the measure of the validation mixtures
    that is to be raised, and by which each run chooses its best checkpoint. trials: settings that are drawn, other
    than in a grid, which has as many as it has points. changes: each try in words. concurrent: runs at a time.
    budget_minutes: of the whole sweep, all its starts together; 0 for no such limit.
    """

    configs: Mapping[str, ExperimentConfig]
    dimensions: tuple[Dimension, ...]
    metric: str
    search: Search = "tpe"
    prune: Prune = "none"
    trials: int = 8
    repeats: int = 1
    concurrent: int = 1
    budget_minutes: float = 0.0
    changes: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.metric not in VALIDATION_MEASURES:
            raise ConfigError(
                f"unknown measure {self.metric!r}; choose one of {', '.join(VALIDATION_MEASURES)}"
            )
        if min(self.trials, self.concurrent, self.repeats) < 1:
            raise ConfigError(
                "trials, trials at a time and repeats must be at least 1; got "
                f"{self.trials}, {self.concurrent} and {self.repeats}"
            )
        if not 0 <= self.budget_minutes < float("inf"):
            raise ConfigError(f"a time budget is 0 (none) or minutes above 0; got {self.budget_minutes}")
        for config in self.configs.values():
            check_measure(config, self.metric)
        if self.search == "grid":
            self._check_grid()

    def _check_grid(self) -> None:
        for dimension in self.dimensions:
            if not dimension.choices:
                raise ConfigError(
                    f"{dimension.path}: a grid takes KEY=A,B,C or KEY=LOW..HIGH/N, which are N points; got "
                    f"{dimension.text}"
                )
        if self.num_settings > MAX_GRID:
            raise ConfigError(f"the grid has {self.num_settings} points, more than {MAX_GRID}")

    @property
    def num_settings(self) -> int:
        if self.search != "grid":
            return self.trials
        points = 1
        for dimension in self.dimensions:
            points *= len(dimension.choices)
        return points

    @property
    def is_of_tries(self) -> bool:
        return "" not in self.configs

    @property
    def is_equal_time(self) -> bool:
        """Whether all runs train for the same time, and not for the same steps."""
        return all(config.training.budget_minutes for config in self.configs.values())

    def length(self, num_segments: int) -> float:
        """How long a run trains, in what is equal: seconds of training, or steps over a corpus of so many segments."""
        if self.is_equal_time:
            return min(60 * config.training.budget_minutes for config in self.configs.values())
        return min(config.training.num_steps(num_segments) for config in self.configs.values())

    def config_of(self, values: Mapping[str, Any], repeat: int = 0) -> ExperimentConfig:
        """The settings of a run. values: by path, or the try. Raises ConfigError where they do not go together."""
        base = self.configs[values.get(TRY, "")]
        swept = {path: value for path, value in values.items() if path != TRY}
        return with_settings(base, {**swept, "seed": base.seed + repeat})

    def in_words(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What people are shown of a setting, by column."""
        return {"change": self.changes[values[TRY]]} if self.is_of_tries else dict(values)

    def to_dict(self) -> dict[str, Any]:
        """Plain nested values; `plan_from_dict` reads them back."""
        return {
            "configs": {name: config.to_dict() for name, config in self.configs.items()},
            "space": {} if self.is_of_tries else {one.path: one.text for one in self.dimensions},
            "changes": dict(self.changes),
            **{name: getattr(self, name) for name in (*_DECIDING, *_FREE)},
        }

    def differences(self, other: Plan) -> list[str]:
        """Lines `path: here -> there` for what decides the results and is not the same."""
        return differences(self._deciding(), other._deciding())

    def _deciding(self) -> dict[str, Any]:
        configs = {name or "settings": deciding(config) for name, config in self.configs.items()}
        space = {one.path: one.text for one in self.dimensions}
        return {**configs, "space": space, **{name: getattr(self, name) for name in _DECIDING}}


_DECIDING = ("metric", "search", "prune", "repeats")
_FREE = ("trials", "concurrent", "budget_minutes")  # may be others when a sweep goes on


def plan_of_space(config: ExperimentConfig, space: Sequence[str], *, metric: str, **options: Any) -> Plan:
    """A plan that searches a space, as `parse_space` reads it, around some settings."""
    dimensions = tuple(parse_space(space, config))
    return Plan(configs={"": _judged_by(config, metric)}, dimensions=dimensions, metric=metric, **options)


def plan_of_tries(tries: Mapping[str, Try], *, metric: str, **options: Any) -> Plan:
    """A plan that runs each try."""
    names = tuple(tries)
    return Plan(
        configs={name: _judged_by(one.config, metric) for name, one in tries.items()},
        dimensions=(Dimension(path=TRY, text=",".join(names), choices=names),),
        metric=metric,
        search="grid",
        changes={name: one.in_words for name, one in tries.items()},
        **options,
    )


def plan_from_dict(values: Mapping[str, Any]) -> Plan:
    """Raises KeyError, TypeError or ValueError for what no plan is."""
    configs = {name: ExperimentConfig.from_dict(config) for name, config in values["configs"].items()}
    options = {name: values[name] for name in (*_DECIDING, *_FREE)} | {"changes": values["changes"]}
    if "" in configs:
        dimensions = parse_space([f"{path}={text}" for path, text in values["space"].items()], configs[""])
    else:
        dimensions = [Dimension(path=TRY, text=",".join(configs), choices=tuple(configs))]
    return Plan(configs=configs, dimensions=tuple(dimensions), **options)


def _judged_by(config: ExperimentConfig, metric: str) -> ExperimentConfig:
    """A run's best checkpoint, whose scores are those of the trial, is the best by what the sweep raises."""
    return with_settings(config, {"training.score": metric}) if metric in VALIDATION_MEASURES else config
