"""One experiment's settings: defaults, then a preset, then `--set a.b=value`; strict at every step.

Each section is a frozen dataclass that stands beside the code it configures; this file joins them, reads presets
and names every setting by its dotted path (`loss.l1_weight`), which is also the sweep's key, ClearML's hyperparameter
and the report's column.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from cluster.machine.placement import ResourcesConfig
from cluster.settings.training import OptimizerConfig, TrainingConfig
from cluster.tracking.tracker import TrackingConfig
from ww_data import MixingConfig
from ww_models import MODELS, PRESETS, LossConfig

PRESETS_DIR = Path(__file__).resolve().parent / "presets"


class ConfigError(ValueError):
    """A setting that does not exist or has a value of the wrong kind."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """Everything that decides what a training run does, apart from where its data lies and where it is stored."""

    model: Any  # the config dataclass of the architecture `model_name`
    model_name: str
    preset: str = ""
    seed: int = 0
    licence: str = "unspecified"  # of the trained weights, for the model card
    mixing: MixingConfig = dataclasses.field(default_factory=MixingConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    resources: ResourcesConfig = dataclasses.field(default_factory=ResourcesConfig)
    tracking: TrackingConfig = dataclasses.field(default_factory=TrackingConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 1 << 32:
            raise ConfigError(f"seed must lie between 0 and {(1 << 32) - 1}; got {self.seed}")
        least, most, batch = (
            self.resources.least_workers,
            self.resources.num_workers,
            self.training.batch_size,
        )
        if any(batch % workers for workers in range(least, most + 1)):
            step = math.lcm(*range(least, most + 1))
            shared_by = f"resources.num_workers={most}" if least == most else f"{least} to {most}"
            raise ConfigError(
                f"training.batch_size={batch} is shared by {shared_by} workers and must be a multiple of "
                f"{'it' if least == most else 'each of these numbers'}, such as {step * math.ceil(batch / step)}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain nested values, as YAML and JSON hold them; `from_dict` reads it back."""
        sections = {name: dataclasses.asdict(getattr(self, name)) for name in _SECTIONS}
        model = {"name": self.model_name, **dataclasses.asdict(self.model)}
        return _plain(
            {
                "preset": self.preset,
                "seed": self.seed,
                "licence": self.licence,
                "model": model,
                **sections,
            }
        )

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> ExperimentConfig:
        """Builds the config from nested values, strictly. Raises ConfigError naming the nearest known key."""
        unknown_keys(values, ["preset", "seed", "licence", "model", *_SECTIONS], "")
        name, model = _build_model_config(section_values(values, "model"))
        sections = {
            section: build_section(cls, section_values(values, section), section)
            for section, cls in _SECTIONS.items()
        }
        return ExperimentConfig(
            model=model,
            model_name=name,
            preset=convert(values.get("preset", ""), str, "preset"),
            seed=convert(values.get("seed", 0), int, "seed"),
            licence=convert(values.get("licence", "unspecified"), str, "licence"),
            **sections,
        )

    def flat(self) -> dict[str, Any]:
        """{dotted path: value}, the form in which ClearML and reports show it."""
        return flatten(self.to_dict())


def _build_model_config(values: Mapping[str, Any]) -> tuple[str, Any]:
    """The architecture's name and config. `model.preset` names a measured model, other keys override parts of it."""
    settings = dict(values)
    preset = settings.pop("preset", None)
    if preset is not None:
        if convert(preset, str, "model.preset") not in PRESETS:
            raise ConfigError(f"unknown model.preset {preset!r}{nearest(preset, list(PRESETS))}")
        settings = {**PRESETS[preset], **settings}
    name = settings.pop("name", None)
    if name is None:
        raise ConfigError("model.name is missing: say which architecture, e.g. model.name=gatewave")
    if convert(name, str, "model.name") not in MODELS:
        raise ConfigError(f"unknown model.name {name!r}{nearest(name, list(MODELS))}")
    return name, build_section(MODELS[name][0], settings, "model")


_SECTIONS: dict[str, type] = {
    "mixing": MixingConfig,
    "loss": LossConfig,
    "optimizer": OptimizerConfig,
    "training": TrainingConfig,
    "resources": ResourcesConfig,
    "tracking": TrackingConfig,
}


