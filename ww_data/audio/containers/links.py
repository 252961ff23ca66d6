"""Where the sound lies in a file: one stream or several, one after the other, each of which a decoder is given alone.

Podcast editors join MP3 files, recorders that rotate chain Ogg streams, and decoders read the first of them.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import BinaryIO

from ww_data.audio.containers.chunks import find_chunked
from ww_data.audio.containers.flac import counted
from ww_data.audio.containers.matroska import check_elements
from ww_data.audio.containers.mpeg import find_streams
from ww_data.audio.containers.ogg import find_streams as find_ogg_streams
from ww_data.audio.kinds import Kind, id3_bytes
from ww_data.audio.windows import Link, find_bytes, find_matches, read_at

_LOOK_BYTES = 64
# What follows the mark says whether more is said than what the stream is.
_FLAC, _FLAC_BYTES = re.compile(rb"fLaC(?=[\0\x80]\0\0\x22)"), 8


def find_links(file: BinaryIO, kind: Kind, start: int) -> list[Link]:
    """The streams of an open file that begins at `start`. Raises AudioError, without a name, for one that is cut."""
    if kind in ("wav", "w64", "aiff", "caf", "au", "mp4"):
        return list(find_chunked(file, start, is_mp4=kind == "mp4"))
    end = file.seek(0, io.SEEK_END)
    if kind in ("mp3", "aac"):
        return find_streams(file, kind, start, end)
    if kind == "ogg":
        return list(find_ogg_streams(file, start, end))
    joints = sorted({joint for joint in _joints(file, kind, start, end) if joint[0] > start})
    starts, ends = [start, *(joint[1] for joint in joints)], [*(joint[0] for joint in joints), end]
    links = [Link(start=at, end=to) for at, to in zip(starts, ends, strict=True) if at < to]
    for link in links if kind == "webm" else ():
        check_elements(file, link)
    return [counted(file, link) for link in links] if kind == "flac" else links


def _joints(file: BinaryIO, kind: Kind, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Where a stream ends and the next one begins, in any order."""
    places: Iterator[int] = iter(())
    if kind == "flac":
        places = (place for place, _ in find_matches(file, _FLAC, start, _FLAC_BYTES))
    elif kind == "webm":
        found = find_bytes(file, b"\x1aE\xdf\xa3", start)
        places = (place for place in found if b"B\x82" in read_at(file, place, _LOOK_BYTES))
    yield from ((place, place) for place in places)
    if kind == "flac":
        for place in find_bytes(file, b"ID3", start):
            size = id3_bytes(read_at(file, place, _LOOK_BYTES))
            if size and read_at(file, place + size, 4).startswith((b"fLaC", b"ID3")):
                yield place, place + size
