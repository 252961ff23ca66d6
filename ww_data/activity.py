"""Which 20 ms frames of a signal are speech.

Energies of int16 PCM are exact, so that results are the same bit for bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

FRAME_S = 0.02
# A frame is speech if it is at most 30 dB below the clip's loudest frame. (That is about 20 dB below the
# level of speech, and 20 dB above the noise floor of an ordinary recording.)
_DYNAMIC_RANGE = 1000


def frame_length(sample_rate: int) -> int:
    """Samples in a frame of 20 ms."""
    return round(FRAME_S * sample_rate)


def frame_energies(x: npt.NDArray[Any], frame: int) -> npt.NDArray[np.float64]:
    """Sums of squares (..., F) over the frames of x (..., T); the last frame may be a short one.

    For int16 input each value is an integer far below 2**53, so float64 sums are exact in whatever order they
    are taken, and several times faster than sums in int64.
    """
    num_whole = x.shape[-1] // frame
    body, tail = x[..., : num_whole * frame], x[..., num_whole * frame :]
    frames = body.reshape(*x.shape[:-1], num_whole, frame).astype(np.float64)
    energies = np.vecdot(frames, frames)
    if tail.shape[-1]:
        last = np.vecdot(tail.astype(np.float64), tail.astype(np.float64))
        energies = np.concatenate([energies, last[..., None]], axis=-1)
    return energies


def active_floor(pcm_T: npt.NDArray[np.int16], sample_rate: int) -> int:
    """The energy from which a 20 ms frame of this clip counts as speech (at least 1).

    It is taken over a whole clip and kept with each segment: within a pause, the loudest frame is no speech
    either.
    """
    energies = frame_energies(pcm_T, frame_length(sample_rate))
    return max(int(energies.max(initial=0.0)) // _DYNAMIC_RANGE, 1)


def activity(pcm_T: npt.NDArray[np.int16], sample_rate: int, floor: int) -> float:
    """The part of a signal's frames that are speech, 0 to 1."""
    return float((frame_energies(pcm_T, frame_length(sample_rate)) >= floor).mean())
