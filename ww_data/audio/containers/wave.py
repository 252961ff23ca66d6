"""How a WAV says that its samples lie: numbers that contradict each other here and there."""

from __future__ import annotations

import struct

from ww_data.audio.errors import AudioError

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_IN_BLOCKS = (2, 0x11, 0x31)  # ADPCM of Microsoft and of IMA, GSM 6.10
_BITS_AT = 14
_MAX_BYTES = 4  # of a sample, as an integer


def channel_mask(fmt: bytes) -> int:
    """Which speakers the channels are for; only WAVE_FORMAT_EXTENSIBLE says so."""
    is_extensible = len(fmt) >= 24 and fmt[:2] == b"\xfe\xff"
    return int.from_bytes(fmt[20:24], "little") if is_extensible else 0


def frames_of_blocks(fmt: bytes, stated: int, num_bytes: int) -> int:
    """The frames that a WAV states, where its blocks have room for them and the last one for more; 0 otherwise.

    stated: by its chunk "fact". num_bytes: of all blocks.
    """
    if len(fmt) < 20 or int.from_bytes(fmt[:2], "little") not in _IN_BLOCKS:
        return 0
    block_bytes, block_frames = (int.from_bytes(fmt[at : at + 2], "little") for at in (12, 18))
    room = -(-num_bytes // max(1, block_bytes)) * block_frames
    return stated if room - block_frames < stated < room else 0


def consistent(fmt: bytes, order: str) -> bytes:
    """A format whose samples are as wide as their places: narrower ones lie in the upper bits of theirs.

    order: of bytes, `struct`'s. Raises AudioError, without a name, where no decoder knows such places.
    """
    if len(fmt) < _BITS_AT + 2:
        return fmt
    kind, num_channels, rate, rate_bytes, place_bytes, bits = struct.unpack_from(order + "HHIIHH", fmt)
    if kind == _EXTENSIBLE and len(fmt) >= 26:
        kind = struct.unpack_from(order + "H", fmt, 24)[0]
    packed_bytes = num_channels * -(-bits // 8)
    if kind not in (_PCM, _FLOAT) or not num_channels or place_bytes <= packed_bytes:
        return fmt
    if rate_bytes == rate * packed_bytes:  # two against one
        return fmt[: _BITS_AT - 2] + struct.pack(order + "H", packed_bytes) + fmt[_BITS_AT:]
    if kind == _FLOAT or place_bytes % num_channels or place_bytes > num_channels * _MAX_BYTES:
        raise AudioError(
            f"states {place_bytes} bytes for {num_channels} channel(s) of {bits} bits, expected {packed_bytes}: "
            "write it again from its source"
        )
    return fmt[:_BITS_AT] + struct.pack(order + "H", 8 * place_bytes // num_channels) + fmt[_BITS_AT + 2 :]
