"""One experiment's settings: defaults, then a preset, then `--set a.b=value`; strict at every step.

Each section is a frozen dataclass; this file joins them, reads presets and names every setting by its dotted path
(`loss.l1_weight`), which is also the sweep's key, ClearML's hyperparameter and the report's column.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from cluster.settings.resources import ResourcesConfig
from cluster.settings.tracking import TrackingConfig
from cluster.settings.training import OptimizerConfig, TrainingConfig
from ww_data import MixingConfig
from ww_models import MODELS, PRESETS, LossConfig
from ww_models.perceptual import pesq_note, pesq_rate

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
        if self.training.score == "pesq" and pesq_rate(self.model.sample_rate) is None:
            note = pesq_note(self.model.sample_rate)
            raise ConfigError(f"training.score=pesq: {note}; choose another, such as si_sdr_db")
        least, most = self.resources.least_workers, self.resources.num_workers
        batch = self.training.batch_size
        if any(batch % workers for workers in range(least, most + 1)):
            step = math.lcm(*range(least, most + 1))
            shared_by = f"resources.num_workers={most}" if least == most else f"{least} to {most}"
            raise ConfigError(
                f"training.batch_size={batch} is shared by {shared_by} workers and must be a multiple of "
                f"{'it' if least == most else 'each of these numbers'}, such as {step * math.ceil(batch / step)}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain nested values, as YAML and JSON hold them; `from_dict` reads it back."""
        values = {name: getattr(self, name) for name in _PLAIN}
        values["model"] = {"name": self.model_name, **dataclasses.asdict(self.model)}
        values |= {name: dataclasses.asdict(getattr(self, name)) for name in _SECTIONS}
        return dict(json.loads(json.dumps(values)))  # tuples become lists

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> ExperimentConfig:
        """Builds the config from nested values, strictly. Raises ConfigError naming the nearest known key."""
        _refuse_unknown(values, [*_PLAIN, "model", *_SECTIONS], "")
        name, model = _build_model_config(values.get("model") or {})
        sections = {key: build_section(cls, values.get(key) or {}, key) for key, cls in _SECTIONS.items()}
        plain = {key: _convert(values[key], cls, key) for key, cls in _PLAIN.items() if key in values}
        return ExperimentConfig(model=model, model_name=name, **plain, **sections)

    def flat(self) -> dict[str, Any]:
        """{dotted path: value}, the form in which ClearML and reports show it."""
        return flatten(self.to_dict())


_HINTS: dict[str, Any] = typing.get_type_hints(ExperimentConfig)
_PLAIN = {name: _HINTS[name] for name in ("preset", "seed", "licence")}
_SECTIONS = {name: hint for name, hint in _HINTS.items() if dataclasses.is_dataclass(hint)}


def _build_model_config(values: Any) -> tuple[str, Any]:
    """The architecture's name and config. `model.preset` names a measured model, other keys override parts of it."""
    settings = dict(_check_section(values, "model"))
    preset = settings.pop("preset", None)
    if preset is not None:
        if _convert(preset, str, "model.preset") not in PRESETS:
            raise ConfigError(f"unknown model.preset {preset!r}{nearest(preset, list(PRESETS))}")
        settings = {**PRESETS[preset], **settings}
    name = settings.pop("name", None)
    if name is None:
        raise ConfigError("model.name is missing: say which architecture, e.g. model.name=gatewave")
    if _convert(name, str, "model.name") not in MODELS:
        raise ConfigError(f"unknown model.name {name!r}{nearest(name, list(MODELS))}")
    return name, build_section(MODELS[name][0], settings, "model")


def load_config(preset: str, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """The config of a preset (a name in `presets/`, or the path of a YAML file) with `a.b=value` on top."""
    return override(read_preset(preset), overrides)


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


class _Once(yaml.SafeLoader):
    """Of a section that stands twice, YAML takes the last one without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := [name for name in names if names.count(name) > 1]:
            raise yaml.constructor.ConstructorError(None, None, f"{twice[0]} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def read_preset(preset: str) -> dict[str, Any]:
    """The nested values of a preset, its name among them. Raises ConfigError if there is none, or it is not YAML."""
    path = Path(preset) if preset.endswith((".yaml", ".yml")) else PRESETS_DIR / f"{preset}.yaml"
    if not path.is_file():
        known = sorted(file.stem for file in PRESETS_DIR.glob("*.yaml"))
        raise ConfigError(f"there is no preset {preset!r}{nearest(preset, known)}; known: {', '.join(known)}")
    try:
        values = yaml.load(path.read_text(encoding="utf-8-sig"), _Once) or {}
    except UnicodeDecodeError as error:
        raise ConfigError(f"preset {path.name} is not in UTF-8: save it as that") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"preset {path.name} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(
            f"preset {path.name} must hold sections such as 'loss:', but holds a {type(values).__name__}"
        )
    return {"preset": path.stem, **values}


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
    changed = (path for path in flat_old.keys() | flat_new.keys() if flat_old.get(path) != flat_new.get(path))
    return [f"{path}: {flat_old.get(path)} -> {flat_new.get(path)}" for path in sorted(changed)]


def build_section(cls: Any, values: Any, section: str) -> Any:
    """An instance of the dataclass `cls` from plain values, each checked against the field's type."""
    _check_section(values, section)
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    _refuse_unknown(values, names, f"{section}.")
    settings = {name: _convert(value, hints[name], f"{section}.{name}") for name, value in values.items()}
    try:
        return cls(**settings)
    except ValueError as error:
        raise ConfigError(f"{section}: {error}") from error


def _check_section(values: Any, section: str) -> Mapping[str, Any]:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{section} is a section of settings, but the value {values!r} came")
    return values


def _refuse_unknown(values: Mapping[str, Any], known: Sequence[str], prefix: str) -> None:
    for key in values:
        if key not in known:
            raise ConfigError(f"unknown setting {prefix}{key}{nearest(str(key), known, prefix)}")


def nearest(name: str, known: Sequence[str], prefix: str = "") -> str:
    """'; did you mean X?' or, where nothing is near, nothing."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {prefix}{close[0]}?" if close else ""


def _convert(value: Any, hint: Any, path: str) -> Any:
    """Checks a plain value against a type hint: int, float, bool, str, Literal, tuple[...], a dataclass (a section
    within a section), or a union of one of them with None.
    """
    if dataclasses.is_dataclass(hint):
        return build_section(hint, value, path)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _convert(value, next(kind for kind in arguments if kind is not type(None)), path)
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
        return tuple(_convert(item, kind, path) for item, kind in zip(value, kinds, strict=True))
    if hint is float and isinstance(value, int | str) and not isinstance(value, bool):
        with contextlib.suppress(ValueError):
            return float(value)  # YAML 1.1 reads "1e-4" as a string
    if isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    raise ConfigError(f"{path} takes a value of type {hint.__name__}; got {value!r}")
