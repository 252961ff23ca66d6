"""What is converted at once: a clip, or a minute of a long one, so that no recording has to fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import soundfile

from ww_data.audio import AudioError, open_audio, read_mono, resample
from ww_data.dsp import high_passed
from ww_data.manifest import Clip

FloatArray = npt.NDArray[np.float32]
Int16Array = npt.NDArray[np.int16]

PIECE_S = 60
# Read beyond both ends of a piece and thrown away again: resampling filters then never meet an edge.
_MARGIN_S = 1
_BLOCK_FRAMES = 1 << 18
# Filters move peaks: clips that come close to full scale are brought down to this before.
_FILTERED_PEAK = 0.9
# Nobody hears what lies below, least of all an offset; levels and SNRs would count it.
HIGH_PASS_HZ = 20.0


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


def read_piece(piece: Piece, sample_rate: int, high_pass_hz: float = HIGH_PASS_HZ) -> FloatArray:
    """Samples (T,) of a piece at `sample_rate` Hz, channels averaged (of a room, the first). Raises AudioError.

    high_pass_hz: what lies below is taken off, of a room's response its offset; 0 for corpora of earlier versions.
    """
    x_T = _read(piece, piece.clip.path, sample_rate, high_pass_hz)
    if not piece.clip.minus:
        return x_T
    minus_T = _read(piece, piece.clip.minus, sample_rate, high_pass_hz)
    if len(minus_T) != len(x_T):
        raise AudioError(f"{piece.clip.path}: is not as long as {piece.clip.minus}")
    return x_T - minus_T


def _read(piece: Piece, path: str, sample_rate: int, high_pass_hz: float) -> FloatArray:
    if piece.clip.role == "rir":
        with open_audio(path) as file:
            first_T = file.read(dtype="float32", always_2d=True)[:, 0]
            response_T = resample(np.ascontiguousarray(first_T), int(file.samplerate), sample_rate)
        # Most of a response is a tail around its offset. A filter would put something before the direct path.
        return response_T - np.median(response_T) if high_pass_hz else response_T
    if piece.start_s == 0 and piece.seconds is None:
        return _high_passed(read_mono(path, sample_rate), sample_rate, high_pass_hz)
    with open_audio(path) as file:
        rate = int(file.samplerate)
        margin_s = min(_MARGIN_S, piece.start_s)
        file.seek((piece.start_s - margin_s) * rate)
        num_frames = None if piece.seconds is None else (margin_s + piece.seconds + _MARGIN_S) * rate
        mono_T = _read_mono_frames(file, num_frames)
    x_T = _high_passed(resample(mono_T, rate, sample_rate), sample_rate, high_pass_hz)
    x_T = x_T[margin_s * sample_rate :]
    return x_T if piece.seconds is None else x_T[: piece.seconds * sample_rate]


def _high_passed(x_T: FloatArray, sample_rate: int, high_pass_hz: float) -> FloatArray:
    return high_passed(x_T, sample_rate, high_pass_hz) if high_pass_hz else x_T


def _read_mono_frames(file: soundfile.SoundFile, num_frames: int | None) -> FloatArray:
    """The next frames (None: all that are left), channels averaged: never all channels of a piece at once."""
    blocks = []
    left = file.frames if num_frames is None else num_frames
    while left > 0 and len(block := file.read(min(left, _BLOCK_FRAMES), dtype="float32", always_2d=True)):
        blocks.append(block.mean(axis=1))
        left -= len(block)
    return np.concatenate(blocks) if blocks else np.empty(0, np.float32)


def pcm_gain(clip: Clip, sample_rate: int, high_pass_hz: float = HIGH_PASS_HZ) -> float:
    """What a clip is scaled by to fit into 16 bits: one value for all of it, and for both sides of a pair."""
    highest = _FILTERED_PEAK if high_pass_hz or clip.sample_rate != sample_rate else 1.0
    peak = clip.peak + (clip.offset if high_pass_hz else 0.0)
    return min(1.0, highest / peak) if peak > 0 else 1.0


def to_pcm(x_T: np.ndarray, gain: float = 1.0) -> Int16Array:
    """int16 PCM of samples at full scale +-1, times a gain; what leaves full scale saturates."""
    return np.clip(np.rint((32768 * gain) * x_T), -32768, 32767).astype(np.int16)
