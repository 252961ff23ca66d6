"""MP3 and AAC without a container: nothing but frames, one after the other, and what people put between and behind.

Decoders go over whatever is no frame and say nothing: so the frames are walked through before they are decoded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO, Literal

from ww_data.audio.containers.chunks import MAX_MISSING, check_tail
from ww_data.audio.errors import cut_short, damaged, unreadable
from ww_data.audio.kinds import Kind, is_mpeg_frame, tag_bytes
from ww_data.audio.windows import Link, find_matches, read_at

_LOOK_BYTES = 64  # of a frame: as far as the number of frames may stand
_SYNC = re.compile(rb"\xff(?=[\xe0-\xff])")
_SIDE_BYTES = (9, 17, 32)  # between a header and a length tag: a frame's side information, empty
_LENGTH_TAGS = (b"Xing\0", b"Info\0", b"VBRI\0")
_RATES_HZ = (44_100, 48_000, 32_000)
_HALVED = (2, 0, 1, 0)  # the rates, so many times, by version: 2.5, none, 2, 1
_KBPS = {  # by whether it is MPEG 1, and the layer
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448, 0),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 0),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256, 0),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),
}
# A cut within a frame, where a file ends and another begins, costs so many frames of a stream.
_MAX_LOST_FRAMES = 3
_MAX_CUT_BYTES = 1 << 16
_TAG_ENDS = (b"APETAGEX", b"LYRICS200", b"LYRICSEND")  # of tags whose length stands at their end
_TAG_END_BYTES = 256


class _Stream:
    """Frames that a decoder is to have as one stream: over tags, for the sound of a frame reaches into the next."""

    def __init__(self, start: int, promised: int) -> None:
        self.tags: list[tuple[int, int]] = []
        self._start, self._end, self._promised, self._num_frames, self._num_before_tag = (
            start,
            start,
            promised,
            0,
            0,
        )

    def add(self, place: int, end: int) -> None:
        if self.tags and self.tags[-1][1] == place:
            self._num_before_tag = self._num_frames
        self._end, self._num_frames = end, self._num_frames + 1

    def add_tag(self, place: int, end: int) -> None:
        follows_other = bool(self.tags) and self.tags[-1][1] == place
        self.tags.append((self.tags.pop()[0] if follows_other else place, end))

    def has_ended(self) -> bool:
        """Whether what was promised is there, and a tag behind it: what follows is another file."""
        is_tagged = bool(self.tags) and self.tags[-1][0] >= self._end
        return is_tagged and 0 < self._promised <= self._num_frames

    def link(self, file: BinaryIO) -> Link:
        """Raises AudioError if frames are missing. Some writers count the one that says how many.

        A decoder takes padding off where a count ends: one that is too small is set to 0, which says nothing.
        """
        came = self._num_frames
        if came > self._promised + 1 and self._num_before_tag:
            came = self._num_before_tag  # and what follows is another file
        if came < self._promised - min(MAX_MISSING * self._promised, _MAX_LOST_FRAMES):
            raise cut_short(came, self._promised, "frames")
        head = read_at(file, self._start, _LOOK_BYTES)
        at = max(head.find(b"Xing\0"), head.find(b"Info\0"))
        is_too_small = at > 0 and 0 < self._promised < self._num_frames - 1
        head = head[: at + 8] + bytes(4) if is_too_small else b""
        gaps = tuple(tag for tag in self.tags if tag[1] <= self._end)
        return Link(start=self._start, end=self._end, head=head, gaps=gaps)


def find_streams(file: BinaryIO, kind: Kind, start: int, end: int) -> list[Link]:
    """The streams from `start` on, without the tags between and behind them.

    Raises AudioError, without a name, where frames are missing that the first one speaks of, or where more than a
    little in between is no frame.
    """
    streams: list[_Stream] = []
    largest = 0
    junk = first_junk = tail = 0  # bytes that are no frame, where, and how many of them are the last
    for what, place, size, head in _pieces(file, kind, _sound_within(file, kind, 0, start), end):
        if what == "frame":
            says = _num_promised(head)
            if not streams or says is not None or streams[-1].has_ended():
                streams.append(_Stream(place, promised=says or 0))
            streams[-1].add(place, min(place + size, end))
            largest = max(largest, size)
        elif what == "tag" and streams:
            streams[-1].add_tag(place, place + size)
        elif what == "junk":
            junk, first_junk = junk + size, first_junk or place
            tail = size if place + size == end else 0
    if not streams:
        if _is_free(read_at(file, start, 4), kind):
            raise unreadable("it is an MP3 in free format, whose frames do not say how long they are")
        return [Link(start=start, end=end)]  # a decoder says what it is
    links = [stream.link(file) for stream in streams]
    most = _MAX_LOST_FRAMES * largest * len(streams)
    if tail > most:
        _check_end(file, start, end - tail, end)
    if junk - tail > most:
        raise damaged(first_junk - start)
    return links


def next_frame(file: BinaryIO, kind: Kind, place: int, end: int) -> int:
    """Where the next frame begins that another follows, from a place on; `end` if none does."""
    for at, head in find_matches(file, _SYNC, place, 8):
        if at >= end:
            break
        if size := _frame_bytes(head, kind):
            after = read_at(file, at + size, 8)
            is_same = (
                after[1:2] == head[1:2] and _frame_bytes(after, kind) and not (after[2] ^ head[2]) & 0x0C
            )
            if is_same or at + size == end:
                return at
    return end


def first_frame(file: BinaryIO, kind: Kind) -> int | None:
    """Where the sound begins that was cut out of a stream, with padding or half a frame in front."""
    place = next_frame(file, kind, 0, _MAX_CUT_BYTES)
    return place if place < _MAX_CUT_BYTES else None


def _pieces(
    file: BinaryIO, kind: Kind, start: int, end: int
) -> Iterator[tuple[Literal["frame", "tag", "junk"], int, int, bytes]]:
    """What lies one after the other from `start` on, with its place, length and first bytes."""
    place = start
    while place < end:
        head = read_at(file, place, _LOOK_BYTES)
        if size := _frame_bytes(head, kind):
            yield "frame", place, size, head
        elif (size := tag_bytes(head)) and place + size <= end:
            size = _sound_within(file, kind, place, place + size) - place
            yield "tag", place, size, head
        else:
            size = next_frame(file, kind, place, end) - place
            yield "junk", place, size, head
        place += size


def _sound_within(file: BinaryIO, kind: Kind, start: int, end: int) -> int:
    """Where in a tag frames begin that go on behind it, for some are not as long as they say; its end if none do."""
    after = start
    while (first := next_frame(file, kind, after, end)) < end:
        after = first
        while (size := _frame_bytes(read_at(file, after, 8), kind)) and after < end:
            after += size
        if size and after >= end:
            return first
    return end


def _check_end(file: BinaryIO, start: int, place: int, end: int) -> None:
    """Raises AudioError if what follows the last frame is no tag."""
    tail = read_at(file, max(place, end - _TAG_END_BYTES), _TAG_END_BYTES)
    if not any(mark in tail for mark in _TAG_ENDS):
        check_tail(file, start, place, end)


def _num_promised(head: bytes) -> int | None:
    """How many frames follow one that is there to say so; 0 if it leaves that open, None for a frame of sound."""
    for side_bytes in _SIDE_BYTES:
        tag = head[4 + side_bytes :]
        if tag.startswith(_LENGTH_TAGS) and not head[4 : 4 + side_bytes].strip(b"\0"):
            if tag.startswith(b"VBRI"):
                return int.from_bytes(tag[14:18], "big")
            return int.from_bytes(tag[8:12], "big") if tag[7:8] and tag[7] & 1 else 0
    return None


def _is_free(head: bytes, kind: Kind) -> bool:
    return kind == "mp3" and is_mpeg_frame(head) and head[2] >> 4 == 0


def _frame_bytes(head: bytes, kind: Kind) -> int:
    """How long the frame is that begins here; 0 if none does."""
    if len(head) < 6 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return 0
    if kind == "aac":
        size = (head[3] & 0x03) << 11 | head[4] << 3 | head[5] >> 5
        return size if head[1] & 0xF6 == 0xF0 and head[2] & 0x3C < 0x34 and size > 7 else 0
    version, layer, rate = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3), head[2] >> 2 & 3
    if version == 1 or layer == 4 or rate == 3:
        return 0
    is_first = version == 3
    rate_hz = _RATES_HZ[rate] >> _HALVED[version]
    kbps = _KBPS[is_first, layer if is_first else min(layer, 2)][head[2] >> 4]
    padding = head[2] >> 1 & 1
    if not kbps:
        return 0
    if layer == 1:
        return 4 * (12_000 * kbps // rate_hz + padding)
    return (144_000 if is_first or layer == 2 else 72_000) * kbps // rate_hz + padding
