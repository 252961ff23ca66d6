"""The architectures by name, and the presets that have been measured.

build_model("gatewave", hidden=24, depth=4)     build_model(**PRESETS["gatewave-compact"])
"""

from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from typing import Any

from ww_models.architectures.bandmask import BandMask, BandMaskConfig
from ww_models.architectures.demucs import Demucs, DemucsConfig
from ww_models.architectures.gatewave import GateWave, GateWaveConfig
from ww_models.architectures.waveunet import WaveUNet, WaveUNetConfig
from ww_models.checks import require
from ww_models.denoiser import Denoiser, ModelConfig

MAX_HOP_SAMPLES = 1 << 20

MODELS: dict[str, tuple[type[ModelConfig], type[Denoiser]]] = {
    "waveunet": (WaveUNetConfig, WaveUNet),
    "demucs": (DemucsConfig, Demucs),
    "gatewave": (GateWaveConfig, GateWave),
    "bandmask": (BandMaskConfig, BandMask),
}

# Each preset is the keyword arguments of `build_model`. The originals are for comparison with the literature; the
# compact ones are for serving: at most 0.5 GMAC per second of audio, 3 M parameters and 40 ms of latency.
PRESETS: Mapping[str, dict[str, Any]] = {
    "waveunet": {"name": "waveunet", "causal": False, "normalize": "utterance", "gru_layers": 0},
    "demucs48": {"name": "demucs", "hidden": 48},
    "demucs64": {"name": "demucs", "hidden": 64},
    "gatewave": {"name": "gatewave"},
    "waveunet-compact": {
        "name": "waveunet",
        "hidden": 10,
        "growth": 1.4,
        "max_hidden": 96,
        "depth": 8,
        "gru_layers": 2,
        "residual": True,
    },
    "demucs-compact": {
        "name": "demucs",
        "hidden": 24,
        "depth": 4,
        "resample": 2,
        "lstm_layers": 1,
        "residual": True,
    },
    "gatewave-compact": {"name": "gatewave", "hidden": 24, "depth": 4, "gru_layers": 2, "residual": True},
    "bandmask-compact": {"name": "bandmask", "normalize": "none", "hidden": 192, "memory_s": 3.2},
}


def model_config(name: str, **settings: Any) -> ModelConfig:
    """The checked configuration of architecture `name`. ValueError names the nearest known setting."""
    if name not in MODELS:
        use = f"{name!r} is a preset, use build_model(**PRESETS[{name!r}])"
        raise ValueError(
            f"unknown architecture {name!r}: {use if name in PRESETS else _nearest(name, MODELS)}"
        )
    config_type, _ = MODELS[name]
    known = {field.name for field in fields(config_type)}
    for key in settings:
        if key not in known:
            raise ValueError(f"unknown setting {key!r} of {name}: {_nearest(key, known)}")
    return config_type(**settings)


def build_model(name: str, **settings: Any) -> Denoiser:
    """A new, untrained model of architecture `name` ("waveunet", "demucs", "gatewave" or "bandmask")."""
    config = model_config(name, **settings)
    model = MODELS[name][1](config)
    require(
        model.hop_samples <= MAX_HOP_SAMPLES,
        f"a step of a stream would have {model.hop_samples} samples, to hold whole ones of level_hop "
        f"({model.config.level_hop}) and of the layers ({model.stride}): give a level_hop that one of both divides",
    )
    return model


def _nearest(name: str, known: Any) -> str:
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(sorted(known))}"
