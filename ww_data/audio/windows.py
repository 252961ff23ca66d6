"""A stretch of a file, as a file of its own."""

from __future__ import annotations

import io
import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import BinaryIO

_PIECE_BYTES = 1 << 22
_FIRST_PIECE_BYTES = 1 << 12
_FAR_BYTES = 1 << 42  # no file is as long; far beyond, systems refuse to go


@dataclass(frozen=True, kw_only=True)
class Link:
    """A stream in a file: where it begins and ends, and what is to be read in place of its first bytes, where a writer
    left a length open. channel_mask: WAV's word for which speakers its channels are for; 0 if it does not say.
    apples_layout: that of CAF and AIFF, an AudioChannelLayout; empty if it does not say.
    is_cut_out: of a longer stream, with that one's numbers, so that no decoder finds a place in it. gaps: begins
    and ends of what is left out, in order. num_frames: where the last block holds more than the sound; else 0.
    begins_before_0: on its clock, which libsndfile does not mind."""

    start: int
    end: int
    head: bytes = b""
    channel_mask: int = 0
    apples_layout: bytes = b""
    is_cut_out: bool = False
    gaps: tuple[tuple[int, int], ...] = ()
    num_frames: int = 0
    begins_before_0: bool = False


class Window(io.RawIOBase):
    """A link, as decoders want it: readable, seekable, from 0 on."""

    def __init__(self, file: BinaryIO, link: Link) -> None:
        self._file, self._head, self._place = file, link.head, 0
        self._starts = [link.start, *(end for _, end in link.gaps)]  # of what is to be read
        ends = [*(start for start, _ in link.gaps), link.end]
        sizes = (end - start for start, end in zip(self._starts, ends, strict=True))
        self._offsets = list(accumulate(sizes, initial=0))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = max(0, offset + (0, self._place, self._offsets[-1])[whence])
        return self._place

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        content = self._head[self._place : self._place + len(buffer)]
        if not content and self._place < self._offsets[-1]:
            n = bisect_right(self._offsets, self._place) - 1
            self._file.seek(self._starts[n] + self._place - self._offsets[n])
            content = self._file.read(min(len(buffer), self._offsets[n + 1] - self._place))
        buffer[: len(content)] = content
        self._place += len(content)
        return len(content)


def read_at(file: BinaryIO, place: int, num_bytes: int) -> bytes:
    """So many bytes of an open file, or those there are: none at places that a damaged length leads to."""
    file.seek(min(place, _FAR_BYTES))
    return file.read(num_bytes)


def find_other(file: BinaryIO, than: bytes, start: int) -> Iterator[int]:
    """About where bytes other than a certain one lie."""
    while piece := read_at(file, start, _PIECE_BYTES):
        if piece.strip(than):
            yield start
        start += len(piece)


def find_bytes(file: BinaryIO, what: bytes, start: int) -> Iterator[int]:
    """The places of some bytes in an open file, which may be moved meanwhile."""
    return (place for place, _ in find_matches(file, re.compile(re.escape(what)), start, len(what)))


def find_matches(
    file: BinaryIO, pattern: re.Pattern[bytes], start: int, num_bytes: int
) -> Iterator[tuple[int, bytes]]:
    """Where a pattern matches, which looks at so many bytes, and these (fewer at the file's end)."""
    place, rest, size = start, b"", _FIRST_PIECE_BYTES  # what is looked for often lies near
    while True:
        piece = read_at(file, place, size)
        place += len(piece)
        size = min(2 * size, _PIECE_BYTES)
        data = rest + piece
        num_looked_at = max(0, len(data) - num_bytes + 1) if piece else len(data)
        for match in pattern.finditer(data):
            if match.start() >= num_looked_at:
                break
            yield place - len(data) + match.start(), data[match.start() : match.start() + num_bytes]
        if not piece:
            return
        rest = data[num_looked_at:]
