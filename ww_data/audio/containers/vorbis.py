"""Vorbis: how much sound the first page of a stream holds, held against the time at which it says that it ends.

A stream that was cut out of a longer one without being encoded again begins before its time 0. Decoders that count from
their first sample stop as much too early.

A packet gives a quarter of the sum of its block's size and that of the one before it (Vorbis I specification, 4.3.8).
The mode that its first byte names says which of two sizes that is; modes stand at the end of the setup header, whose
parts before them have no length: so it is read from behind.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

_IDENTIFICATION_BYTES, _SIZES_AT = 30, 28
_NUM_HEADERS = 3
_MODE_BITS, _MODE_COUNT_BITS, _MAX_MODES = 41, 6, 64


class VorbisStart:
    """Takes the pages of a stream as long as `is_waiting`; `begins_before_0` after its first page of sound."""

    def __init__(self, head: bytes) -> None:
        """head: the stream's first packet; of another codec, nothing is to be done."""
        self.is_waiting = head.startswith(b"\x01vorbis") and len(head) >= _IDENTIFICATION_BYTES
        sizes = head[_SIZES_AT] if self.is_waiting else 0
        self._sizes = 1 << (sizes & 15), 1 << (sizes >> 4)
        self._headers, self._part = [head], b""
        self.begins_before_0 = False

    def add(self, packets: Sequence[bytes], is_last_whole: bool, time: int, is_last_page: bool) -> None:
        """packets: the parts of packets on the next page; time: at which the last one that ends there ends."""
        if len(self._headers) < _NUM_HEADERS:
            whole = [self._part + packets[0], *packets[1:]] if packets else []
            self._part = whole.pop() if whole and not is_last_whole else b""
            self._headers += whole
        elif time >= 0:
            self.is_waiting = False
            ended = packets if is_last_whole else packets[:-1]
            # A stream of one page may state less than it holds: its end is cut off.
            self.begins_before_0 = not is_last_page and time < self._num_samples(ended)

    def _num_samples(self, packets: Sequence[bytes]) -> int:
        """0 where the headers are none that this understands."""
        are_long = long_modes(self._headers[-1])
        if not are_long:
            return 0
        mode_bits = (len(are_long) - 1).bit_length()
        modes = [packet[0] >> 1 & (1 << mode_bits) - 1 for packet in packets if packet and not packet[0] & 1]
        sizes = [self._sizes[are_long[mode]] for mode in modes if mode < len(are_long)]
        return sum(before + now for before, now in itertools.pairwise(sizes)) // 4


def long_modes(setup: bytes) -> list[bool]:
    """Of each mode, whether its blocks are long; [] where there are none to be found."""
    bits = int.from_bytes(setup, "little")
    place = bits.bit_length() - 1  # of the bit that ends the header
    are_long: list[bool] = []
    found: list[bool] = []
    while place >= _MODE_BITS + _MODE_COUNT_BITS and len(are_long) < _MAX_MODES:
        place -= _MODE_BITS
        mode = bits >> place & (1 << _MODE_BITS) - 1
        if (
            mode >> 33 >= _MAX_MODES or mode >> 1 & (1 << 32) - 1
        ):  # its mapping; two types, of which there is one
            break
        are_long.insert(0, bool(mode & 1))
        if (bits >> place - _MODE_COUNT_BITS & (1 << _MODE_COUNT_BITS) - 1) + 1 == len(are_long):
            found = are_long.copy()
    return found
