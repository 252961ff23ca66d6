"""What is converted at once: a clip, or ten minutes of a long one, so that no recording has to fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ww_data.audio import AudioError, open_audio, read_mono, resample
from ww_data.manifest import Clip

FloatArray = npt.NDArray[np.float32]
Int16Array = npt.NDArray[np.int16]

PIECE_S = 600
# Read beyond both ends of a piece and thrown away again: resampling filters then never meet an edge.
_MARGIN_S = 1


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
    """A clip in pieces of ten minutes; the last one takes what remains, up to twenty."""
    num_pieces = max(1, int(clip.seconds // PIECE_S))
    for index in range(num_pieces):
        is_last = index == num_pieces - 1
        yield Piece(clip=clip, start_s=index * PIECE_S, seconds=None if is_last else PIECE_S)


def read_piece(piece: Piece, sample_rate: int) -> FloatArray:
    """Samples (T,) of a piece at `sample_rate` Hz: channels averaged (of a room's response, the first one).

    Raises AudioError if the file can no longer be read.
    """
    x_T = _read(piece, piece.clip.path, sample_rate)
    if not piece.clip.minus:
        return x_T
    minus_T = _read(piece, piece.clip.minus, sample_rate)
    if len(minus_T) != len(x_T):
        raise AudioError(f"{piece.clip.path}: is not as long as {piece.clip.minus}")
    return x_T - minus_T


def _read(piece: Piece, path: str, sample_rate: int) -> FloatArray:
    if piece.clip.role == "rir":
        with open_audio(path) as file:
            first_T = file.read(dtype="float32", always_2d=True)[:, 0]
            return resample(np.ascontiguousarray(first_T), int(file.samplerate), sample_rate)
    if piece.start_s == 0 and piece.seconds is None:
        return read_mono(path, sample_rate)
    with open_audio(path) as file:
        rate = int(file.samplerate)
        margin_s = min(_MARGIN_S, piece.start_s)
        file.seek((piece.start_s - margin_s) * rate)
        num_frames = -1 if piece.seconds is None else (margin_s + piece.seconds + _MARGIN_S) * rate
        mono_T = file.read(num_frames, dtype="float32", always_2d=True).mean(axis=1)
    x_T = resample(mono_T, rate, sample_rate)[margin_s * sample_rate :]
    return x_T if piece.seconds is None else x_T[: piece.seconds * sample_rate]


def to_pcm(x_T: np.ndarray) -> Int16Array:
    """int16 PCM of samples at full scale +-1. Clips that leave it (by resampling) are scaled, not cut off."""
    full_scale = 32768 * x_T
    highest, lowest = float(full_scale.max(initial=0.0)), float(full_scale.min(initial=0.0))
    full_scale = full_scale * min(1.0, 32767 / max(highest, 1.0), -32768 / min(lowest, -1.0))
    return np.rint(full_scale).astype(np.int16)
