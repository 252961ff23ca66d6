"""A bundle: a trained model as a folder that people can read and that loads without running code from it.

weights.safetensors holds the parameters and buffers, config.json a `BundleInfo`, README.md the model card.
"""

import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from safetensors.torch import save as save_tensors

from ww_models.bundle.info import CONFIG_FILE, WEIGHTS_FILE, BundleError, BundleInfo, digest, read_bundle_info
from ww_models.bundle.model_card import model_card
from ww_models.bundle.weights import read_weights
from ww_models.denoiser import Denoiser
from ww_models.registry import build_model
from ww_models.whole_files import write_whole, write_whole_folder

CARD_FILE = "README.md"


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
    is_empty = path.is_dir() and not any(path.iterdir())
    if path.exists() and not (path / CONFIG_FILE).is_file() and not is_empty:
        raise BundleError(f"{path} exists and is not a bundle: choose another path, nothing was written")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    weights = save_tensors(tensors)
    config, sha256 = asdict(model.config), hashlib.sha256(weights).hexdigest()
    info = BundleInfo(
        id=f"{model.name}-{digest([sha256, config])[:12]}",
        architecture=model.name,
        config=config,
        sample_rate=model.sample_rate,
        latency_ms=model.latency_ms,
        num_parameters=model.num_parameters,
        macs_per_second=model.macs_per_second,
        sha256=sha256,
        licence=licence,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        metrics=_plain(metrics or {}),
        training=_plain(training or {}),
        data=_plain(data or {}),
    )
    write_whole_folder(path, {WEIGHTS_FILE: weights, **_texts(info)})
    return path


def add_metrics(path: str | os.PathLike[str], metrics: Mapping[str, Any]) -> BundleInfo:
    """Adds measures to a bundle's config.json and model card, or replaces them. Returns what the bundle says now.

    Its weights and id stay. Each file changes whole or not at all. BundleError as for `read_bundle_info`.
    """
    info = read_bundle_info(path)
    info = replace(info, metrics={**info.metrics, **_plain(metrics)})
    write_whole({Path(path) / name: content for name, content in _texts(info).items()})
    return info


def load_bundle(path: str | os.PathLike[str]) -> Denoiser:
    """The model of a bundle, in eval mode on the CPU. BundleError if it is damaged, incomplete or too new, or if its
    weights are not those that its settings ask for: no memory is taken before that is known."""
    path = Path(path)
    info = read_bundle_info(path)
    weights = read_weights(path, info)
    model = build_model(info.architecture, **info.config)
    model.load_state_dict(weights)
    return model.eval()


def _texts(info: BundleInfo) -> dict[str, bytes]:
    """The files beside the weights. The card comes last: it only repeats what config.json says."""
    return {CONFIG_FILE: info.to_json(), CARD_FILE: model_card(info).encode()}


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
