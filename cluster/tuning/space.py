"""What a sweep draws from: ranges and choices of settings, as the command line gives them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ray import tune

from cluster.settings.experiment import ConfigError, ExperimentConfig, nearest, parse_value, set_path


@dataclasses.dataclass(frozen=True)
class Dimension:
    """One swept setting. extremes: values of which each must be a valid setting; sampler: Ray Tune's."""

    path: str
    extremes: tuple[Any, ...]
    sampler: Any


def parse_space(expressions: Sequence[str], config: ExperimentConfig) -> list[Dimension]:
    """Reads `path=low..high`, `path=low..high:log` or `path=a,b,c`. Raises ConfigError naming what is wrong."""
    known = config.flat()
    dimensions = []
    for expression in expressions:
        path, separator, text = expression.partition("=")
        if not separator or not text:
            raise ConfigError(
                f"--space takes KEY=LOW..HIGH, KEY=LOW..HIGH:log or KEY=A,B,C; got {expression!r}"
            )
        if path not in known:
            raise ConfigError(f"unknown setting {path}{nearest(path, list(known))}")
        dimensions.append(_parse_dimension(path, text, whole=type(known[path]) is int))
    if not dimensions:
        raise ConfigError("a sweep needs at least one --space KEY=LOW..HIGH, or --tries FILE")
    if any(dimension.path == "model.sample_rate" for dimension in dimensions):
        raise ConfigError("model.sample_rate is that of the corpus, which has one: it cannot be swept")
    _check_values(dimensions, config)
    return dimensions


def _parse_dimension(path: str, text: str, *, whole: bool) -> Dimension:
    if ".." not in text:
        choices = tuple(parse_value(path, item) for item in text.split(","))
        return Dimension(path, choices, tune.choice(choices))
    span, _, scale = text.partition(":")
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
    if not whole:
        return Dimension(path, (low, high), (tune.loguniform if scale else tune.uniform)(low, high))
    if not (low.is_integer() and high.is_integer()):
        raise ConfigError(f"{path} takes whole numbers; got {span}")
    least, most = int(low), int(high)
    return Dimension(path, (least, most), (tune.lograndint if scale else tune.randint)(least, most + 1))


def _check_values(dimensions: Sequence[Dimension], config: ExperimentConfig) -> None:
    """Each end and each choice must be a valid setting, and some loss term must be able to weigh more than 0."""
    weights = {
        path: value for path, value in config.flat().items() if path.startswith("loss.") and "weight" in path
    }
    for dimension in dimensions:
        # Beside another loss term, since one weight alone may well be 0.
        other = "loss.stft_weight" if dimension.path == "loss.l1_weight" else "loss.l1_weight"
        for value in dimension.extremes:
            with_settings(config, {other: 1.0, dimension.path: value})
        if dimension.path in weights:
            weights[dimension.path] = max(dimension.extremes)
    if not any(weights.values()):
        raise ConfigError("in this space all weights of the loss are 0: there would be nothing to train on")


def with_settings(config: ExperimentConfig, settings: Mapping[str, Any]) -> ExperimentConfig:
    """The config with some dotted settings replaced, checked as any other."""
    values = config.to_dict()
    for path, value in settings.items():
        set_path(values, path, plain(value))
    return ExperimentConfig.from_dict(values)


def plain(value: Any) -> Any:
    """Samplers give numpy's numbers; settings are Python's."""
    return value.item() if isinstance(value, np.generic) else value
