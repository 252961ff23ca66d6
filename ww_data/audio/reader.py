"""What a decoder gives, whichever it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

Block = npt.NDArray[Any]
SampleType = Literal["float32", "int16"]
BLOCK_FRAMES = 1 << 18  # what is handed on at once


class Reader(Protocol):
    """An open recording, read from front to back.

    sample_rate: in Hz.
    subtype: libsndfile's word for how samples are stored: PCM_16, FLOAT, VORBIS, ...
    num_frames: how many the header promises; None if it does not, and decoding alone tells.
    channel_mask: WAV's word for which speakers the channels are for; 0 if nothing says so.
    """

    sample_rate: int
    num_channels: int
    subtype: str
    num_frames: int | None
    channel_mask: int

    def blocks(self, dtype: SampleType, start: int = 0) -> Iterator[Block]:
        """All samples from frame `start` on, as blocks (n, C) of any length, floats at full scale +-1. Once only.

        Raises AudioError, without a name, for what cannot be decoded or ends before its header says.
        """

    def close(self) -> None: ...


def converted(samples: Block, dtype: SampleType) -> Block:
    """Decoded samples, integers of any width or floats, in the type asked for."""
    if dtype == "int16":
        if samples.dtype == np.int16:
            return samples
        if samples.dtype == np.uint8:
            return (samples.astype(np.int16) - 128) << 8
        raise TypeError(f"{samples.dtype} does not go into 16 bits without a loss")
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / 128
    if samples.dtype == np.int16:
        return samples / np.float32(1 << 15)
    if samples.dtype == np.int32:
        return samples.astype(np.float32) / np.float32(1 << 31)
    return samples.astype(np.float32, copy=False)
