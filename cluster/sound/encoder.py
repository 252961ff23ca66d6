"""A file of sound, made piece by piece while the sound comes, for anybody who cannot seek back, such as HTTP."""

from __future__ import annotations

import io
import struct
from typing import Literal, get_args

import numpy as np
import soundfile

from ww_data.audio import to_ogg_order

Format = Literal["wav", "flac", "ogg", "pcm"]
MEDIA_TYPES: dict[str, str] = {name: f"audio/{name}" for name in get_args(Format)}
MAX_WAV_BYTES = 2**32 - 1
_PCM_GUID = bytes.fromhex("0100000000001000800000aa00389b71")  # "PCM", where the tag says that more follows
# libsndfile's Vorbis encoder puts one whole write on the stack.
_WRITE_FRAMES = 1 << 14


class FormatError(ValueError):
    """A format that has no room for a recording; one line says why, and which has."""


def stored_subtype(source_subtype: str, file_format: str) -> str:
    """The encoding (libsndfile's subtype) that keeps a recording's resolution in "WAV", "FLAC" or "OGG".

    16 bits for sources of 16 bits or fewer, lossy ones included; 24 bits for everything finer.
    """
    if file_format == "OGG":
        return "VORBIS"
    return "PCM_24" if source_subtype in {"PCM_24", "PCM_32", "FLOAT", "DOUBLE"} else "PCM_16"


class FileEncoder:
    """Samples (n, C) float32 in, bytes of a whole file out: those of `encode` one after the other, then `finish`.

    Integer formats hold the same integers that a file of as many bits was decoded from; peaks saturate.
    pcm is s16le without a header. Raises FormatError where the format has no room for so much, or so many channels.
    """

    def __init__(
        self,
        response_format: Format,
        subtype: str,
        sample_rate: int,
        num_channels: int,
        num_frames: int,
        channel_mask: int = 0,
    ) -> None:
        """subtype: libsndfile's word for the bits, PCM_16, PCM_24 or VORBIS.
        channel_mask: which speakers the channels are for, as a WAV file says it; 0 if nothing is known."""
        self._bits = 16 if response_format == "pcm" else {"PCM_16": 16, "PCM_24": 24}.get(subtype, 0)
        self._num_frames = num_frames
        num_bytes = num_frames * num_channels * self._bits // 8
        self.num_bytes: int | None = None  # of the whole file, where it is known before
        self._first, self._last = b"", b""
        self._file: soundfile.SoundFile | None = None
        if response_format in {"flac", "ogg"}:
            self._open(response_format, subtype, sample_rate, num_channels)
            return
        if response_format == "wav":
            what = (sample_rate, num_channels, self._bits, num_bytes, channel_mask)
            self._first, self._last = wav_header(*what)
        self.num_bytes = len(self._first) + num_bytes + len(self._last)

    def encode(self, samples_TC: np.ndarray) -> bytes:
        if self._file is None:
            first, self._first = self._first, b""
            return first + to_bytes(samples_TC, self._bits)
        for start in range(0, len(samples_TC), _WRITE_FRAMES):
            block = samples_TC[start : start + _WRITE_FRAMES]
            if self._bits == 24:  # libsndfile takes the upper bits
                self._file.write(to_integers(block, 24) << 8)
            elif self._bits:
                self._file.write(to_integers(block, 16).astype(np.int16))
            else:
                self._file.write(to_ogg_order(block.clip(-1, 1)))
        return self._taken()

    def finish(self) -> bytes:
        """The rest of the file."""
        if self._file is None:
            return self._first + self._last
        self._sink.is_closing = True
        self._file.close()
        return self._taken()

    def _open(self, response_format: str, subtype: str, sample_rate: int, num_channels: int) -> None:
        self._is_flac = response_format == "flac"
        what = (sample_rate, num_channels, subtype, None, response_format)
        try:
            with soundfile.SoundFile(io.BytesIO(), "w", *what) as trial:
                trial.write(np.zeros((1, num_channels)))  # FLAC refuses some rates only when it is written to
            self._sink = _Sink()
            self._file = soundfile.SoundFile(self._sink, "w", *what)
        except (soundfile.LibsndfileError, RuntimeError) as error:
            reason = (
                f"{response_format} cannot hold {num_channels} channel(s) at {sample_rate} Hz: choose wav"
            )
            raise FormatError(reason) from error

    def _taken(self) -> bytes:
        taken = self._sink.take()
        if self._is_flac and taken:
            self._is_flac = False
            return _with_length(taken, self._num_frames)
        return taken


class _Sink:
    """What libsndfile writes at the end of the file; its corrections of the header, at closing, are dropped."""

    def __init__(self) -> None:
        self._new, self._place, self._end, self.is_closing = bytearray(), 0, 0, False

    def write(self, data: bytes) -> int:
        if self._place == self._end:
            self._new += data
            self._end += len(data)
        elif not self.is_closing:
            raise OSError("an encoder went back before the end of the file")
        self._place += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        self._place = offset + (0, self._place, self._end)[whence]
        return self._place

    def tell(self) -> int:
        return self._place

    def take(self) -> bytes:
        taken, self._new = bytes(self._new), bytearray()
        return taken


def wav_header(
    sample_rate: int, num_channels: int, bits: int, num_bytes: int, channel_mask: int = 0
) -> tuple[bytes, bytes]:
    """What stands before and after so many bytes of samples. Raises FormatError beyond 4 GiB."""
    padding = bytes(num_bytes % 2)
    if num_bytes + 60 + len(padding) > MAX_WAV_BYTES:
        raise FormatError("wav holds 4 GiB at most: choose flac")
    frame_bytes = num_channels * bits // 8
    tag, extension = 1, b""
    if channel_mask:
        tag, extension = 0xFFFE, struct.pack("<HHI", 22, bits, channel_mask) + _PCM_GUID
    about = (tag, num_channels, sample_rate, sample_rate * frame_bytes, frame_bytes, bits)
    fmt = struct.pack("<HHIIHH", *about) + extension
    size = 20 + len(fmt) + num_bytes + len(padding)
    header = struct.pack("<4sI4s4sI", b"RIFF", size, b"WAVE", b"fmt ", len(fmt)) + fmt
    return header + struct.pack("<4sI", b"data", num_bytes), padding


def to_integers(samples_TC: np.ndarray, bits: int) -> np.ndarray:
    """int32 of so many bits: full scale is 2 ** (bits - 1), as in decoding."""
    full_scale = 1 << (bits - 1)
    scaled = np.rint(samples_TC * np.float32(full_scale))
    return scaled.clip(-full_scale, full_scale - 1).astype(np.int32)


def to_bytes(samples_TC: np.ndarray, bits: int) -> bytes:
    """Little-endian integers of 16 or 24 bits, interleaved."""
    integers = to_integers(samples_TC, bits)
    if bits == 16:
        return integers.astype("<i2").tobytes()
    return np.ascontiguousarray(integers.astype("<i4")[..., None].view(np.uint8)[..., :3]).tobytes()


def _with_length(flac: bytes, num_frames: int) -> bytes:
    """A FLAC file's beginning with its length, 36 bits of STREAMINFO, which encoders write when they are done.

    The checksum of the samples stays zero, which means that there is none.
    """
    high, low = divmod(num_frames, 1 << 32)
    return flac[:21] + bytes([flac[21] & 0xF0 | high]) + struct.pack(">I", low) + flac[26:]