def load_config(preset: str, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """The config of a preset (a name in `presets/`, or the path of a YAML file) with `a.b=value` on top."""
    values = read_preset(preset)
    values.setdefault("preset", Path(preset).stem)
    return override(values, overrides)


def override(values: dict[str, Any], overrides: Sequence[str]) -> ExperimentConfig:
    """The config of nested values with `a.b=value` on top."""
    for text in overrides:
        path, separator, value = text.partition("=")
        if not separator or not path:
            raise ConfigError(f"--set takes KEY=VALUE such as loss.l1_weight=2; got {text!r}")
        set_path(values, path.strip(), parse_value(path, value))
    return ExperimentConfig.from_dict(values)


def parse_value(path: str, text: str) -> Any:
    """A setting's value as the command line gives it, in YAML: 2, 1e-4, true, [-5, 15], word."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"{path}: {text!r} is not a value; write a number, a word or a list such as [-5, 15]"
        ) from error


def read_preset(preset: str) -> dict[str, Any]:
    """The nested values of a preset file. Raises ConfigError if there is none of that name, or it is not YAML."""
    path = Path(preset) if preset.endswith((".yaml", ".yml")) else PRESETS_DIR / f"{preset}.yaml"
    if not path.is_file():
        known = sorted(file.stem for file in PRESETS_DIR.glob("*.yaml"))
        raise ConfigError(f"there is no preset {preset!r}{nearest(preset, known)}; known: {', '.join(known)}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"preset {path.name} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(
            f"preset {path.name} must hold sections such as 'loss:', but holds a {type(values).__name__}"
        )
    return values


def set_path(values: dict[str, Any], path: str, value: Any) -> None:
    """Sets `values["a"]["b"]` for the path "a.b", making the sections on the way."""
    *parents, leaf = path.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{path}: {parent} is a value, not a section")
    values[leaf] = value


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}"""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Lines `path: old -> new` for each setting that differs between two nested configs."""
    flat_old, flat_new = flatten(old), flatten(new)
    paths = sorted(flat_old.keys() | flat_new.keys())
    return [
        f"{path}: {flat_old.get(path)} -> {flat_new.get(path)}"
        for path in paths
        if flat_old.get(path) != flat_new.get(path)
    ]


def section_values(values: Mapping[str, Any], section: str) -> Mapping[str, Any]:
    inner = values.get(section) or {}
    if not isinstance(inner, Mapping):
        raise ConfigError(f"{section} is a section of settings, but the value {inner!r} came")
    return inner


def build_section(cls: type, values: Mapping[str, Any], section: str) -> Any:
    """An instance of the dataclass `cls` from plain values, each checked against the field's type."""
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    unknown_keys(values, names, f"{section}.")
    settings = {name: convert(value, hints[name], f"{section}.{name}") for name, value in values.items()}
    try:
        return cls(**settings)
    except ValueError as error:
        raise ConfigError(f"{section}: {error}") from error


def unknown_keys(values: Mapping[str, Any], known: Sequence[str], prefix: str) -> None:
    """Raises ConfigError for the first key that is not known, naming the nearest one that is."""
    for key in values:
        if key not in known:
            close = nearest(str(key), known, prefix)
            raise ConfigError(f"unknown setting {prefix}{key}{close}")


def nearest(name: str, known: Sequence[str], prefix: str = "") -> str:
    """'; did you mean X?' or, where nothing is near, nothing."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {prefix}{close[0]}?" if close else ""


def convert(value: Any, hint: Any, path: str) -> Any:
    """Checks a plain value against a type hint: int, float, bool, str, tuple[...], a dataclass (a section within a
    section), or a union of them with None.
    """
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path} is a section of settings, but the value {value!r} came")
        return build_section(typing.cast(type, hint), value, path)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        candidates = [argument for argument in arguments if argument is not type(None)]
        return convert(value, candidates[0], path)
    if origin is typing.Literal:
        if value in arguments:
            return value
        raise ConfigError(f"{path} must be one of {', '.join(map(str, arguments))}; got {value!r}")
    if origin is tuple:
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise ConfigError(f"{path} takes a list such as [-5, 25]; got {value!r}")
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(kinds) != len(value):
            raise ConfigError(f"{path} takes {len(kinds)} values; got {len(value)}: {value!r}")
        return tuple(convert(item, kind, path) for item, kind in zip(value, kinds, strict=True))
    if hint is float and isinstance(value, str):
        value = _number(value)  # YAML 1.1 reads "1e-4" as a string
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    raise ConfigError(f"{path} takes a value of type {hint.__name__}; got {value!r}")


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value
