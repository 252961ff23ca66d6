"""A bundle: a trained model as a folder that people can read and that loads without running code from it.

weights.safetensors   the parameters and buffers
config.json           architecture, its settings, measures, data, settings of the training, checksums
README.md             the model card
"""

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from ww_models.bundle.model_card import model_card
from ww_models.denoiser import Denoiser
from ww_models.registry import build_model
from ww_models.whole_files import write_whole

FORMAT = "wave-wizard-bundle"
FORMAT_VERSION = 1
WEIGHTS_FILE, CONFIG_FILE, CARD_FILE = "weights.safetensors", "config.json", "README.md"


class BundleError(ValueError):
    """A bundle cannot be written or read; str() is one line for the user."""


@dataclass(frozen=True, kw_only=True)
class BundleInfo:
    """What config.json says. id: architecture and a digest of weights and config; sha256: of weights."""

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


def save_bundle(
    path: str | os.PathLike[str],
    model: Denoiser,
    *,
    metrics: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    licence: str = "unspecified",
) -> Path:
    """Writes the model as a folder at `path`, whole or not at all; a bundle that is there is replaced.

    metrics   measures to show; {"noisy": {...}, "enhanced": {...}} becomes a table
    training  the resolved configuration of the run; data: manifest hash, hours, speakers and the like
    """
    path = Path(path)
    if (
        path.exists()
        and not (path / CONFIG_FILE).is_file()
        and not (path.is_dir() and not any(path.iterdir()))
    ):
        raise BundleError(f"{path} exists and is not a bundle: choose another path, nothing was written")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    weights = save_tensors(tensors)
    info = _describe(model, weights, metrics or {}, training or {}, data or {}, licence)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        folder.chmod(0o755)
        (folder / WEIGHTS_FILE).write_bytes(weights)
        (folder / CONFIG_FILE).write_text(_to_json(info), encoding="utf-8")
        (folder / CARD_FILE).write_text(model_card(info), encoding="utf-8")
        _put_in_place(folder, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return path


def add_metrics(path: str | os.PathLike[str], metrics: Mapping[str, Any]) -> BundleInfo:
    """Adds measures to a bundle's config.json and model card; its weights and id stay. Returns what it says now.

    Measures of the same name are replaced. Each file changes whole or not at all. BundleError as for
    `read_bundle_info`.
    """
    path = Path(path)
    info = read_bundle_info(path)
    info = replace(info, metrics={**info.metrics, **_plain(metrics)})
    # The card comes last: it only repeats what config.json says.
    write_whole({path / CONFIG_FILE: _to_json(info).encode(), path / CARD_FILE: model_card(info).encode()})
    return info


def load_bundle(path: str | os.PathLike[str]) -> Denoiser:
    """The model of a bundle, in eval mode on the CPU. BundleError if it is damaged, incomplete or too new."""
    path = Path(path)
    info = read_bundle_info(path)
    try:
        weights = (path / WEIGHTS_FILE).read_bytes()
    except OSError as error:
        raise BundleError(
            f"{path} has no readable {WEIGHTS_FILE} ({error.strerror}): copy the bundle again"
        ) from error
    if hashlib.sha256(weights).hexdigest() != info.sha256:
        raise BundleError(f"{path}/{WEIGHTS_FILE} is damaged (its checksum differs): copy the bundle again")
    try:
        model = build_model(info.architecture, **info.config)
        tensors = load_tensors(weights)
    except (ValueError, TypeError, SafetensorError) as error:
        raise BundleError(f"{path} does not describe a model of this version: {_one_line(error)}") from error
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise BundleError(
            f"{path}: the weights do not fit the architecture that {CONFIG_FILE} names: {_one_line(error)}"
        ) from error
    return model.eval()


def read_bundle_info(path: str | os.PathLike[str]) -> BundleInfo:
    """What a bundle says about itself. BundleError if that is no bundle, damaged or too new."""
    path = Path(path)
    if not path.is_dir():
        state = "is a file" if path.exists() else "does not exist"
        raise BundleError(f"{path} {state}: a bundle is a folder with {WEIGHTS_FILE} and {CONFIG_FILE}")
    try:
        content = json.loads((path / CONFIG_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BundleError(f"{path} is not a bundle: it has no {CONFIG_FILE}") from error
    except (OSError, ValueError) as error:
        raise BundleError(
            f"{path}/{CONFIG_FILE} cannot be read, it is damaged: {_one_line(error)}"
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise BundleError(f"{path} is not a bundle: its {CONFIG_FILE} is that of something else")
    version = content.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise BundleError(
            f"{path} has format version {version}, this program reads up to {FORMAT_VERSION}: "
            "install a newer one"
        )
    info = content.get("model")
    if not isinstance(info, dict) or content.get("sha256") != _digest(info):
        raise BundleError(
            f"{path}/{CONFIG_FILE} is damaged or was edited (its checksum differs): copy the bundle again"
        )
    try:
        return BundleInfo(**info)
    except TypeError as error:
        raise BundleError(
            f"{path}/{CONFIG_FILE} lacks a field or has one too many: {_one_line(error)}"
        ) from error


def _describe(
    model: Denoiser,
    weights: bytes,
    metrics: Mapping[str, Any],
    training: Mapping[str, Any],
    data: Mapping[str, Any],
    licence: str,
) -> BundleInfo:
    config = asdict(model.config)
    sha256 = hashlib.sha256(weights).hexdigest()
    return BundleInfo(
        id=f"{model.name}-{_digest([sha256, config])[:12]}",
        architecture=model.name,
        config=config,
        sample_rate=model.sample_rate,
        latency_ms=model.latency_ms,
        num_parameters=model.num_parameters,
        macs_per_second=model.macs_per_second,
        sha256=sha256,
        licence=licence,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        metrics=_plain(metrics),
        training=_plain(training),
        data=_plain(data),
    )


def _to_json(info: BundleInfo) -> str:
    # Through JSON once, so that what is digested is what a reader will parse.
    model = json.loads(json.dumps(asdict(info), allow_nan=False))
    content = {"format": FORMAT, "format_version": FORMAT_VERSION, "sha256": _digest(model), "model": model}
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> Any:
    """`value` as JSON holds it: mappings, lists, strings and finite numbers; NaN and infinity become None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:  # a numpy or torch number
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)


def _put_in_place(folder: Path, path: Path) -> None:
    """Renames `folder` to `path`. What is there steps aside: a rename cannot replace a folder with files."""
    if not path.exists():
        folder.rename(path)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
    path.replace(old)
    try:
        folder.rename(path)
    except OSError:
        old.replace(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
