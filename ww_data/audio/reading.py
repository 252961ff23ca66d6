"""Audio files in: one way for a corpus, for `jobs.enhance` and for what comes over HTTP."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote

import numpy as np

from ww_data.audio.containers.links import find_links
from ww_data.audio.containers.mpeg import first_frame
from ww_data.audio.errors import AudioError, one_line, source_name, unreadable
from ww_data.audio.ffmpeg import FfmpegReader, changed
from ww_data.audio.kinds import KINDS, Kind, kind_of
from ww_data.audio.libsndfile import LibsndfileReader
from ww_data.audio.reader import BLOCK_FRAMES, Block, Reader, SampleType
from ww_data.audio.resampling import MAX_SAMPLE_RATE, MIN_SAMPLE_RATE, resample
from ww_data.audio.windows import Link, Window
from ww_data.dsp import FloatArray
from ww_data.storage import Storage

AudioSource = str | os.PathLike[str] | BinaryIO

_server = lru_cache(maxsize=16)(Storage)  # one connection for all files of a bucket
# Files that lie behind an address are fetched whole up to this size, and read piece by piece beyond it.
_FETCH_WHOLE_BYTES = 1 << 26
_FETCH_PIECE_BYTES = 1 << 22


def read_audio(source: AudioSource) -> tuple[FloatArray, int]:
    """Samples (T, C) float32 and the sample rate in Hz of a path or an open binary file. Raises AudioError."""
    with open_audio(source) as file:
        return np.concatenate(list(iter_blocks(file, source_name(source)))), file.sample_rate


def read_mono(source: AudioSource, sample_rate: int = 16000) -> FloatArray:
    """Samples (T,) float32 at `sample_rate` Hz, channels averaged. Raises AudioError like `read_audio`."""
    with open_audio(source) as file:
        mono_T = np.concatenate([block.mean(axis=1) for block in iter_blocks(file, source_name(source))])
        return resample(mono_T, file.sample_rate, sample_rate)


@contextmanager
def open_audio(source: AudioSource) -> Iterator[Reader]:
    """A recording at a path, an address (s3://...) or in an open binary file. Whatever is wrong, is an AudioError."""
    name = source_name(source)
    with ExitStack() as stack:
        file = _open(source, name)
        if isinstance(source, (str, os.PathLike)):
            stack.callback(file.close)
        try:
            recording = Recording(file, str(source) if _is_path(source) else None)
        except AudioError as error:
            raise AudioError(f"{name}: {error}") from error
        stack.callback(recording.close)
        if not MIN_SAMPLE_RATE <= recording.sample_rate <= MAX_SAMPLE_RATE:
            raise AudioError(
                f"{name}: states a sample rate of {recording.sample_rate} Hz, expected {MIN_SAMPLE_RATE} to "
                f"{MAX_SAMPLE_RATE} Hz: its header is probably damaged"
            )
        yield recording


def iter_blocks(reader: Reader, name: str, dtype: SampleType = "float32", start: int = 0) -> Iterator[Block]:
    """The samples of an open recording as blocks (n, C), so that long files never lie in memory whole. Once only.

    All blocks but the last have the same length, whatever decodes them. start: the first frame wanted.
    Raises AudioError if there are none, if one is NaN or infinite, or if the file ends before its header says.
    """
    is_empty = True
    try:
        for block in _of_one_length(reader.blocks(dtype, start)):
            if dtype == "float32" and not np.isfinite(block).all():
                raise AudioError("holds samples that are NaN or infinite: write it again from its source")
            is_empty = False
            yield block
    except AudioError as error:
        raise AudioError(f"{name}: {error}") from error
    if is_empty:
        raise AudioError(f"{name}: holds no samples")


def _of_one_length(blocks: Iterator[Block]) -> Iterator[Block]:
    waiting: list[Block] = []
    num_waiting = 0
    for block in blocks:
        waiting.append(block)
        num_waiting += len(block)
        while num_waiting >= BLOCK_FRAMES:
            joined = waiting[0] if len(waiting) == 1 else np.concatenate(waiting)
            yield joined[:BLOCK_FRAMES]
            num_waiting -= BLOCK_FRAMES
            waiting = [joined[BLOCK_FRAMES:]] if num_waiting else []
    if num_waiting:
        yield waiting[0] if len(waiting) == 1 else np.concatenate(waiting)


class Recording:
    """The `Reader` of a whole file: its streams, one after the other. AudioErrors are without a name."""

    def __init__(self, file: BinaryIO, path: str | None) -> None:
        """path: of the file, where it has one, for decoders that read faster by themselves."""
        self._file, self._path = file, path
        self._num_bytes = file.seek(0, io.SEEK_END)
        if not self._num_bytes:
            raise AudioError("is empty (0 bytes)")
        kind, start = kind_of(file)
        if kind is None and path:
            kind, start = _cut_out(file, Path(path).suffix.lower())
        if kind is None:
            raise unreadable(f"these bytes begin none of {KINDS}")
        self._kind: Kind = kind
        self._links = find_links(file, kind, start)
        self._reader = self._open_link(self._links[0])
        self.sample_rate, self.num_channels = self._reader.sample_rate, self._reader.num_channels
        self.subtype, self.channel_mask = self._reader.subtype, self._reader.channel_mask
        self.num_frames = self._reader.num_frames if len(self._links) == 1 else None

    def blocks(self, dtype: SampleType, start: int = 0) -> Iterator[Block]:
        if len(self._links) == 1 and not self._links[0].is_cut_out:
            yield from self._reader.blocks(dtype, start)
            return
        num_read = 0
        for block in self._all_blocks(dtype):
            num_read += len(block)
            if num_read > start:
                yield block[max(0, start - (num_read - len(block))) :]

    def close(self) -> None:
        self._reader.close()

    def _all_blocks(self, dtype: SampleType) -> Iterator[Block]:
        yield from self._reader.blocks(dtype)
        expected = (self.sample_rate, self.num_channels)
        for link in self._links[1:]:
            self._reader.close()
            self._reader = self._open_link(link)
            came = (self._reader.sample_rate, self._reader.num_channels)
            if came != expected:
                raise changed(expected, came)
            yield from self._reader.blocks(dtype)

    def _open_link(self, link: Link) -> Reader:
        window = Window(self._file, link)
        is_whole = link.start == 0 and link.end == self._num_bytes and not link.head
        if self._kind in ("mp3", "aac", "mp4", "webm") or link.begins_before_0:
            return FfmpegReader(window, self._kind)
        try:
            if self._path and is_whole and self._kind != "flac":
                return LibsndfileReader(self._path, link)
            return LibsndfileReader(window, link)
        except AudioError:
            # Few, such as an ALAC in a CAF or an MP3 in a WAV, are known to FFmpeg alone, which can also name others.
            window.seek(0)
            return FfmpegReader(window, self._kind)


def _cut_out(file: BinaryIO, suffix: str) -> tuple[Kind | None, int]:
    """What a file is by its name, where its bytes do not say so at once, and where it begins."""
    named: Kind | None = "mp3" if suffix == ".mp3" else "aac" if suffix == ".aac" else None
    place = first_frame(file, named) if named else None
    return (named, place) if place is not None else (None, 0)


def _is_path(source: AudioSource) -> bool:
    return isinstance(source, os.PathLike) or (isinstance(source, str) and "://" not in source)


def _open(source: AudioSource, name: str) -> BinaryIO:
    """An open file that can be moved in."""
    if isinstance(source, (str, os.PathLike)) and not _is_path(source):
        return _fetch(str(source), name)
    if isinstance(source, (str, os.PathLike)):
        try:
            return Path(source).open("rb")
        except OSError as error:
            raise AudioError(f"{name}: cannot be opened ({error.strerror or error})") from error
    is_seekable = hasattr(source, "seekable") and source.seekable()
    return source if is_seekable else io.BytesIO(source.read())


def open_bytes(path: str) -> BinaryIO:
    """A file at a path or an address, whose path is quoted as in URLs, to be read anywhere. Raises OSError."""
    if _is_path(path):
        return Path(path).open("rb")
    scheme, _, rest = path.partition("://")
    rest, question, options = rest.partition("?")
    server, _, key = rest.partition("/")
    return _server(f"{scheme}://{server}{question}{options}").open(unquote(key))


def _fetch(address: str, name: str) -> BinaryIO:
    """An open file behind an address; an AudioError if there is none."""
    try:
        file: Any = open_bytes(address)
        if file.seek(0, io.SEEK_END) <= _FETCH_WHOLE_BYTES:
            with file:
                file.seek(0)
                return io.BytesIO(file.read())
    except OSError as error:
        raise AudioError(f"{name}: cannot be opened ({one_line(error)})") from error
    return io.BufferedReader(file, _FETCH_PIECE_BYTES)
