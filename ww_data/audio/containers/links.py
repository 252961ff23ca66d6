"""Where the sound lies in a file: one stream or several, one after the other, each of which a decoder is given alone.

Podcast editors join MP3 files, recorders that rotate chain Ogg streams, and decoders read the first of them.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import BinaryIO

from ww_data.audio.containers.chunks import check_tail, find_chunked
from ww_data.audio.containers.flac import counted
from ww_data.audio.containers.matroska import check_elements
from ww_data.audio.containers.mpeg import find_streams
from ww_data.audio.errors import cut_short, damaged, several_tracks
from ww_data.audio.kinds import Kind, id3_bytes
from ww_data.audio.windows import Link, find_bytes, find_matches, read_at

_LOOK_BYTES = 64
# What follows the mark says whether more is said than what the stream is.
_FLAC, _FLAC_BYTES = re.compile(rb"fLaC(?=[\0\x80]\0\0\x22)"), 8
_PAGE_HEADER_BYTES = 27
_OGG_SOUND = (b"OpusHead", b"\x01vorbis", b"\x7fFLAC", b"Speex   ")  # first in a stream


def find_links(file: BinaryIO, kind: Kind, start: int) -> list[Link]:
    """The streams of an open file that begins at `start`. Raises AudioError, without a name, for one that is cut."""
    if kind in ("wav", "w64", "aiff", "caf", "au", "mp4"):
        return list(find_chunked(file, start, is_mp4=kind == "mp4"))
    end = file.seek(0, io.SEEK_END)
    if kind in ("mp3", "aac"):
        return find_streams(file, kind, start, end)
    joints = sorted({joint for joint in _joints(file, kind, start, end) if joint[0] > start})
    starts, ends = [start, *(joint[1] for joint in joints)], [*(joint[0] for joint in joints), end]
    links = [Link(start=at, end=to) for at, to in zip(starts, ends, strict=True) if at < to]
    for link in links if kind == "webm" else ():
        check_elements(file, link)
    return [counted(file, link) for link in links] if kind == "flac" else links


def _joints(file: BinaryIO, kind: Kind, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Where a stream ends and the next one begins, in any order."""
    places: Iterator[int] = iter(())
    if kind == "ogg":
        places = _ogg_starts(file, start, end)
    elif kind == "flac":
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


def _ogg_starts(file: BinaryIO, start: int, end: int) -> Iterator[int]:
    """Where a page begins a stream and the one before did not: those that begin together sound together.

    Raises AudioError where pages are missing, for decoders give up there, and where two that begin together are sound.
    """
    place, is_beginning, num_tracks = start, True, 0
    numbers: dict[bytes, int] = {}  # of the last page with sound of each stream
    while place < end:
        page = read_at(file, place, _PAGE_HEADER_BYTES + 255)
        after_junk = page[:4] != b"OggS" or len(page) < _PAGE_HEADER_BYTES
        if after_junk:  # such as a tag
            junk, place = place, next(find_bytes(file, b"OggS", place + 1), end)
            page = read_at(file, place, _PAGE_HEADER_BYTES + 255)
            if len(page) < _PAGE_HEADER_BYTES:
                check_tail(file, start, junk, end)
                return
        begins, stream, number = bool(page[5] & 2), page[14:18], int.from_bytes(page[18:22], "little")
        is_next = number == numbers.get(stream, number - 1) + 1
        if not begins and (after_junk or not is_next):
            raise damaged(place - start)
        if begins and not is_beginning:
            yield place
            numbers, num_tracks = {}, 0
        # After the headers, at time 0, there may be a gap: who listens to a station comes late.
        if page[6:14] != bytes(8):
            numbers[stream] = number
        is_beginning = begins
        num_segments = page[_PAGE_HEADER_BYTES - 1]
        num_tracks += begins and page[_PAGE_HEADER_BYTES + num_segments :].startswith(_OGG_SOUND)
        if num_tracks > 1:
            raise several_tracks(num_tracks)
        place += _PAGE_HEADER_BYTES + num_segments + sum(page[_PAGE_HEADER_BYTES:][:num_segments])
    if place > end:
        raise cut_short(end - start, place - start, "bytes")
