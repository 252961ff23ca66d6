"""Files whose header says how much sound follows: what it says, held against what is there.

Writers that never came to close their file leave a length at 0 or at its largest: the sound then goes to the end.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from ww_data.audio.containers.mp4 import read_boxes
from ww_data.audio.containers.wave import channel_mask, consistent, frames_of_blocks
from ww_data.audio.errors import AudioError, cut_short, longer_than_it_says
from ww_data.audio.kinds import HEAD_BYTES
from ww_data.audio.windows import Link, find_other, read_at

# A file that lacks more than this part of what its header promises is broken; less is an encoder's sloppy bookkeeping,
# if it is little besides: an hour's hundredth is none.
MAX_MISSING = 0.01
MAX_MISSING_S = 0.05
_MAX_MISSING_BYTES = 2048
# What may follow the last chunk: a tag, a chunk known to be none of sound that was cut, padding, or an oversight of so
# many bytes. More is sound no length speaks of: four letters alone prove nothing.
_TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN")
_WAV_CHUNKS = (
    b"list info junk fllr pad  fact peak cue  smpl inst plst bext cart ixml axml disp _pmx afsp id3 "
)
_OTHER_CHUNKS = b"name auth anno comt mark midi appl aesd (c)  chan free uuid strg umid edct ovvw"
_CHUNKS = {text[at : at + 4] for text in (_WAV_CHUNKS, _OTHER_CHUNKS) for at in range(0, len(text), 5)}
_MAX_TAIL_BYTES = 64
# Which one says which speakers the channels are for, as Apple does.
_LAYOUTS, _MAX_LAYOUT_BYTES = {b"caff": b"chan", b"FORM": b"CHAN"}, 1 << 12
_OPEN_SIZE = 0x7FFFF000  # 32-bit lengths from here on say "until the end"


class _Form(NamedTuple):
    """How chunks lie: where the first begins, how its header reads, which one holds the sound, to how many bytes each
    is filled up, what its size counts beside the sound and the rest, and from which size on it was left open."""

    first: int
    header: str
    sound_id: bytes
    alignment: int = 2
    in_header: int = 0
    in_sound: int = 0
    open_size: int = _OPEN_SIZE


_W64_SOUND = b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"
_FORMS = {
    b"RIFF": _Form(12, "<4sI", b"data"),
    b"RF64": _Form(12, "<4sI", b"data", open_size=1 << 62),
    b"BW64": _Form(12, "<4sI", b"data", open_size=1 << 62),
    b"RIFX": _Form(12, ">4sI", b"data"),
    b"FORM": _Form(12, ">4sI", b"SSND", in_sound=8),
    b"caff": _Form(8, ">4sQ", b"data", alignment=1, in_sound=4, open_size=1 << 62),
    b"riff": _Form(40, "<16sQ", _W64_SOUND, alignment=8, in_header=24, open_size=1 << 62),
}
_AU = {b".snd": ">I", b"dns.": "<I"}


class _Chunk(NamedTuple):
    """start, size: without its header; its size stands at `field`, written as `code`."""

    id: bytes
    start: int
    size: int
    field: int
    code: str


def find_chunked(file: BinaryIO, start: int, *, is_mp4: bool) -> Iterator[Link]:
    """The files that lie one after the other from `start` on.

    Raises AudioError, without a name, where one is cut short, or where much follows that is none of it.
    """
    end = file.seek(0, io.SEEK_END)
    while True:
        link = read_boxes(file, start, end) if is_mp4 else _read_chunks(file, start, end)
        if link.end <= start:
            raise AudioError("begins with a damaged length")
        yield link
        head = read_at(file, link.end, 8)
        if not (head[4:8] == b"ftyp" if is_mp4 else head[:4] in _FORMS or head[:4] in _AU):
            break
        start = link.end
    check_tail(file, start, link.end, end)


def check_tail(file: BinaryIO, start: int, place: int, end: int) -> None:
    """Raises AudioError if what stands between a file's end, by its header, and `end` may be sound."""
    head = read_at(file, place, HEAD_BYTES)
    is_tag = head.startswith(_TAGS) or head[:4].lower() in _CHUNKS
    is_padding = end - place <= _MAX_TAIL_BYTES or next(find_other(file, b"\0", place), None) is None
    if not is_tag and not is_padding:
        raise longer_than_it_says(place - start, end - place)


