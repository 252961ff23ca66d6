"""What is converted at once: a clip, or a minute of a long one, so that no recording has to fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ww_data.audio import AudioError, iter_blocks, open_audio, read_audio, read_mono, resample
from ww_data.dsp import HIGH_PASS_HZ, high_passed
from ww_data.manifest import Clip

FloatArray = npt.NDArray[np.float32]
Int16Array = npt.NDArray[np.int16]

PIECE_S = 60
# Read beyond both ends of a piece and thrown away again: filters (`high_passed`'s is the longest) never meet an edge.
_MARGIN_S = 1
# Filters move peaks: clips that come close to full scale are brought down to this before.
_FILTERED_PEAK = 0.9


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A stretch of a clip: from `start_s` on, `seconds` long (None: to the clip's end)."""

    clip: Clip
    start_s: int = 0
    seconds: int | None = None

    def num_samples(self, sample_rate: int) -> int:
        """About how many samples it has at a rate."""
        rest = self.clip.seconds - self.start_s if self.seconds is None else self.seconds
        return round(rest * sample_rate)


def pieces_of(clip: Clip) -> Iterator[Piece]:
    """A clip in pieces of a minute; the last one takes what remains, up to two. A room's response is never cut."""
    num_pieces = 1 if clip.role == "rir" else max(1, int(clip.seconds // PIECE_S))
    for index in range(num_pieces):
        is_last = index == num_pieces - 1
        yield Piece(clip=clip, start_s=index * PIECE_S, seconds=None if is_last else PIECE_S)


class PieceReader:
    """Reads pieces. Those of one recording come in order: it is decoded once, from front to back, over all of them."""

    def __init__(self, sample_rate: int, high_pass_hz: float = HIGH_PASS_HZ) -> None:
        """sample_rate: of what is read, in Hz.
        high_pass_hz: what lies below is taken off, of a room's response its offset; 0 for corpora of earlier versions.
        """
        self._sample_rate, self._high_pass_hz = sample_rate, high_pass_hz
        self._tracks: dict[str, _Track] = {}

    def __enter__(self) -> PieceReader:
        return self

    def __exit__(self, *_: object) -> None:
        for track in self._tracks.values():
            track.close()
        self._tracks = {}

    def read(self, piece: Piece) -> FloatArray:
        """Samples (T,) of a piece, channels averaged (of a room, the first). Raises AudioError."""
        clip = piece.clip
        x_T = self._read(piece, clip.path)
        if not clip.minus:
            return x_T
        minus_T = self._read(piece, clip.minus)
        if len(minus_T) != len(x_T):
            raise AudioError(f"{clip.path}: is not as long as {clip.minus}")
        return x_T - minus_T

    def _read(self, piece: Piece, path: str) -> FloatArray:
        to_rate = self._sample_rate
        if piece.clip.role == "rir":
            samples_TC, rate = read_audio(path)
            response_T = resample(np.ascontiguousarray(samples_TC[:, 0]), rate, to_rate)
            # Most of a response is a tail around its offset. A filter would put something before the direct path.
            return response_T - np.median(response_T) if self._high_pass_hz else response_T
        if piece.start_s == 0 and piece.seconds is None:
            return self._high_passed(read_mono(path, to_rate))
        margin_s = min(_MARGIN_S, piece.start_s)
        end_s = None if piece.seconds is None else piece.start_s + piece.seconds + _MARGIN_S
        track = self._track(piece, path)
        mono_T = track.read(piece.start_s - margin_s, end_s)
        x_T = self._high_passed(resample(mono_T, track.sample_rate, to_rate))[margin_s * to_rate :]
        return x_T if piece.seconds is None else x_T[: piece.seconds * to_rate]

    def _high_passed(self, x_T: FloatArray) -> FloatArray:
        return high_passed(x_T, self._sample_rate, self._high_pass_hz) if self._high_pass_hz else x_T

    def _track(self, piece: Piece, path: str) -> _Track:
        if path not in self._tracks:
            if path == piece.clip.path:
                self.__exit__()  # the last recording is done with
            self._tracks[path] = _Track(path, max(0, piece.start_s - _MARGIN_S))
        return self._tracks[path]


class _Track:
    """A recording, channels averaged, of which ever later stretches are read."""

    def __init__(self, path: str, start_s: int) -> None:
        self._files = ExitStack()
        file = self._files.enter_context(open_audio(path))
        self.sample_rate = file.sample_rate
        self._start = start_s * file.sample_rate  # of the samples that are kept
        self._kept_T = np.empty(0, np.float32)
        self._blocks = iter_blocks(file, path, start=self._start)

    def read(self, start_s: int, end_s: int | None) -> FloatArray:
        """The samples of a stretch (None: to the end); what lies before it is given up."""
        dropped = start_s * self.sample_rate - self._start
        wanted = None if end_s is None else end_s * self.sample_rate - self._start
        parts, num_samples = [self._kept_T], len(self._kept_T)
        while wanted is None or num_samples < wanted:
            if (block_TC := next(self._blocks, None)) is None:
                break
            parts.append(block_TC.mean(axis=1))
            num_samples += len(block_TC)
        joined_T = np.concatenate(parts)
        self._kept_T, self._start = joined_T[dropped:], self._start + dropped
        return joined_T[dropped:wanted]

    def close(self) -> None:
        self._files.close()


def pcm_gain(clip: Clip, sample_rate: int, high_pass_hz: float = HIGH_PASS_HZ) -> float:
    """What a clip is scaled by to fit into 16 bits: one value for all of it, and for both sides of a pair."""
    highest = _FILTERED_PEAK if high_pass_hz or clip.sample_rate != sample_rate else 1.0
    peak = clip.peak + (clip.offset if high_pass_hz else 0.0)
    return min(1.0, highest / peak) if peak > 0 else 1.0


def to_pcm(x_T: np.ndarray, gain: float = 1.0) -> Int16Array:
    """int16 PCM of samples at full scale +-1, times a gain; what leaves full scale saturates."""
    return np.clip(np.rint((32768 * gain) * x_T), -32768, 32767).astype(np.int16)
