"""What a bundle says of itself: its config.json, which names architecture, measures, data, training and checksums."""

import hashlib
import json
import math
import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ww_models.checks import one_line, require, shown

FORMAT, FORMAT_VERSION = "wave-wizard-bundle", 1
WEIGHTS_FILE, CONFIG_FILE = "weights.safetensors", "config.json"
MAX_CONFIG_BYTES = 16 << 20
_ID = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"


class BundleError(ValueError):
    """A bundle cannot be written or read; str() is one line for the user."""


@dataclass(frozen=True, kw_only=True)
class BundleInfo:
    """id: architecture and a digest of weights and config; sha256: of weights; created: ISO 8601, UTC."""

    id: str
    architecture: str
    config: dict[str, Any]
    sample_rate: int
    latency_ms: float | None
    num_parameters: int
    macs_per_second: float
    sha256: str
    licence: str
    created: str
    metrics: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """ValueError for what is of another kind: a bundle may come from anybody, and its id becomes a file's name."""

        def expect(name: str, is_right: bool, what: str) -> None:
            require(is_right, f"{name} is {shown(getattr(self, name))}: {what} was expected")

        expect("id", _is_text(self.id, _ID), "a name of letters, digits, '.', '_' and '-'")
        expect("sha256", _is_text(self.sha256, "[0-9a-f]{64}"), "a checksum of 64 digits")
        for name in ("architecture", "licence", "created"):
            expect(name, isinstance(getattr(self, name), str), "a text")
        for name in ("config", "metrics", "training", "data"):
            expect(name, isinstance(getattr(self, name), dict), "a mapping")
        for name in ("sample_rate", "num_parameters", "macs_per_second", "latency_ms"):
            value = getattr(self, name)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            is_missing = name == "latency_ms" and value is None
            expect(name, is_missing or (is_number and 0 <= value < math.inf), "a number, 0 or more,")

    def to_json(self) -> bytes:
        """The content of config.json."""
        # Through JSON once, so that what is digested is what a reader will parse.
        model = json.loads(json.dumps(asdict(self), allow_nan=False))
        head = {"format": FORMAT, "format_version": FORMAT_VERSION, "sha256": digest(model)}
        content = {**head, "model": model}
        return (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def read_bundle_info(path: str | os.PathLike[str]) -> BundleInfo:
    """What a bundle says of itself. BundleError if it is no bundle, damaged or too new."""
    path = Path(path)
    if not path.is_dir():
        state = "is a file" if path.exists() else "does not exist"
        raise BundleError(f"{path} {state}: a bundle is a folder with {WEIGHTS_FILE} and {CONFIG_FILE}")
    file = path / CONFIG_FILE
    try:
        num_bytes = file.stat().st_size
        text = file.read_text(encoding="utf-8") if num_bytes <= MAX_CONFIG_BYTES else "null"
        content = json.loads(text, parse_constant=_refuse)
    except FileNotFoundError as error:
        raise BundleError(f"{path} is not a bundle: it has no {CONFIG_FILE}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{file} cannot be read, it is damaged: {one_line(error)}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise BundleError(f"{path} is not a bundle: its {CONFIG_FILE} is that of something else")
    version = content.get("format_version")
    if not isinstance(version, int) or not 1 <= version <= FORMAT_VERSION:
        known = f"this program reads up to {FORMAT_VERSION}: install a newer one"
        raise BundleError(f"{path} has format version {shown(version)}, {known}")
    info = content.get("model")
    if not isinstance(info, dict) or content.get("sha256") != digest(info):
        raise BundleError(
            f"{path}/{CONFIG_FILE} is damaged or was edited (its checksum differs): copy the bundle again"
        )
    try:
        return BundleInfo(**info)
    except TypeError as error:
        raise BundleError(
            f"{path}/{CONFIG_FILE} lacks a field or has one too many: {one_line(error)}"
        ) from error
    except ValueError as error:
        raise BundleError(f"{path}/{CONFIG_FILE} is damaged: {one_line(error)}") from error


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number in JSON")


def _is_text(value: Any, pattern: str) -> bool:
    return isinstance(value, str) and re.fullmatch(pattern, value) is not None


def digest(value: Any) -> str:
    """SHA-256 of a value as JSON, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
