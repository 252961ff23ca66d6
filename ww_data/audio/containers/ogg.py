"""Ogg: pages, each with its stream's number, its own number in it, the time at which its sound ends, and a checksum.

Decoders leave out a page whose checksum is wrong, close up what is missing and say nothing: so all are looked at.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from ww_data.audio.containers.chunks import check_tail
from ww_data.audio.containers.opus import OpusRate
from ww_data.audio.containers.vorbis import VorbisStart
from ww_data.audio.errors import cut_short, damaged, several_tracks
from ww_data.audio.windows import Link, find_bytes, read_at

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

    @property
    def lengths(self) -> bytes:
        """Of segments; one of less than 255 bytes ends a packet."""
        return self.data[_HEADER_BYTES:][: self.data[_HEADER_BYTES - 1]]

    @property
    def content(self) -> bytes:
        return self.data[_HEADER_BYTES + len(self.lengths) :]

    @property
    def ends(self) -> bool:
        """Whether it is its stream's last."""
        return bool(self.data[5] & 4)

    def packet_beginnings(self) -> Iterator[int]:
        """The first bytes of the packets that begin here."""
        place, goes_on = 0, self.data[5] & 1
        for length in self.lengths:
            if not goes_on:
                yield from self.content[place : place + min(1, length)]
            place, goes_on = place + length, length == 255

    @property
    def packets(self) -> list[bytes]:
        """What stands here of each packet; the last may go on, on the next page."""
        parts, place, is_new = list[bytes](), 0, True
        for length in self.lengths:
            if is_new:
                parts.append(b"")
            parts[-1] += self.content[place : place + length]
            place, is_new = place + length, length < 255
        return parts


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


class _Group:
    """Streams that begin together, of which one may be sound: two would sound together."""

    def __init__(self, start: int) -> None:
        self.start, self.is_beginning = start, True
        self._clocks: dict[bytes, _Clock] = {}
        self._first: _Page | None = None  # of the sound
        self._first_place = start
        self._opus_rate, self._vorbis_start = OpusRate(b""), VorbisStart(b"")

    def add(self, page: _Page, place: int) -> bool:
        """Whether a page is what should come next. Raises AudioError where a second sound begins."""
        self.is_beginning = page.begins
        is_next = self._clocks.setdefault(page.stream, _Clock()).follows(page, place)
        if page.is_sound:
            if self._first and self._first.stream != page.stream:
                raise several_tracks(2)
            self._first, self._first_place = page, place
            self._opus_rate, self._vorbis_start = OpusRate(page.content), VorbisStart(page.content)
        elif self._first and self._first.stream == page.stream:
            if page.time:
                self._opus_rate.add(page.packet_beginnings())
            if self._vorbis_start.is_waiting:
                is_last_whole = not page.lengths.endswith(b"\xff")
                self._vorbis_start.add(page.packets, is_last_whole, page.time, page.ends)
        return page.begins or is_next

    def link(self, file: BinaryIO, start: int, end: int) -> Link:
        """Raises AudioError if the sound ends before it did."""
        head = b""
        if self._first:
            self._clocks[self._first.stream].check_end(start)
            if better := self._opus_rate.better_head():
                page = self._first.data[: -len(better)] + better
                head = read_at(file, self.start, self._first_place - self.start) + _with_checksum(page)
        return Link(start=self.start, end=end, head=head, begins_before_0=self._vorbis_start.begins_before_0)


def find_streams(file: BinaryIO, start: int, end: int) -> Iterator[Link]:
    """The streams that lie one after the other; those that begin together are one.

    Raises AudioError where pages are missing or damaged, and where two that begin together are sound.
    """
    place, group = start, _Group(start)
    while place < end:
        junk, page = place, _page(file, place)
        if page is None:  # but a tag, say
            place = next(find_bytes(file, b"OggS", place + 1), end)
            page = _page(file, place)
        if page is None:
            check_tail(file, start, junk, end)
            break
        if page.begins and not group.is_beginning:
            yield group.link(file, start, place)
            group = _Group(place)
        is_whole = len(page.data) < page.num_bytes or _with_checksum(page.data) == page.data
        if not is_whole or not group.add(page, place) or not (page.begins or place == junk):
            raise damaged(place - start)
        place += page.num_bytes
    if place > end:
        raise cut_short(end - start, place - start, "bytes")
    yield group.link(file, start, end)


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
