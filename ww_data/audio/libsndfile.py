"""A stream of PCM, FLAC or Ogg, decoded by libsndfile."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import soundfile

from ww_data.audio.containers.chunks import MAX_MISSING, MAX_MISSING_S
from ww_data.audio.errors import bad_beginning, bad_sound, cut_short, has_gaps, unreadable
from ww_data.audio.reader import BLOCK_FRAMES, MIN_GAP_S, SPEAKERS, Block, SampleType, from_ogg_order
from ww_data.audio.speakers import apples_speakers
from ww_data.audio.windows import Link, Window

_HEAD_BYTES = 1 << 10
_UNKNOWN_FRAMES = 1 << 62


class _FrontToBack(soundfile.SoundFile):
    """soundfile seeks after each read, to where it is: in an Ogg whose clock leaves out sound, that is elsewhere."""

    def seekable(self) -> bool:
        return False


class LibsndfileReader:
    """See `Reader`. AudioErrors are without a name."""

    def __init__(self, source: str | Window, link: Link) -> None:
        try:
            self._file = _FrontToBack(os.fsencode(source) if isinstance(source, str) else source)
        except (soundfile.LibsndfileError, RuntimeError, TypeError) as error:
            raise bad_beginning(error) from error
        self.sample_rate, self.num_channels = int(self._file.samplerate), int(self._file.channels)
        self.subtype: str = self._file.subtype
        if self.subtype.startswith("MPEG"):  # whose length libsndfile guesses
            raise unreadable("it holds MPEG sound")
        self._frames_there = min(self._file.frames, link.num_frames or self._file.frames)
        self.num_frames = self._frames_there if self._frames_there < _UNKNOWN_FRAMES else None
        self._is_ogg = self.subtype in ("VORBIS", "OPUS")
        self._has_ogg_order = self._is_ogg and not (self.num_channels > 2 and _is_discrete(source))
        has_standard = self._file.format == "FLAC" or self._has_ogg_order
        self._apples = apples_speakers(link.apples_layout, self.num_channels)
        of_file = link.channel_mask or self._apples.mask
        self.channel_mask = SPEAKERS.get(self.num_channels, 0) if has_standard else of_file

    def blocks(self, dtype: SampleType, start: int = 0) -> Iterator[Block]:
        num_read = min(start, self._frames_there)
        try:
            if start:
                self._file.seek(num_read)
            while len(block := self._file.read(self._num_next(num_read), dtype=dtype, always_2d=True)):
                num_read += len(block)
                yield from_ogg_order(block) if self._has_ogg_order else self._apples.ordered(block)
        except (soundfile.LibsndfileError, RuntimeError) as error:
            raise bad_sound() from error
        num_missing = (self.num_frames or 0) - num_read
        if self._is_ogg and num_missing > MIN_GAP_S * self.sample_rate:  # whose pages were all found
            raise has_gaps(num_read, num_read + num_missing)
        if num_missing > min(MAX_MISSING * (self.num_frames or 0), MAX_MISSING_S * self.sample_rate):
            raise cut_short(num_read, num_read + num_missing, "samples")

    def _num_next(self, num_read: int) -> int:
        """How many frames to ask for: none behind the last, for the rest of a FLAC that was cut is no frame."""
        return min(BLOCK_FRAMES, self._frames_there - num_read)

    def close(self) -> None:
        self._file.close()


def _is_discrete(source: str | Window) -> bool:
    """Whether an Opus says of its channels that they are for no speakers."""
    with Path(source).open("rb") if isinstance(source, str) else nullcontext(source) as file:
        place = file.seek(0, io.SEEK_CUR)
        file.seek(0)
        head = file.read(_HEAD_BYTES) or b""
        file.seek(place)
    about = head[head.find(b"OpusHead") :]
    return about.startswith(b"OpusHead") and about[18:19] == b"\xff"
