"""What a sweep draws from: ranges and choices of settings, as the command line gives them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from cluster.settings.experiment import ConfigError, ExperimentConfig, nearest, parse_value, set_path

FORMS = "KEY=LOW..HIGH, KEY=LOW..HIGH:log, KEY=LOW..HIGH/N (N points) or KEY=A,B,C"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dimension:
    """One swept setting: a range from `low` to `high`, logarithmic or not, or else `choices`.

    text: as the command line gave it.
    """

    path: str
    text: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False

    @property
    def extremes(self) -> tuple[Any, ...]:
        """Values of which each must be a valid setting."""
        return self.choices or (self.low, self.high)

    @property
    def is_numeric(self) -> bool:
        return all(isinstance(value, int | float) and not isinstance(value, bool) for value in self.extremes)

    @property
    def distribution(self) -> BaseDistribution:
        """Optuna's."""
        if self.choices:
            return CategoricalDistribution(self.choices)
        if self.whole:
            return IntDistribution(int(self.low), int(self.high), log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)


def parse_space(expressions: Sequence[str], config: ExperimentConfig) -> list[Dimension]:
    """Reads what `FORMS` lists. Raises ConfigError naming what is wrong."""
    known = config.flat()
    dimensions: dict[str, Dimension] = {}
    for expression in expressions:
        path, separator, text = expression.partition("=")
        if not separator or not text:
            raise ConfigError(f"--space takes {FORMS}; got {expression!r}")
        if path not in known:
            raise ConfigError(f"unknown setting {path}{nearest(path, list(known))}")
        if path in dimensions:
            raise ConfigError(f"{path} is given twice: {dimensions[path].text} and {text}")
        dimensions[path] = _parse_dimension(path, text, whole=type(known[path]) is int)
    if not dimensions:
        raise ConfigError("a sweep needs at least one --space KEY=LOW..HIGH, or --tries FILE")
    if "model.sample_rate" in dimensions:
        raise ConfigError("model.sample_rate is that of the corpus, which has one: it cannot be swept")
    for path, option in (("training.score", "--metric"), ("seed", "--repeats")):
        if path in dimensions:
            raise ConfigError(f"{path} is what {option} is for: it cannot be swept")
    for path in dimensions:
        if path.startswith(("resources.", "tracking.")) or path in ("preset", "licence"):
            raise ConfigError(
                f"{path} does not decide what a run learns, and is the same for all runs of a sweep: give it with --set"
            )
    _check_values(list(dimensions.values()), config)
    return list(dimensions.values())


def _parse_dimension(path: str, text: str, *, whole: bool) -> Dimension:
    if ".." not in text:
        return Dimension(
            path=path, text=text, choices=tuple(parse_value(path, item) for item in text.split(","))
        )
    span, _, scale = text.partition(":")
    span, slash, points = span.partition("/")
    if scale not in ("", "log"):
        raise ConfigError(f"{path}: a range may end in ':log'; got ':{scale}'")
    try:
        low, high = (float(end) for end in span.split("..", 1))
    except ValueError as error:
        raise ConfigError(f"{path}: {span!r} is not LOW..HIGH with two numbers") from error
    if not low <= high or not math.isfinite(high - low):
        raise ConfigError(f"{path}: the range {span} must run upwards between two finite numbers")
    if scale == "log" and low <= 0:
        raise ConfigError(f"{path}: a logarithmic range starts above 0; got {low:g}")
    if whole and not (low.is_integer() and high.is_integer()):
        raise ConfigError(f"{path} takes whole numbers; got {span}")
    if not slash:
        return Dimension(path=path, text=text, low=low, high=high, log=bool(scale), whole=whole)
    if not points.isdigit() or int(points) < 2:
        raise ConfigError(f"{path}: a range of points takes at least 2, as {span}/5; got '/{points}'")
    spaced = (np.geomspace if scale else np.linspace)(low, high, int(points)).tolist()
    values = [round(value) if whole else float(f"{value:.12g}") for value in spaced]
    return Dimension(path=path, text=text, choices=tuple(dict.fromkeys(values)))


def _check_values(dimensions: Sequence[Dimension], config: ExperimentConfig) -> None:
    """Each end and each choice must be a valid setting, and some loss term must be able to weigh more than 0."""
    weights = {
        path: value for path, value in config.flat().items() if path.startswith("loss.") and "weight" in path
    }
    for dimension in dimensions:
        # Beside another loss term, since one weight alone may well be 0.
        other = "loss.stft_weight" if dimension.path == "loss.l1_weight" else "loss.l1_weight"
        for value in dimension.extremes:
            value = int(value) if dimension.whole else value
            with_settings(config, {other: 1.0, dimension.path: value})
        if dimension.path in weights:
            weights[dimension.path] = max(dimension.extremes)
    if not any(weights.values()):
        raise ConfigError("in this space all weights of the loss are 0: there would be nothing to train on")


def with_settings(config: ExperimentConfig, settings: Mapping[str, Any]) -> ExperimentConfig:
    """The config with some dotted settings replaced, checked as any other."""
    values = config.to_dict()
    for path, value in settings.items():
        set_path(values, path, value)
    return ExperimentConfig.from_dict(values)
