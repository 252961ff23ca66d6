"""How loud a recording may be: what is damage rather than sound, and what files have no room for."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ww_data.audio import AudioError, Reader, iter_blocks

# Beyond this a sample is damage, not sound; full scale is 1.
MAX_PEAK = 1e4
_HEARD_DB = 0.05


def sound_blocks(file: Reader, name: str) -> Iterator[np.ndarray]:
    """`iter_blocks` of a recording; samples that are out of all bounds are an AudioError, too."""
    for block_TC in iter_blocks(file, name):
        if np.abs(block_TC).max() > MAX_PEAK:
            raise AudioError(f"{name}: holds samples beyond {MAX_PEAK:g} times full scale: scale it to +-1")
        yield block_TC


def saturated_db(peak: float) -> float:
    """How far a result with this peak is above full scale, where integers cut it off; 0 if nobody would hear it."""
    peak_db = 20 * math.log10(peak) if peak > 1 else 0.0
    return peak_db if peak_db >= _HEARD_DB else 0.0


def saturation_note(name: str, peak: float) -> str:
    """What a result with this peak loses in a file, in one line; "" for one that fits."""
    if not (peak_db := saturated_db(peak)):
        return ""
    return f"{name}: the result peaks {peak_db:.1f} dB above full scale and is cut off there; scale the input down"
