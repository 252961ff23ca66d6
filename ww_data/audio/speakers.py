"""Which speakers the channels of a recording are for, and where in it WAV's order finds them.

PyAV lets go of an unusual order twice, which ends the process, also at the mere look at it: here it is taken away from
the codec before anything is decoded.
"""

from __future__ import annotations

import io
import struct
from typing import Any, NamedTuple

import numpy as np

from ww_data.audio.reader import Block

# FFmpeg's names of WAV's speakers, from the lowest bit on.
_SPEAKERS = (
    *("FL", "FR", "FC", "LFE", "BL", "BR", "FLC", "FRC", "BC", "SL", "SR"),
    *("TC", "TFL", "TFC", "TFR", "TBL", "TBC", "TBR"),
)
_MAX_CHANNELS = 64  # more have no speakers
_CAF_FORMAT = struct.Struct(">4sqd4sIIIII")
_CAF_RATE_HZ, _CAF_BITS = 48_000.0, 16


class Speakers(NamedTuple):
    """order: the channel of the recording that is WAV's k-th; () where they lie so, or nobody knows.
    bits: WAV's word for the speakers; 0 where it has none for them."""

    order: tuple[int, ...] = ()
    bits: int = 0

    @property
    def mask(self) -> int:
        """As `Reader` has it: of one or two channels nobody needs to be told."""
        return self.bits if self.bits.bit_count() > 2 else 0

    def ordered(self, samples_TC: Block) -> Block:
        """Samples as the recording has them, with their channels in WAV's order."""
        return np.take(samples_TC, self.order, axis=1) if self.order else samples_TC


def speakers_of(layout: Any) -> Speakers:
    """Of an `av.AudioLayout`; where a speaker is none of WAV's, or has two channels, these stay as they lie."""
    names = [channel.name for channel in layout.channels]
    if len(set(names)) < len(names) or not set(names) <= set(_SPEAKERS):
        return Speakers()
    places = [_SPEAKERS.index(name) for name in names]
    order = tuple(sorted(range(len(places)), key=places.__getitem__))
    return Speakers(order if places != sorted(places) else (), sum(1 << place for place in places))


def take_speakers(context: Any) -> Speakers:
    """What an `av.CodecContext`, which has not begun to decode, was told by the file about its channels.

    Of an order that is not WAV's it knows no more than their number afterwards. Decoders that find theirs in the sound
    itself set it anew.
    """
    layout = context.layout  # no copy: the last one to hold it lets it go
    speakers = speakers_of(layout)
    if layout.nb_channels:
        is_usual = speakers.bits and not speakers.order
        context.layout = hex(speakers.bits) if is_usual else f"{layout.nb_channels} channels"
    return speakers


def apples_speakers(description: bytes, num_channels: int) -> Speakers:
    """What an AudioChannelLayout of CAF or AIFF says: FFmpeg knows all of Apple's, and is asked by a CAF without sound.

    description: its content; what is damaged counts for nothing.
    """
    if not description or num_channels > _MAX_CHANNELS:
        return Speakers()
    import av

    frame_bytes = num_channels * _CAF_BITS // 8
    caf = b"caff\0\1\0\0" + _CAF_FORMAT.pack(
        *(b"desc", _CAF_FORMAT.size - 12, _CAF_RATE_HZ, b"lpcm", 2, frame_bytes, 1, num_channels, _CAF_BITS)
    )
    caf += struct.pack(">4sq", b"chan", len(description)) + description + struct.pack(">4sqI", b"data", 4, 0)
    try:
        with av.open(io.BytesIO(caf), format="caf") as container:
            return take_speakers(container.streams.audio[0].codec_context)
    except (av.FFmpegError, IndexError):
        return Speakers()
