"""What a decoder gives, whichever it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

Block = npt.NDArray[Any]
SampleType = Literal["float32", "int16"]
BLOCK_FRAMES = 1 << 18  # what is handed on at once
MIN_GAP_S = 0.2  # sound that a clock leaves out; less is jitter
# The speakers that a FLAC or Ogg of so many channels is for, by their standards: WAV's words for them.
SPEAKERS = {3: 0x7, 4: 0x33, 5: 0x37, 6: 0x3F, 7: 0x70F, 8: 0x63F}
# Where Ogg, of Vorbis or Opus, has the channels that all others have in WAV's order.
_IN_OGG = {
    3: (0, 2, 1),
    5: (0, 2, 1, 3, 4),
    6: (0, 2, 1, 5, 3, 4),
    7: (0, 2, 1, 6, 5, 3, 4),
    8: (0, 2, 1, 7, 5, 6, 3, 4),
}


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


def from_ogg_order(samples_TC: Block) -> Block:
    """Samples as an Ogg of Vorbis or Opus has them, with their channels in WAV's order."""
    order = _IN_OGG.get(samples_TC.shape[1])
    return np.take(samples_TC, order, axis=1) if order else samples_TC


def to_ogg_order(samples_TC: Block) -> Block:
    """The reverse of `from_ogg_order`."""
    order = _IN_OGG.get(samples_TC.shape[1])
    return np.take(samples_TC, np.argsort(order), axis=1) if order else samples_TC


def silence(num_frames: int, like_TC: Block) -> Iterator[Block]:
    """So many frames of it, as samples of this type and as many channels."""
    value = 128 if like_TC.dtype == np.uint8 else 0
    for start in range(0, num_frames, BLOCK_FRAMES):
        shape = (min(BLOCK_FRAMES, num_frames - start), like_TC.shape[1])
        yield np.full(shape, value, like_TC.dtype)
