"""Randomness from names and numbers alone: no state, the same on every machine and in every process."""

from __future__ import annotations

import hashlib

import numpy as np

_ZEROS = np.zeros(4, np.uint64)


def hash64(text: str) -> int:
    """A 64-bit number that stands for a text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def keyed_order(seed: int, name: str) -> bytes:
    """A sort key that shuffles names."""
    return hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=16).digest()


def philox(seed: int, epoch: int, key: int) -> np.random.Philox:
    """A counter-based stream for (seed, epoch, key), the first two below 2**32, the last below 2**64."""
    # A plain list of two integers would become float64 where one is above 2**63, and keys would run together.
    return np.random.Philox(key=np.array([_upper_key(seed, epoch), key], dtype=np.uint64))


class PhiloxStreams:
    """One generator that turns to one stream after another, which takes a tenth of the time of a new one for each."""

    def __init__(self) -> None:
        self._bits = philox(0, 0, 0)
        self._generator = np.random.Generator(self._bits)

    def at(self, seed: int, epoch: int, key: int) -> np.random.Generator:
        """At the start of the stream of `philox(seed, epoch, key)`. It is the same generator that was given before."""
        self._bits.state = {
            "bit_generator": "Philox",
            "state": {"counter": _ZEROS, "key": np.array([_upper_key(seed, epoch), key], np.uint64)},
            "buffer": _ZEROS,
            "buffer_pos": 4,  # behind its end: nothing is left of the stream before
            "has_uint32": 0,
            "uinteger": 0,
        }
        return self._generator


def _upper_key(seed: int, epoch: int) -> int:
    if not (0 <= seed < 1 << 32 and 0 <= epoch < 1 << 32):
        raise ValueError(f"seed is {seed} and epoch {epoch}: expected 0 to 2**32 - 1")
    return seed << 32 | epoch


def scattered(key: int, count: int) -> np.ndarray:
    """`count` numbers (float64) evenly over [0, 1), a pure function of the key: SplitMix64 (Steele et al. 2014)."""
    with np.errstate(over="ignore"):  # it counts modulo 2**64
        z = np.uint64(key) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)) * 2.0**-53
