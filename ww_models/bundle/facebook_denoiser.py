"""Reads the files of `denoiser` (PyPI, arXiv 2006.12847) into a `Demucs`, without running code from them.

A file is a pickle of one of:
    a state dict                                     the public dns48, dns64, master64, valentini_nc
    {"class", "args", "kwargs", "state"}             what its training leaves as best.th
    {"model": the former, "best_state", ...}         its training's checkpoint
"""

import hashlib
import os
import pickle
import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from ww_models.architectures.demucs import Demucs, DemucsConfig
from ww_models.checks import require, shown
from ww_models.layers.level import Normalize

CLASS_NAME = "denoiser.demucs.Demucs"
GIVE_CHECKPOINT = "give a checkpoint of denoiser's Demucs"
GIVE_PACKAGE = "give a package that denoiser saved"
# Parameters of that class in their order, with defaults: a package holds only what was passed.
SETTINGS: dict[str, Any] = {
    "chin": 1,
    "chout": 1,
    "hidden": 48,
    "depth": 5,
    "kernel_size": 8,
    "stride": 4,
    "causal": True,
    "resample": 4,
    "growth": 2,
    "max_hidden": 10_000,
    "normalize": True,
    "glu": True,
    "rescale": 0.1,
    "floor": 1e-3,
    "sample_rate": 16_000,
}
# More than any setting needs; nothing that is computed of such numbers overflows.
MAX_NUMBER = 10**9
# The one public file of other settings that its shapes do not show. Its name carries the start of its SHA-256.
VALENTINI_NC_SHA256 = "93fc4337"
VALENTINI_NC_SETTINGS = {"stride": 2, "resample": 2}


class _NamedClass:
    """Stands for the class that a package names: the name is enough, nothing is imported."""


def load_denoiser_checkpoint(
    path: str | os.PathLike[str],
    *,
    normalize: Normalize | None = None,
    stride: int | None = None,
    resample: int | None = None,
) -> Demucs:
    """The model in a file of `denoiser`, in evaluation mode, float32, on the CPU.

    normalize          None: what the file says, "utterance" (its normalize=True) or "none". "running" can stream
    stride, resample   of a state dict, whose shapes do not show them; 4 and 4 unless given. A package says them

    ValueError, one sentence, if the file is missing, damaged, holds other classes than denoiser's Demucs (none is
    run), weights that are not finite or do not fit its settings, or a form with several channels or without GLU.
    """
    path = Path(path)
    try:
        settings, state = _unpack(_read(path), path)
        given = {"stride": stride, "resample": resample}
        settings |= {name: value for name, value in given.items() if value is not None}
        weights = _checked_weights(state)
        config = _config(settings, weights)
        if normalize is not None:
            config = replace(config, normalize=normalize)
        _check_levels(weights, config)
        model = Demucs(config)
        _check_shapes(weights, {name: tuple(value.shape) for name, value in model.state_dict().items()})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    model.load_state_dict(weights)
    return model.eval()


