"""WebM and Matroska, walked through before they are decoded: FFmpeg goes over holes without a word."""

from __future__ import annotations

from typing import BinaryIO

from ww_data.audio.containers.chunks import check_tail
from ww_data.audio.errors import cut_short, damaged
from ww_data.audio.windows import Link, read_at

_SEGMENT, _CLUSTER = "18538067", "1f43b675"
_IN_SEGMENT = "114d9b74 1549a966 1654ae6b 1c53bb6b 1254c367 1043a770 1941a469"
_IN_CLUSTER = "e7 a3 a0 ab a7 af 5854"
_ANYWHERE = "1a45dfa3 ec bf"
_KNOWN = {_SEGMENT, _CLUSTER, *f"{_IN_SEGMENT} {_IN_CLUSTER} {_ANYWHERE}".split()}
_MAX_HEADER_BYTES = 12


def check_elements(file: BinaryIO, link: Link) -> None:
    """Raises AudioError, without a name, if a file is cut short, damaged, or goes on beyond its end.

    A live recorder leaves sizes open: such a file may end anywhere.
    """
    place, end = link.start, -1  # of what is walked through; of the segment, if that is known
    while place < link.end and place != end:
        head = read_at(file, place, _MAX_HEADER_BYTES)
        id_bytes = _length(head)
        id_, size_bytes = head[:id_bytes].hex(), _length(head[id_bytes:])
        size = int.from_bytes(head[id_bytes:][:size_bytes], "big") & ((1 << 7 * size_bytes) - 1)
        if id_ not in _KNOWN:
            raise damaged(place - link.start)
        place += id_bytes + size_bytes
        if id_ == _SEGMENT:
            end = -1 if size == (1 << 7 * size_bytes) - 1 else place + size
            if end > link.end:
                raise cut_short(link.end - link.start, end - link.start, "bytes")
        elif id_ != _CLUSTER:
            place += size
    if end >= 0:
        check_tail(file, link.start, end, link.end)


def _length(data: bytes) -> int:
    """Of a number of Matroska's: one byte, and as many as the first has leading zeros."""
    return 9 - data[0].bit_length() if data else 1
