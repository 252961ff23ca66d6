"""Opus: at which rate its sound is to be decoded, so that nothing of it is lost.

Its header states the rate of what was recorded, or 0; libsndfile takes it for the rate to decode at. Yet packets may
hold more, since writers state what they please: each packet begins with what it holds.
"""

from __future__ import annotations

from collections.abc import Iterable

_RATE_AT, _FAMILY_AT, _HEAD_BYTES = 12, 18, 19
_ALL_HZ = 48_000
_ENOUGH_HZ = 24_001  # stated from here on, libsndfile decodes all there is
# By the first five bits of a packet: speech, both, music, for each bandwidth as many as there are lengths.
_NEEDED_HZ = (
    *(8_000, 8_000, 8_000, 8_000, 12_000, 12_000, 12_000, 12_000, 16_000, 16_000, 16_000, 16_000),
    *(24_000, 24_000, 48_000, 48_000),
    *(8_000, 8_000, 8_000, 8_000, 16_000, 16_000, 16_000, 16_000),
    *(24_000, 24_000, 24_000, 24_000, 48_000, 48_000, 48_000, 48_000),
)


class OpusRate:
    """What a stream states, and what its packets need."""

    def __init__(self, head: bytes) -> None:
        """head: the stream's first packet; of another codec, nothing is to be done."""
        self._head = head
        is_opus = head.startswith(b"OpusHead") and len(head) >= _HEAD_BYTES
        self._stated_hz = int.from_bytes(head[_RATE_AT:][:4], "little") if is_opus else _ALL_HZ
        # Packets for several streams hold one for each, of which the first alone is found easily.
        self._needed_hz = _ALL_HZ if is_opus and (head[_FAMILY_AT] or not self._stated_hz) else 0

    def add(self, first_bytes: Iterable[int]) -> None:
        """Packets of sound, by their first bytes."""
        if max(self._stated_hz, self._needed_hz) < _ENOUGH_HZ:
            self._needed_hz = max(self._needed_hz, *(_NEEDED_HZ[byte >> 3] for byte in first_bytes), 0)

    def better_head(self) -> bytes:
        """The first packet, stating the rate that is needed; nothing if it does already."""
        if self._stated_hz >= min(self._needed_hz, _ENOUGH_HZ):
            return b""
        return self._head[:_RATE_AT] + self._needed_hz.to_bytes(4, "little") + self._head[_RATE_AT + 4 :]
