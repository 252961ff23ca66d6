"""Ogg: pages, each with its stream's number, its own number in it, the time at which its sound ends, and a checksum.

Decoders leave out a page whose checksum is wrong, close up what is missing and say nothing: so all are looked at.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from ww_data.audio.containers.chunks import check_tail
from ww_data.audio.errors import cut_short, damaged, several_tracks
from ww_data.audio.windows import find_bytes, read_at

_HEADER_BYTES = 27
_CRC_AT = 22
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_SOUND = (b"OpusHead", b"\x01vorbis", b"\x7fFLAC", b"Speex   ")  # first in a stream


class _Page(NamedTuple):
    """time: in samples, 0 in headers, -1 where nothing ends. num_bytes: more than there are, if it is cut."""

    data: bytes
    begins: bool
    is_sound: bool  # only the first page of a stream says so
    stream: bytes
    number: int
    time: int
    num_bytes: int


class _Clock:
    """The pages of one stream, as they should follow each other."""

    def __init__(self) -> None:
        self._number, self._latest, self._late_place = -1, 0, -1

    def follows(self, page: _Page, place: int) -> bool:
        """Whether no page is missing before this one; after the headers some may be, for who listens comes late."""
        is_next = self._number < 0 or page.number == self._number + 1
        if page.time:
            self._number = page.number
        self._late_place = place if page.time < self._latest else -1
        self._latest = max(self._latest, page.time)
        return is_next

    def check_end(self, start: int) -> None:
        """Raises AudioError if the last page ends before an earlier one: decoders leave out what is behind."""
        if self._late_place >= 0:
            raise damaged(self._late_place - start)


def find_starts(file: BinaryIO, start: int, end: int) -> Iterator[int]:
    """Where a page begins a stream and the one before did not: those that begin together sound together.

    Raises AudioError where pages are missing or damaged, and where two that begin together are sound.
    """
    place, is_beginning = start, True
    clocks: dict[bytes, _Clock] = {}
    sounds: set[bytes] = set()
    while place < end:
        junk, page = place, _page(file, place)
        if page is None:  # but a tag, say
            place = next(find_bytes(file, b"OggS", place + 1), end)
            page = _page(file, place)
        if page is None:
            check_tail(file, start, junk, end)
            break
        if page.begins and not is_beginning:
            _check_ends(clocks, sounds, start)
            yield place
            clocks, sounds = {}, set()
        is_next = clocks.setdefault(page.stream, _Clock()).follows(page, place) and place == junk
        is_whole = len(page.data) < page.num_bytes or _with_checksum(page.data) == page.data
        if not is_whole or not (page.begins or is_next):
            raise damaged(place - start)
        is_beginning = page.begins
        if page.is_sound:
            sounds.add(page.stream)
        if len(sounds) > 1:
            raise several_tracks(len(sounds))
        place += page.num_bytes
    if place > end:
        raise cut_short(end - start, place - start, "bytes")
    _check_ends(clocks, sounds, start)


def _check_ends(clocks: dict[bytes, _Clock], sounds: set[bytes], start: int) -> None:
    for stream in sounds:
        clocks[stream].check_end(start)


def _page(file: BinaryIO, place: int) -> _Page | None:
    """The page at a place, if one is there."""
    head = read_at(file, place, _HEADER_BYTES)
    if head[:4] != b"OggS" or len(head) < _HEADER_BYTES:
        return None
    lengths = file.read(head[-1])  # of segments
    content = file.read(sum(lengths))
    begins = bool(head[5] & 2)
    return _Page(
        data=head + lengths + content,
        begins=begins,
        is_sound=begins and content.startswith(_SOUND),
        stream=head[14:18],
        number=int.from_bytes(head[18:_CRC_AT], "little"),
        time=int.from_bytes(head[6:14], "little", signed=True),
        num_bytes=_HEADER_BYTES + head[-1] + sum(lengths),
    )


def _with_checksum(page: bytes) -> bytes:
    """A page with the checksum that it should have: zlib's, with all bits the other way round, and none inverted."""
    before, after = page[:_CRC_AT], page[_CRC_AT + 4 :]
    crc = ~zlib.crc32((before + bytes(4) + after).translate(_REVERSED), 0xFFFFFFFF) & 0xFFFFFFFF
    return before + crc.to_bytes(4, "big").translate(_REVERSED) + after
