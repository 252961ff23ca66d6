"""Tries: named settings that are compared as they stand, most often one change each against the first.

A file of them is YAML: {name: {preset: NAME, set: [KEY=VALUE, ...]}}; both are optional.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from cluster.errors import one_line
from cluster.settings.experiment import ConfigError, ExperimentConfig, load_config


@dataclasses.dataclass(frozen=True)
class Try:
    """changes: settings on top of the preset and of those that all tries share."""

    config: ExperimentConfig
    preset: str
    changes: tuple[str, ...]

    @property
    def in_words(self) -> str:
        return "; ".join(self.changes) or f"preset {self.preset}"


def read_tries(
    path: str | os.PathLike[str], preset: str | None = None, shared: Sequence[str] = ()
) -> Mapping[str, Try]:
    """The tries of a file by name, in its order; each is checked. Raises ConfigError that names file and try.

    preset: of tries that name none. shared: settings of all tries, below their own.
    """
    try:
        listed = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read ({one_line(error)}): give a YAML file of tries") from error
    if not isinstance(listed, dict) or not listed:
        raise ConfigError(f"{path} lists no tries: write {{name: {{preset: NAME, set: [KEY=VALUE]}}}}")
    return {str(name): _read(path, str(name), values, preset, shared) for name, values in listed.items()}


def _read(
    path: str | os.PathLike[str], name: str, values: object, preset: str | None, shared: Sequence[str]
) -> Try:
    where = f"{path}, try {name!r}"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ConfigError(f"{where}: it names a folder; use letters, digits, '.', '_' and '-'")
    found = {} if values is None else values
    if not isinstance(found, dict) or not set(found) <= {"preset", "set"}:
        raise ConfigError(f"{where}: expected preset and set, or one of them; got {values!r}")
    changes, preset = found.get("set", []), found.get("preset", preset)
    if not isinstance(changes, list) or not all(isinstance(change, str) for change in changes):
        raise ConfigError(f"{where}: set takes a list of KEY=VALUE; got {changes!r}")
    if not isinstance(preset, str):
        raise ConfigError(f"{where}: no preset is given; write preset: NAME")
    try:
        return Try(load_config(preset, [*shared, *changes]), preset, tuple(changes))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
