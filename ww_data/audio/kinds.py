"""What kind of file some bytes begin: decided by the bytes alone, before any decoder sees them."""

from __future__ import annotations

from typing import BinaryIO, Literal

from ww_data.audio.windows import read_at

Kind = Literal["wav", "w64", "aiff", "caf", "au", "flac", "ogg", "mp3", "aac", "mp4", "webm"]

KINDS = "WAV, FLAC, OGG, MP3, M4A (MP4), AAC, WebM, AIFF, CAF, AU or W64"

HEAD_BYTES = 16
# Some writers' tags are a little longer than they say.
_MAX_SLOPPY_BYTES = 4096
_MAGIC: dict[bytes, Kind] = {
    b"RIFF": "wav",
    b"RIFX": "wav",
    b"RF64": "wav",
    b"BW64": "wav",
    b"riff": "w64",
    b"FORM": "aiff",
    b"caff": "caf",
    b".snd": "au",
    b"dns.": "au",
    b"fLaC": "flac",
    b"OggS": "ogg",
    b"\x1aE\xdf\xa3": "webm",
}
_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")  # an old QuickTime begins with any
_TAG_LOOK_BYTES = 32  # a header of APE, the longest
_ID3_V1_BYTES = 128
_TAG_BYTES = 10  # ID3v2's header: "ID3", version, flags, size in four times seven bits


def kind_of(file: BinaryIO) -> tuple[Kind | None, int]:
    """The kind of an open file, None for what is not accepted, and where it begins: tags may come before."""
    start = 0
    while size := tag_bytes(read_at(file, start, _TAG_LOOK_BYTES)):
        start += size
    head = read_at(file, start, _MAX_SLOPPY_BYTES if start else HEAD_BYTES)
    for offset in range(1 + max(0, len(head) - HEAD_BYTES)):
        if kind := kind_of_head(head[offset : offset + HEAD_BYTES]):
            return kind, start + offset
    return None, start


def id3_bytes(head: bytes) -> int:
    """How long the ID3v2 tag is that begins here; 0 if none does."""
    size = head[6:_TAG_BYTES]
    if head[:3] != b"ID3" or len(head) < _TAG_BYTES or head[3] not in (2, 3, 4) or max(size) > 0x7F:
        return 0
    footer_bytes = _TAG_BYTES if head[5] & 0x10 else 0
    return _TAG_BYTES + (size[0] << 21 | size[1] << 14 | size[2] << 7 | size[3]) + footer_bytes


def tag_bytes(head: bytes) -> int:
    """How long the tag is that begins here, ID3 or APE; 0 if none does."""
    if head.startswith(b"APETAGEX"):
        is_header = len(head) >= _TAG_LOOK_BYTES and head[23] & 0x20
        return _TAG_LOOK_BYTES + int.from_bytes(head[12:16], "little") if is_header else 0
    return _ID3_V1_BYTES if head.startswith(b"TAG") else id3_bytes(head)


def is_mpeg_frame(head: bytes) -> bool:
    """Whether a frame of MPEG audio (MP3 and its elders) begins here."""
    return (
        len(head) > 2
        and head[0] == 0xFF
        and head[1] & 0xE0 == 0xE0
        and head[1] & 0x18 != 0x08  # no such version
        and head[1] & 0x06 != 0  # no such layer
        and head[2] & 0x0C != 0x0C  # no such rate
        and head[2] & 0xF0 != 0xF0  # no such number of bits
    )


def is_surely_sound(head: bytes) -> bool:
    """Whether bytes are what a file of sound begins with, and nothing else: a frame of MPEG is told by a few bits."""
    is_mp4 = head[4:8] == b"ftyp"
    return (head[:4] in _MAGIC and kind_of_head(head) is not None) or is_mp4 or id3_bytes(head) > 0


def kind_of_head(head: bytes) -> Kind | None:
    """The kind of file that begins with these bytes (`HEAD_BYTES` of them), if it is an accepted one."""
    kind = _MAGIC.get(head[:4])
    if kind == "wav":
        return kind if head[8:12] == b"WAVE" else None
    if kind == "aiff":
        return kind if head[8:12] in (b"AIFF", b"AIFC") else None
    if kind:
        return kind
    if head[4:8] in _BOXES:
        return "mp4"
    if head[:1] == b"\xff" and len(head) > 1 and head[1] & 0xF6 == 0xF0:
        return "aac"
    return "mp3" if is_mpeg_frame(head) else None
