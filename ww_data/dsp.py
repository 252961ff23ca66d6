"""Arithmetic on samples: which 20 ms frames are speech, and filtering by FFT.

Energies of int16 PCM are exact, so that results are the same bit for bit. SciPy is imported at the first use: it takes
longer to start than all else that a process needs which mixes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
Int16Array = npt.NDArray[np.int16]

FRAME_S = 0.02
# Nobody hears what lies below, least of all an offset; levels and SNRs would count it.
HIGH_PASS_HZ = 20.0
# From the frequency that is kept to the one that is gone it takes 2.5 / reach: 10 Hz.
_HIGH_PASS_REACH_S = 0.25
_HIGH_PASS_STOP_DB = 80.0
# A frame is speech if it is at most 30 dB below the clip's loudest frame. (That is about 20 dB below the
# level of speech, and 20 dB above the noise floor of an ordinary recording.)
_DYNAMIC_RANGE = 1000
# Signals are filtered in four blocks: four FFTs at once take a third of the time of a long one.
_NUM_BLOCKS = 4


def frame_length(sample_rate: int) -> int:
    """Samples in a frame of 20 ms."""
    return round(FRAME_S * sample_rate)


def frame_energies(x: npt.NDArray[Any], frame: int) -> npt.NDArray[np.float64]:
    """Sums of squares (..., M) over the frames of x (..., T); the last frame may be a short one.

    Those of int16 are integers far below 2**53: in float64 they are exact, and several times faster than in int64.
    """
    num_whole = x.shape[-1] // frame
    body, tail = x[..., : num_whole * frame], x[..., num_whole * frame :]
    frames = body.reshape(*x.shape[:-1], num_whole, frame).astype(np.float64)
    energies = np.vecdot(frames, frames)
    if tail.shape[-1]:
        last = np.vecdot(tail.astype(np.float64), tail.astype(np.float64))
        energies = np.concatenate([energies, last[..., None]], axis=-1)
    return energies


def active_floor(pcm_T: Int16Array, sample_rate: int) -> int:
    """The energy from which a 20 ms frame of this clip counts as speech (at least 1).

    It is kept with each segment of the clip: within a pause, the loudest frame is no speech either.
    """
    energies = frame_energies(pcm_T, frame_length(sample_rate))
    return max(int(energies.max(initial=0.0)) // _DYNAMIC_RANGE, 1)


def activity(pcm_T: Int16Array, sample_rate: int, floor: int) -> float:
    """The part of a signal's frames that are speech, 0 to 1."""
    return float((frame_energies(pcm_T, frame_length(sample_rate)) >= floor).mean())


def high_passed(x_T: npt.NDArray[Any], sample_rate: int, cutoff_hz: float = HIGH_PASS_HZ) -> FloatArray:
    """Samples (T,) without what lies below a frequency, an offset first of all; no phase is turned.

    15 Hz are down by 80 dB, 25 Hz are as they were. No sample reaches farther than `high_pass_reach`.
    """
    from scipy.signal import oaconvolve

    x_T = np.asarray(x_T, np.float32)
    if len(x_T) < 2:
        return np.zeros(len(x_T), np.float32)
    # What is mirrored at both ends makes them begin and end with no step.
    mirrored_T = np.pad(x_T, high_pass_reach(sample_rate), mode="reflect")
    return np.asarray(x_T - oaconvolve(mirrored_T, _low_pass(sample_rate, cutoff_hz), "valid"), np.float32)


def high_pass_reach(sample_rate: int) -> int:
    """How many samples before and after another one count in `high_passed`."""
    return round(_HIGH_PASS_REACH_S * sample_rate)


@lru_cache(maxsize=8)
def _low_pass(sample_rate: int, cutoff_hz: float) -> FloatArray:
    """What `high_passed` takes off: a kernel whose sum is 1, so that nothing is left of an offset."""
    from scipy.signal import firwin, kaiser_beta

    num_taps = 2 * high_pass_reach(sample_rate) + 1
    window = ("kaiser", kaiser_beta(_HIGH_PASS_STOP_DB))
    return np.asarray(firwin(num_taps, cutoff_hz, window=window, fs=sample_rate), np.float32)


def fft_length(num_samples: int, num_before: int, num_after: int) -> int:
    """Samples of an FFT for signals of `num_samples` and a response of as many samples before and after its time 0."""
    import scipy.fft

    return int(scipy.fft.next_fast_len(_block_samples(num_samples) + num_before + num_after, real=True))


def response_of(kernel_L: FloatArray, time_zero: int, fft_samples: int) -> npt.NDArray[np.complex64]:
    """The spectrum (F,) of a kernel whose sample `time_zero` is its time 0; what lies before wraps to the end."""
    import scipy.fft

    wrapped_T = np.zeros(fft_samples, np.float32)
    wrapped_T[: len(kernel_L) - time_zero] = kernel_L[time_zero:]
    if time_zero:
        wrapped_T[-time_zero:] = kernel_L[:time_zero]
    spectrum_F: npt.NDArray[np.complex64] = scipy.fft.rfft(wrapped_T)
    return spectrum_F


def convolve(
    signals: Sequence[npt.NDArray[Any]],
    responses: Sequence[npt.NDArray[Any]],
    fft_samples: int,
    num_before: int,
) -> FloatArray:
    """Each of N signals (T,) with each of R responses (F,), which reach `num_before` samples ahead: (R, N, T)."""
    import scipy.fft

    num_samples = len(signals[0])
    block_samples = _block_samples(num_samples)
    starts = range(0, num_samples, block_samples)
    blocks_NBT = np.zeros((len(signals), _NUM_BLOCKS, fft_samples), np.float32)
    for x_T, blocks_BT in zip(signals, blocks_NBT, strict=True):
        for start, block_T in zip(starts, blocks_BT, strict=False):  # very short signals fill fewer blocks
            part_T = x_T[start : start + block_samples]
            block_T[num_before : num_before + len(part_T)] = part_T
    spectra_NBF = scipy.fft.rfft(blocks_NBT)
    y_RNT = np.zeros((len(responses), len(signals), num_samples), np.float32)
    for response_F, y_NT in zip(responses, y_RNT, strict=True):
        filtered_NBT = scipy.fft.irfft(spectra_NBF * response_F, fft_samples, overwrite_x=True)
        for y_T, filtered_BT in zip(y_NT, filtered_NBT, strict=True):
            for start, filtered_T in zip(starts, filtered_BT, strict=False):
                first = start - num_before
                low, high = max(first, 0), min(first + fft_samples, num_samples)
                y_T[low:high] += filtered_T[low - first : high - first]
    return y_RNT


def _block_samples(num_samples: int) -> int:
    return max(-(-num_samples // _NUM_BLOCKS), 1)
