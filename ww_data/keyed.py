"""Randomness from names and numbers alone: no state, the same on every machine and in every process."""

from __future__ import annotations

import hashlib

import numpy as np


def hash64(text: str) -> int:
    """A 64-bit number that stands for a text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def keyed_order(seed: int, name: str) -> bytes:
    """A sort key that shuffles names."""
    return hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=16).digest()


def philox(seed: int, epoch: int, key: int) -> np.random.Philox:
    """A counter-based stream for (seed, epoch, key), the first two below 2**32, the last below 2**64."""
    if not (0 <= seed < 1 << 32 and 0 <= epoch < 1 << 32):
        raise ValueError(f"seed is {seed} and epoch {epoch}: expected 0 to 2**32 - 1")
    # A plain list of two integers would become float64 where one is above 2**63, and keys would run together.
    return np.random.Philox(key=np.array([seed << 32 | epoch, key], dtype=np.uint64))
