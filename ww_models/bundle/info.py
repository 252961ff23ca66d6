"""What a bundle says of itself: its config.json, which names architecture, measures, data, training and checksums."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ww_models.checks import one_line

FORMAT, FORMAT_VERSION = "wave-wizard-bundle", 1
WEIGHTS_FILE, CONFIG_FILE = "weights.safetensors", "config.json"


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
    try:
        content = json.loads((path / CONFIG_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BundleError(f"{path} is not a bundle: it has no {CONFIG_FILE}") from error
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}/{CONFIG_FILE} cannot be read, it is damaged: {one_line(error)}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise BundleError(f"{path} is not a bundle: its {CONFIG_FILE} is that of something else")
    version = content.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        known = f"this program reads up to {FORMAT_VERSION}: install a newer one"
        raise BundleError(f"{path} has format version {version}, {known}")
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


def digest(value: Any) -> str:
    """SHA-256 of a value as JSON, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