def _read(path: Path) -> Any:
    """What the file holds, with only tensors, plain values and the name of denoiser's class allowed in it."""
    require(path.is_file(), "there is no such file: give the path of a checkpoint of denoiser")
    try:
        with torch.serialization.safe_globals([(_NamedClass, CLASS_NAME)]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if named := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise ValueError(
                f"the file refers to {named[1]}, which could run code and was not run: give a state dict or a "
                f"package of {CLASS_NAME}"
            ) from None
        require(
            "persistent_load" not in str(error),
            "the file holds a class in the way of torch before 1.6: load it with denoiser and give its state dict",
        )
    except Exception:  # whatever damaged bytes lead a reader to
        pass
    raise ValueError("the file is damaged or none of torch.save: fetch it again, or give another")


def _unpack(content: Any, path: Path) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """(settings, state dict)"""
    kind = type(content).__name__
    require(isinstance(content, dict), f"the file holds a {kind}: give one with a state dict")
    best_state, package = content.get("best_state"), content.get("model", content)
    if not (isinstance(package, dict) and "state" in package):
        state = best_state if isinstance(best_state, dict) else content
        return _settings_from_shapes(state, path), state
    require(
        package.get("class") is _NamedClass,
        f"the package holds a model of the class {shown(package.get('class'))}: give one of {CLASS_NAME}",
    )
    state = best_state if isinstance(best_state, dict) else package["state"]
    require(isinstance(state, dict), "the package has no state dict: give one that denoiser saved")
    args, kwargs = package.get("args", ()), package.get("kwargs", {})
    require(
        isinstance(args, tuple | list) and isinstance(kwargs, dict) and len(args) <= len(SETTINGS),
        "the package's args and kwargs are not those of a Demucs: give one that denoiser saved",
    )
    return {**SETTINGS, **dict(zip(SETTINGS, args, strict=False)), **kwargs}, state


def _settings_from_shapes(state: Mapping[str, Any], path: Path) -> dict[str, Any]:
    def shape(name: str, dims: int) -> tuple[int, ...]:
        value = state.get(name)
        require(
            _is_plain(value) and value.dim() == dims,
            f"the state dict has no {name} of {dims} dimensions: {GIVE_CHECKPOINT}",
        )
        return tuple(state[name].shape)

    depth = sum(f"encoder.{level}.0.weight" in state for level in range(len(state)))
    channels = tuple(shape(f"encoder.{level}.0.weight", 3)[0] for level in range(max(depth, 1)))
    hidden, chin, kernel_size = shape("encoder.0.0.weight", 3)
    is_causal = "lstm.lstm.weight_ih_l0_reverse" not in state
    settings = {**SETTINGS, **_growth(channels), "hidden": hidden, "depth": depth, "causal": is_causal}
    settings |= {
        "chin": chin,
        "chout": shape(f"decoder.{depth - 1}.2.weight", 3)[1],
        "kernel_size": kernel_size,
    }
    settings["glu"] = shape("encoder.0.2.weight", 3)[0] == 2 * hidden
    if not is_causal and hashlib.sha256(path.read_bytes()).hexdigest().startswith(VALENTINI_NC_SHA256):
        settings |= VALENTINI_NC_SETTINGS
    return settings


def _growth(channels: tuple[int, ...]) -> dict[str, Any]:
    """growth and max_hidden that give these channels: a state dict does not say them."""
    ratios = [inner / outer for outer, inner in pairwise(channels)]
    for max_hidden in (SETTINGS["max_hidden"], channels[-1]):
        uncapped = [ratio for ratio, inner in zip(ratios, channels[1:], strict=True) if inner < max_hidden]
        # Widths are rounded down, so growth is at least each ratio; what is added makes up for rounding of ours.
        least = max([1.0, *uncapped])
        for growth in (SETTINGS["growth"], least, least + 1e-9, max([1.0, *ratios])):
            found: dict[str, Any] = {"growth": growth, "max_hidden": max_hidden}
            if (
                DemucsConfig(hidden=channels[0], depth=len(channels), resample=1, **found).channels
                == channels
            ):
                return found
    raise ValueError(f"the levels have {channels} channels, which is no steady growth: {GIVE_CHECKPOINT}")


def _config(settings: Mapping[str, Any], weights: Mapping[str, Tensor]) -> DemucsConfig:
    unknown = sorted(shown(name) for name in settings.keys() - SETTINGS.keys())
    foreign = ", ".join(unknown)
    require(not unknown, f"the settings {foreign} are not denoiser's: give a package that it saved")

    def expect(name: str, is_valid: bool, what: str) -> None:
        found = shown(settings[name])
        require(is_valid, f"the setting {name} is {found}: {what} was expected, {GIVE_PACKAGE}")

    for name, default in SETTINGS.items():
        value, wants_flag = settings[name], isinstance(default, bool)
        is_kind = isinstance(value, bool) == wants_flag and isinstance(value, bool | int | float)
        expect(name, is_kind, "true or false" if wants_flag else "a number")
        expect(name, abs(value) <= MAX_NUMBER, f"a number up to {MAX_NUMBER}")
    for name in ("chin", "chout"):
        require(settings[name] == 1, f"{name} is {settings[name]}: only models of one channel can be loaded")
    require(settings["glu"], "glu is False: only models with GLU can be loaded")
    whole = ("hidden", "depth", "kernel_size", "stride", "resample", "max_hidden", "sample_rate")
    for name in whole:
        expect(name, float(settings[name]).is_integer(), "a whole number")
    numbers: dict[str, Any] = {name: int(settings[name]) for name in whole}
    # First of all: the config computes with the depth.
    depth = numbers["depth"]
    require(
        depth <= len(weights) and f"encoder.{depth - 1}.0.weight" in weights,
        f"the weights have not the {depth} levels of the settings: {GIVE_CHECKPOINT}",
    )
    return DemucsConfig(
        **{"kernel" if name == "kernel_size" else name: value for name, value in numbers.items()},
        causal=settings["causal"],
        growth=float(settings["growth"]),
        rescale=float(settings["rescale"] or 0),
        normalize="utterance" if settings["normalize"] else "none",
        level_floor=float(settings["floor"]),
    )


def _checked_weights(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """In float32; ValueError unless all are named, finite tensors of floating-point numbers."""
    weights = {}
    for name, value in state.items():
        require(
            isinstance(name, str) and re.fullmatch(r"[\w.]{1,100}", name) is not None,
            f"the state dict has the entry {shown(name)}, which names no weights: {GIVE_CHECKPOINT}",
        )
        require(
            _is_plain(value) and value.is_floating_point(),
            f"the entry {name!r} of the state dict holds no weights: {GIVE_CHECKPOINT}",
        )
        weights[name] = value.detach().float()
        require(
            bool(weights[name].isfinite().all()),
            f"the weights {name} are not all finite: the training that wrote them failed, give another checkpoint",
        )
    return weights


def _check_levels(weights: Mapping[str, Tensor], config: DemucsConfig) -> None:
    """The widest layers, before a model is made: settings and a few narrow weights may ask for any memory."""
    expected: dict[str, tuple[int, ...]] = {}
    for level, (outer, inner) in enumerate(pairwise((1, *config.channels))):
        expected[f"encoder.{level}.0.weight"] = (inner, outer, config.kernel)
        expected[f"encoder.{level}.2.weight"] = (2 * inner, inner, 1)
        expected["lstm.lstm.weight_hh_l0"] = (4 * inner, inner)
    wide = r"encoder\.\d+\.[02]\.weight|lstm\.lstm\.weight_hh_l0"
    _check_shapes({name: value for name, value in weights.items() if re.fullmatch(wide, name)}, expected)


def _check_shapes(weights: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> None:
    problems = [f"{name} is missing" for name in expected if name not in weights]
    problems += [f"{name} is not expected" for name in weights if name not in expected]
    problems += [
        f"{name} is {tuple(weights[name].shape)} instead of {shape}"
        for name, shape in expected.items()
        if name in weights and tuple(weights[name].shape) != shape
    ]
    more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
    require(
        not problems,
        f"the weights are not those of this Demucs ({', '.join(problems[:3])}{more}): {GIVE_CHECKPOINT}",
    )


def _is_plain(value: Any) -> TypeGuard[Tensor]:
    """A tensor whose numbers all lie in the file: none on "meta", sparse, quantized or a small one expanded."""
    return (
        type(value) in (Tensor, nn.Parameter)
        and value.device.type == "cpu"
        and value.layout == torch.strided
        and not (value.is_quantized or value.is_nested)
        and 0 < value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )
