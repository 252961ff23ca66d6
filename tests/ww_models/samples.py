"""Small signals and models for the tests of ww_models."""

import gc
from types import FunctionType, ModuleType

import numpy as np
import torch
from torch import Tensor

from ww_models import PRESETS, Denoiser, build_model

CAUSAL_PRESETS = [name for name, settings in PRESETS.items() if settings.get("causal", True)]
COMPACT_PRESETS = [name for name in PRESETS if name.endswith("-compact")]

_FEW_BINS = {"fft_size": 64, "hop": 32, "num_bands": 8, "num_low_bins": 12}

# Every architecture, causal and not, with all its options, small enough to run in milliseconds.
SMALL = {
    "waveunet": {"name": "waveunet", "hidden": 4, "depth": 3, "growth": 1.5},
    "waveunet-original": {
        "name": "waveunet",
        "hidden": 4,
        "depth": 3,
        "gru_layers": 0,
        "causal": False,
        "normalize": "utterance",
    },
    "waveunet-both-ways": {"name": "waveunet", "hidden": 4, "depth": 2, "causal": False, "normalize": "none"},
    "demucs": {"name": "demucs", "hidden": 4, "depth": 3, "sinc_zeros": 8},
    "demucs-x2": {
        "name": "demucs",
        "hidden": 4,
        "depth": 3,
        "resample": 2,
        "sinc_zeros": 8,
        "sinc_lookahead": 3,
    },
    "demucs-x1": {"name": "demucs", "hidden": 8, "depth": 2, "resample": 1, "normalize": "none"},
    "demucs-original": {"name": "demucs", "hidden": 4, "depth": 3, "causal": False, "normalize": "utterance"},
    "gatewave": {"name": "gatewave", "hidden": 4, "depth": 3, "gru_layers": 2},
    "gatewave-original": {
        "name": "gatewave",
        "hidden": 4,
        "depth": 3,
        "causal": False,
        "normalize": "utterance",
    },
    "bandmask": {"name": "bandmask", "hidden": 8, **_FEW_BINS},
    "bandmask-dense": {
        "name": "bandmask",
        "hidden": 8,
        **_FEW_BINS,
        "hop": 8,
        "num_taps": 1,
        "gru_layers": 1,
        "memory_s": 0.01,
        "normalize": "none",
    },
    "bandmask-both-ways": {
        "name": "bandmask",
        "hidden": 8,
        **_FEW_BINS,
        "memory_s": 0.01,
        "causal": False,
        "normalize": "utterance",
    },
}
SMALL_CAUSAL = [name for name, settings in SMALL.items() if settings.get("causal", True)]
SMALL_BOUNDED = [
    name
    for name, settings in SMALL.items()
    if settings.get("causal", True) or settings.get("gru_layers") == 0
]

# The causal form of every preset. Width changes nothing about time, so the originals are narrow here.
CAUSAL_FORMS = {
    **{name: SMALL[name] for name in SMALL_CAUSAL},
    **{name: PRESETS[name] for name in COMPACT_PRESETS},
    "waveunet-causal": {"name": "waveunet", "gru_layers": 0, "hidden": 4},
    "demucs48-narrow": {**PRESETS["demucs48"], "hidden": 4},
    "bandmask-wide": {"name": "bandmask", "hidden": 4, "sample_rate": 48_000, "fft_size": 1536, "hop": 384},
    "gatewave-narrow": {**PRESETS["gatewave"], "hidden": 4},
}


def small(name: str, **settings: object) -> Denoiser:
    return build_model(**{**SMALL[name], **settings})


def heard(model: Denoiser) -> Denoiser:
    """The model in eval mode, after some training steps' worth of BatchNorm statistics."""
    model.train()
    with torch.no_grad():
        for seed in range(3):
            # At least two frames of the innermost layer, or its BatchNorm has nothing to average.
            num_samples = max(4000, 4 * model.stride)
            model(speech_like(num_samples, seed, batch=2) + noise(num_samples, seed, batch=2))
    return model.eval()


def speech_like(num_samples: int, seed: int = 0, batch: int = 1) -> Tensor:
    """(B, 1, T): harmonics of a gliding pitch in syllables, -20 dBFS or so."""
    generator = torch.Generator().manual_seed(seed)
    time_T = torch.arange(num_samples) / 16_000
    voices = []
    for _ in range(batch):
        pitch_hz = 90 + 80 * torch.rand(1, generator=generator) + 20 * torch.sin(5 * time_T)
        phase_T = 2 * torch.pi * pitch_hz.cumsum(0) / 16_000
        voice_T = sum((phase_T * k).sin() / k for k in range(1, 20))
        syllables_T = (2 * torch.pi * 3.5 * time_T).sin().clamp(min=0) ** 0.5
        voices.append(0.1 * voice_T * syllables_T)
    return torch.stack(voices)[:, None]


def noise(num_samples: int, seed: int = 1, batch: int = 1, rms: float = 0.05) -> Tensor:
    return rms * torch.randn(batch, 1, num_samples, generator=torch.Generator().manual_seed(seed))


def held_bytes(root: object) -> int:
    """What an object keeps alive: the memory of all arrays and tensors that it reaches, and a byte for each object."""
    memories: dict[int, int] = {}
    seen: dict[int, object] = {}
    waiting = [root]
    while waiting:
        item = waiting.pop()
        if id(item) in seen or isinstance(item, type | ModuleType):
            continue
        seen[id(item)] = item
        if isinstance(item, np.ndarray):
            # A view holds what it is a view of.
            while isinstance(item.base, np.ndarray):
                item = item.base
            memories[item.ctypes.data] = item.nbytes
        elif isinstance(item, Tensor):
            memories[item.untyped_storage().data_ptr()] = item.untyped_storage().nbytes()
        elif isinstance(item, FunctionType):
            waiting += [cell.cell_contents for cell in item.__closure__ or ()]
        else:
            waiting += gc.get_referents(item)
    return sum(memories.values()) + len(seen)
