"""WAVs whose samples lie in wider places than they need, or are said to."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest

from tests.ww_data.audio.made_files import sound
from tests.ww_data.made_sounds import RATE
from ww_data import AudioError, read_audio

X = sound(0.5, num_channels=2)
PCM = bytes.fromhex("0100000000001000800000aa00389b71")
OPEN = 0


def wav(
    data: bytes, place_bytes: int, bits: int, *, byte_rate: int = 0, kind: int = 1, size: int = -1
) -> bytes:
    fmt = struct.pack("<HHIIHH", kind, 2, RATE, byte_rate or RATE * place_bytes, place_bytes, bits)
    if kind == 0xFFFE:
        fmt += struct.pack("<HHI", 22, bits, 3) + PCM
    chunks = b"WAVEfmt " + struct.pack("<I", len(fmt)) + fmt + b"data"
    chunks += struct.pack("<I", len(data) if size < 0 else size) + data
    return b"RIFF" + struct.pack("<I", len(chunks)) + chunks


def samples_of(file: bytes) -> np.ndarray:
    return read_audio(io.BytesIO(file))[0]


def in_places_of(num_bytes: int) -> bytes:
    """X, in the upper bits."""
    whole = np.ascontiguousarray((X * (1 << 31)).astype("<i4"))
    return whole.view(np.uint8).reshape(-1, 4)[:, 4 - num_bytes :].tobytes()


@pytest.mark.parametrize("kind", [1, 0xFFFE])
@pytest.mark.parametrize(
    ("num_bytes", "bits"), [(4, 16), (4, 20), (4, 24), (4, 32), (3, 16), (3, 20), (2, 12)]
)
def test_samples_lie_in_the_upper_bits_of_their_places(kind: int, num_bytes: int, bits: int) -> None:
    data = in_places_of(num_bytes)
    for size in (-1, OPEN):
        np.testing.assert_array_equal(samples_of(wav(data, 2 * num_bytes, bits, kind=kind, size=size)), X)


@pytest.mark.parametrize("place_bytes", [0, 2, 8, 12])
def test_places_that_two_others_contradict_are_not_believed(place_bytes: int) -> None:
    np.testing.assert_array_equal(samples_of(wav(in_places_of(2), place_bytes, 16, byte_rate=4 * RATE)), X)
    if place_bytes != 2:
        wide = wav(in_places_of(3), place_bytes, 24, byte_rate=6 * RATE)
        np.testing.assert_array_equal(samples_of(wide), X)


@pytest.mark.parametrize(("place_bytes", "bits", "kind"), [(7, 16, 1), (16, 24, 1), (16, 32, 3)])
def test_places_that_nobody_knows_are_refused(place_bytes: int, bits: int, kind: int) -> None:
    with pytest.raises(
        AudioError, match=f"states {place_bytes} bytes for 2 channel.* of {bits} bits, expected"
    ):
        samples_of(wav(bytes(100 * place_bytes), place_bytes, bits, kind=kind))
