"""FLAC: a header, and nothing but numbered frames. What the header says of their number may be missing or wrong.

Decoders stop where the header says, and fill holes with silence or close them up, without a word. So the frames are
counted, and the decoder is told how many samples there are. The next frame's beginning ends each but the last.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace
from typing import BinaryIO, NamedTuple

from ww_data.audio.containers.chunks import MAX_MISSING, check_tail
from ww_data.audio.errors import AudioError, cut_short, damaged, longer_than_it_says
from ww_data.audio.windows import Link, find_matches, read_at

_FRAME = re.compile(rb"\xff(?=[\xf8\xf9][\x10-\xff][\x00-\xaf])")
_MAX_HEADER_BYTES = 16
_INFO_BYTES = 42  # the mark, and the first block, which says what the stream is
_TOTAL_AT = 21  # in the lower half of this byte and in four more
_MARGIN_BYTES = 64  # more than what frames and channels hold beside their samples


class _Frame(NamedTuple):
    """number: counts frames or, in streams whose frames have several lengths, samples."""

    place: int
    number: int
    num_samples: int

    def is_followed_by(self, other: _Frame) -> bool:
        return other.number in (self.number + 1, self.number + self.num_samples)


def counted(file: BinaryIO, link: Link) -> Link:
    """A stream that says how many samples it holds.

    Raises AudioError, without a name, where frames are missing, and where much follows that is none.
    """
    first, last, num_samples = _walk(file, link)
    if first is None or last is None:
        return link  # a decoder says what it is
    info = read_at(file, link.start, _INFO_BYTES)
    promised = (info[_TOTAL_AT] & 0x0F) << 32 | int.from_bytes(info[_TOTAL_AT + 1 :][:4], "big")
    is_cut_out = first.number > 0  # what its header says is of the recording that it comes from
    if num_samples < (1 - MAX_MISSING) * promised and not is_cut_out:
        raise cut_short(num_samples, promised, "samples")
    is_whole = _is_whole(file, link, last, info)
    num_samples -= 0 if is_whole else last.num_samples
    if num_samples == 0 or (promised and not is_whole):
        raise cut_short(num_samples, promised or last.num_samples, "samples")
    total = bytes([info[_TOTAL_AT] & 0xF0 | num_samples >> 32]) + (num_samples % (1 << 32)).to_bytes(4, "big")
    return replace(link, head=info[:_TOTAL_AT] + total, is_cut_out=is_cut_out)


def _walk(file: BinaryIO, link: Link) -> tuple[_Frame | None, _Frame | None, int]:
    """The first frame, the last one, and how many samples they all hold."""
    first = last = stray = None
    num_samples = 0
    for place, head in find_matches(file, _FRAME, _after_header(file, link), _MAX_HEADER_BYTES):
        frame = _frame(place, head) if place < link.end else None
        if place >= link.end:
            break
        if frame is None:
            continue
        if last is None or last.is_followed_by(frame):
            first, last, stray = first or frame, frame, None
            num_samples += frame.num_samples
        elif stray and stray.is_followed_by(frame):
            break
        else:
            stray = frame  # chance, if it stays alone
    if stray:
        raise damaged(stray.place - link.start)
    return first, last, num_samples


def _after_header(file: BinaryIO, link: Link) -> int:
    """Where the frames begin: behind blocks of which each says how long it is, and whether it is the last."""
    place, is_last = link.start + 4, False
    while not is_last and place < link.end and len(head := read_at(file, place, 4)) == 4:
        is_last = head[0] >= 0x80
        place += 4 + int.from_bytes(head[1:], "big")
    return place


def _frame(place: int, head: bytes) -> _Frame | None:
    """The frame that begins with these bytes, if its checksum says so."""
    length, rate = head[2] >> 4, head[2] & 0x0F
    number_bytes = max(1, 8 - (head[4] ^ 0xFF).bit_length()) if len(head) > 4 else 0
    length_at = 4 + number_bytes
    rate_at = length_at + (length - 5 if length in (6, 7) else 0)
    end = rate_at + (0, 1, 2, 2)[max(11, rate) - 11] + 1 if rate < 15 else 0
    if not number_bytes or not 0 < end <= len(head) or _crc_8(head[:end]):
        return None
    number = head[4] & (0xFF >> number_bytes + 1 if number_bytes > 1 else 0x7F)
    for byte in head[5:length_at]:
        number = number << 6 | byte & 0x3F
    if length in (6, 7):
        num_samples = int.from_bytes(head[length_at:rate_at], "big") + 1
    else:
        num_samples = 192 if length == 1 else 576 << length - 2 if length < 6 else 256 << length - 8
    return _Frame(place, number, num_samples)


def _is_whole(file: BinaryIO, link: Link, last: _Frame, info: bytes) -> bool:
    """Whether the last frame is not cut.

    Raises AudioError if something follows it that may be sound.
    """
    num_channels, num_bits = (info[20] >> 1 & 7) + 1, ((info[20] & 1) << 4 | info[21] >> 4) + 1
    most = _MARGIN_BYTES + num_channels * (_MARGIN_BYTES + last.num_samples * (num_bits + 1) // 8)
    ends = _ends(read_at(file, last.place, min(most, link.end - last.place)))
    for end in ends:
        with suppress(AudioError):
            check_tail(file, link.start, last.place + end, link.end)
            return True
    if ends or link.end - last.place > most:
        end = last.place + (ends[0] if ends else most)
        raise longer_than_it_says(end - link.start, link.end - end)
    return False


def _ends(data: bytes) -> list[int]:
    """Where a frame may end: what stands before has its checksum at its end, which chance has once in 65536."""
    crc, ends = 0, []
    for place, byte in enumerate(data):
        crc = (crc << 8 & 0xFFFF) ^ _CRC_16[crc >> 8 ^ byte]
        if crc == 0:
            ends.append(place + 1)
    return ends


def _crc_8(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc = _CRC_8[crc ^ byte]
    return crc


def _crc_table(polynomial: int, num_bits: int) -> list[int]:
    table = []
    for crc in range(256):
        crc <<= num_bits - 8
        for _ in range(8):
            crc = crc << 1 ^ (polynomial if crc >> num_bits - 1 else 0)
        table.append(crc)
    return table


_CRC_8, _CRC_16 = _crc_table(0x107, 8), _crc_table(0x18005, 16)
