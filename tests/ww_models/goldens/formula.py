"""Weights and signals that are the same on every machine, so that goldens need not carry them."""

import zlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def uniform(name: str, count: int) -> NDArray[np.float64]:
    """`count` numbers in [-1, 1) that only the name decides: a hash of each index, in whole numbers."""
    mixed = np.arange(count, dtype=np.uint32) + np.uint32(zlib.crc32(name.encode()))
    for factor in (0x7FEB352D, 0x846CA68B):
        mixed ^= mixed >> np.uint32(16)
        mixed *= np.uint32(factor)
    mixed ^= mixed >> np.uint32(15)
    return mixed / 2.0**31 - 1


def denoiser_state(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """float32 weights of a Demucs, of a size that neither swells nor loses a signal on its way through."""
    state = {}
    for name, shape in shapes.items():
        if "bias" in name:
            size = 0.1
        elif "lstm" in name:
            size = 2.0 / shape[-1] ** 0.5
        else:
            is_transposed = name.startswith("decoder") and name.endswith(".2.weight")
            # Of a transposed convolution with half the kernel as stride two taps reach each output.
            fan_in = 2 * shape[0] if is_transposed else shape[1] * shape[2]
            size = 2.5 / fan_in**0.5
        values = size * uniform(name, int(np.prod(shape)))
        state[name] = torch.from_numpy(values.astype(np.float32).reshape(shape))
    return state


def signal(name: str, num_samples: int, batch: int = 1) -> Tensor:
    """float32 (B, 1, T): a tone that swells, in noise, at about -20 dBFS."""
    time_T = np.arange(num_samples) / 16_000
    tone_T = np.sin(2 * np.pi * 310 * time_T) * np.sin(2 * np.pi * 7 * time_T + 1)
    noise_BT = uniform(name, batch * num_samples).reshape(batch, num_samples)
    return torch.from_numpy((0.1 * tone_T + 0.1 * noise_BT).astype(np.float32))[:, None]
