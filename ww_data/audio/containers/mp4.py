"""MP4 and its kin: boxes, in some of which others lie; live recorders write fragments, each with its own time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from ww_data.audio.errors import cut_short, damaged
from ww_data.audio.windows import Link, read_at

_MAX_INDEX_BYTES = 1 << 22  # of one fragment


def read_boxes(file: BinaryIO, start: int, end: int) -> Link:
    """The MP4 that begins at `start`: boxes up to the next one's first.

    Raises AudioError, without a name, if it is cut, or its fragments have another order than their times: FFmpeg leaves
    out the late ones.
    """
    place, times = start, dict[int, int]()
    while len(header := read_at(file, place, 16)) >= 8 and _is_name(header[4:8]):
        if header[4:8] == b"ftyp" and place > start:
            break
        size = int.from_bytes(header[:4], "big")
        if size == 1:
            size = int.from_bytes(header[8:], "big")
        if size == 0:
            return Link(start=start, end=end)
        if size < 8:
            break
        if place + size > end:
            raise cut_short(end - start, place + size - start, "bytes")
        if header[4:8] == b"moof":
            for track, time in _times(read_at(file, place + 8, min(size - 8, _MAX_INDEX_BYTES))):
                if time < times.get(track, 0):
                    raise damaged(place - start)
                times[track] = time
        place += size
    return Link(start=start, end=place)


def _times(fragment: bytes) -> Iterator[tuple[int, int]]:
    """The tracks of a fragment, and when their sound in it begins."""
    for name, of_track in _boxes(fragment):
        inner = dict(_boxes(of_track)) if name == b"traf" else {}
        if b"tfhd" in inner and b"tfdt" in inner:
            version, time = inner[b"tfdt"][:1], inner[b"tfdt"][4:]
            num_bytes = 8 if version == b"\1" else 4
            yield int.from_bytes(inner[b"tfhd"][4:8], "big"), int.from_bytes(time[:num_bytes], "big")


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The names of boxes, and what lies in them."""
    place = 0
    while (size := int.from_bytes(data[place : place + 4], "big")) >= 8:
        yield data[place + 4 : place + 8], data[place + 8 : place + size]
        place += size


def _is_name(name: bytes) -> bool:
    return all(0x20 <= byte < 0x7F or byte == 0xA9 for byte in name)