def _read_chunks(file: BinaryIO, start: int, end: int) -> Link:
    """The file of chunks that begins at `start`."""
    magic = read_at(file, start, 4)
    form = _FORMS.get(magic, _FORMS[b"FORM"])
    place, mask, long_sizes, sounds = start + form.first, 0, -1, 0
    fmt, layout, stated, sound_bytes = b"", b"", 0, 0
    edits: dict[int, bytes] = {}
    while chunk := _au_sound(file, start, magic) if magic in _AU else _chunk(file, form, place, end):
        if sounds and chunk.start + chunk.size > end:
            break  # a tag, or a chunk that is cut: the sound is whole
        if chunk.id == b"ds64":
            long_sizes = chunk.start
        elif chunk.id[:4] == b"fmt ":
            fmt = read_at(file, chunk.start, min(chunk.size, 40))
            mask = channel_mask(fmt)
            if fmt != consistent(fmt, form.header[0]):
                edits[chunk.start] = consistent(fmt, form.header[0])
        elif chunk.id == _LAYOUTS.get(magic):
            layout = read_at(file, chunk.start, min(chunk.size, _MAX_LAYOUT_BYTES))
        elif chunk.id == b"fact":
            stated = int.from_bytes(read_at(file, chunk.start, 4), "little")
        elif chunk.id == form.sound_id:
            sounds, sound_bytes = sounds + 1, chunk.size
            if magic in (b"RF64", b"BW64") and chunk.size == 0xFFFFFFFF and long_sizes > 0:
                size = struct.unpack("<Q", read_at(file, long_sizes + 8, 8).ljust(8, b"\0"))[0]
                chunk = chunk._replace(size=size, field=long_sizes + 8, code="<Q")
            if _is_open(file, form, chunk, end):
                edits[chunk.field] = _size(chunk, end, form.in_header)
                head = _edited(file, start, edits)
                return Link(start=start, end=end, head=head, channel_mask=mask, apples_layout=layout)
            most = min(MAX_MISSING * chunk.size, _MAX_MISSING_BYTES)
            if end - chunk.start < chunk.size - most:
                raise cut_short(end - chunk.start, chunk.size, "bytes of sound")
        place = _after(file, form, chunk)
        if magic in _AU:
            break
    if sounds > 1:
        raise AudioError("holds its sound in several pieces: convert it to FLAC")
    link_end = min(place, end) if sounds else end
    num_frames = frames_of_blocks(fmt, stated, sound_bytes) if magic == b"RIFF" else 0
    return Link(
        start=start,
        end=link_end,
        head=_edited(file, start, edits),
        channel_mask=mask,
        apples_layout=layout,
        num_frames=num_frames,
    )


def _chunk(file: BinaryIO, form: _Form, place: int, end: int) -> _Chunk | None:
    """The chunk at a place, if one is there."""
    header = read_at(file, place, struct.calcsize(form.header))
    if len(header) < struct.calcsize(form.header) or place >= end or not _is_id(header[:4]):
        return None
    id_, size = struct.unpack(form.header, header)
    field = place + len(id_)
    return _Chunk(id_, place + len(header), size - form.in_header, field, form.header[0] + form.header[-1])


def _au_sound(file: BinaryIO, start: int, magic: bytes) -> _Chunk:
    offset, size = struct.unpack(_AU[magic] + "I", read_at(file, start + 4, 8).ljust(8, b"\0"))
    return _Chunk(_FORMS[b"FORM"].sound_id, start + max(24, offset), size, start + 8, _AU[magic])


def _is_id(head: bytes) -> bool:
    return len(head) == 4 and all(0x20 <= byte < 0x7F for byte in head) and head not in _FORMS


def _after(file: BinaryIO, form: _Form, chunk: _Chunk) -> int:
    """Where the next chunk begins; not everybody fills up."""
    place = chunk.start + max(0, chunk.size)
    filled_up = place + -(place - chunk.start) % form.alignment
    return place if _is_id(read_at(file, place, 4)) and not _is_id(read_at(file, filled_up, 4)) else filled_up


def _is_open(file: BinaryIO, form: _Form, sound: _Chunk, end: int) -> bool:
    """Whether nobody wrote down how much sound there is; an empty file is followed by its other chunks, or nothing."""
    if sound.size >= form.open_size:
        return True
    if sound.size > form.in_sound or end - sound.start <= form.in_sound:
        return False
    after = _chunk(file, form, _after(file, form, sound), end)
    return not (after and after.start + after.size <= end)


def _size(sound: _Chunk, end: int, in_header: int) -> bytes:
    """The length of a sound that goes to the end, as it is written."""
    most = (1 << 8 * struct.calcsize(sound.code)) - 1
    return struct.pack(sound.code, min(most, max(0, end - sound.start) + in_header))


def _edited(file: BinaryIO, start: int, edits: dict[int, bytes]) -> bytes:
    """The file's beginning, as far as the last edit, with all of them, by their places."""
    end = max((place + len(new) for place, new in edits.items()), default=start)
    head = read_at(file, start, end - start)
    for place, new in edits.items():
        head = head[: place - start] + new + head[place - start + len(new) :]
    return head
