"""The weights of a bundle: read only once they are known to be those that its settings ask for.

A bundle may come from anybody. What a file says of its size is checked before memory is taken for it, and a model is
only made where the file holds all of its weights.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ww_models.bundle.info import CONFIG_FILE, WEIGHTS_FILE, BundleError, BundleInfo
from ww_models.checks import one_line
from ww_models.registry import build_model, model_config

MAX_HEADER_BYTES = 1 << 20  # some 100 are needed for each tensor


class _WithoutWeights(TorchFunctionMode):
    """Weights are made by torch.empty, constants by other calls: here weights have a shape, but no memory."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        if func is torch.empty and named.get("device") is None:
            named["device"] = "meta"
        return func(*args, **named)


def expected_weights(architecture: str, settings: Mapping[str, Any]) -> dict[str, Tensor]:
    """Parameters and buffers of a model by name, as shapes and types alone. Bad settings raise what making one does."""
    config = dataclasses.asdict(model_config(architecture, **settings))
    if "rescale" in config:  # nothing is there to be scaled
        config["rescale"] = 0.0
    with _WithoutWeights():
        return build_model(architecture, **config).state_dict()


def read_weights(path: Path, info: BundleInfo) -> dict[str, Tensor]:
    """The weights of the bundle at `path`, each of the name, shape and type that `info` asks for, and finite."""
    try:
        expected = expected_weights(info.architecture, info.config)
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise BundleError(f"{path} does not describe a model of this version: {one_line(error)}") from error
    file, num_bytes = path / WEIGHTS_FILE, sum(value.nbytes for value in expected.values())
    try:
        with file.open("rb") as opened:
            header_bytes = int.from_bytes(opened.read(8), "little")
            found_bytes = file.stat().st_size - 8 - header_bytes
            if header_bytes > MAX_HEADER_BYTES or found_bytes != num_bytes:
                raise BundleError(
                    f"{path}: the weights do not fit the architecture that {CONFIG_FILE} names ({num_bytes} bytes), or "
                    "are damaged: copy the bundle again"
                )
            opened.seek(0)
            content = opened.read()
    except OSError as error:
        raise BundleError(
            f"{path} has no readable {WEIGHTS_FILE} ({error.strerror}): copy the bundle again"
        ) from error
    if hashlib.sha256(content).hexdigest() != info.sha256:
        raise BundleError(f"{file} is damaged (its checksum differs): copy the bundle again")
    try:
        weights = load_tensors(content)
    except (SafetensorError, ValueError, TypeError, KeyError) as error:
        raise BundleError(f"{file} cannot be read, it is damaged: {one_line(error)}") from error
    if problem := _problem(weights, expected):
        raise BundleError(
            f"{path}: the weights do not fit the architecture that {CONFIG_FILE} names: {problem}"
        )
    return weights


def _problem(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """What is wrong with the first that is not as expected; "" if all are."""
    if weights.keys() != expected.keys():
        name = min(weights.keys() ^ expected.keys())
        return f"{name[:100]!r} is {'missing' if name in expected else 'not expected'}"
    for name, value in weights.items():
        if value.shape != expected[name].shape or value.dtype != expected[name].dtype:
            wanted = expected[name]
            return f"{name} is {value.dtype} of {tuple(value.shape)}, not {wanted.dtype} of {tuple(wanted.shape)}"
        if value.is_floating_point() and not bool(value.isfinite().all()):
            return f"{name} holds numbers that are not finite"
    return ""
