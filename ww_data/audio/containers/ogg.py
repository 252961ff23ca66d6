"""Ogg: pages, each with the number of its stream, its own number in it, and the time at which its sound ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from ww_data.audio.containers.chunks import check_tail
from ww_data.audio.errors import cut_short, damaged, several_tracks
from ww_data.audio.windows import find_bytes, read_at

_HEADER_BYTES = 27
_MAX_BYTES = _HEADER_BYTES + 255 + 10  # with the lengths of its segments, and what says which sound this is
_SOUND = (b"OpusHead", b"\x01vorbis", b"\x7fFLAC", b"Speex   ")  # first in a stream


class _Page(NamedTuple):
    """is_sound: only the first page of a stream says so. time: in samples, 0 in headers, -1 where nothing ends."""

    begins: bool
    is_sound: bool
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

    Raises AudioError where pages are missing, for decoders give up there, and where two that begin together are sound.
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
        if not page.begins and not is_next:
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
    head = read_at(file, place, _MAX_BYTES)
    if head[:4] != b"OggS" or len(head) < _HEADER_BYTES:
        return None
    lengths = head[_HEADER_BYTES:][: head[_HEADER_BYTES - 1]]
    begins = bool(head[5] & 2)
    return _Page(
        begins=begins,
        is_sound=begins and head[_HEADER_BYTES + len(lengths) :].startswith(_SOUND),
        stream=head[14:18],
        number=int.from_bytes(head[18:22], "little"),
        time=int.from_bytes(head[6:14], "little", signed=True),
        num_bytes=_HEADER_BYTES + len(lengths) + sum(lengths),
    )
