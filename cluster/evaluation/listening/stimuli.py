"""What is heard of a clip: systems, hidden reference and anchors, at one loudness.

All are matched to the reference: the loudness (BS.1770-4) over the blocks in which the reference passes the gate, that
is, while somebody speaks. Each signal's own gate would count other blocks where the pauses are full of noise. Then one
gain for all brings the reference to -26 LUFS, or as near as no peak is cut, so that nobody turns the volume between
clips. Noisy speech that is as loud as clean speech has less speech in it; that is what it means to be noisy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from cluster.evaluation.listening.loudness import block_powers, gate, loudness_lufs
from cluster.evaluation.listening.source import CLEAN, ListeningError
from ww_data.dsp import FloatArray

LEVEL_LUFS = -26.0
PEAK = 0.98  # of full scale, the most of any sample
SILENCE_LU = 60.0  # so far below the reference there is nothing to bring up
LOW_ANCHOR, MID_ANCHOR = "anchor 3.5 kHz", "anchor 7 kHz"
ANCHORS_HZ = {LOW_ANCHOR: 3500.0, MID_ANCHOR: 7000.0}
_TRANSITION_HZ, _STOP_DB = 500.0, 60.0  # BS.1534-3 asks for 25 dB at 4 kHz, 50 dB at 4.5 kHz


def check_anchor(anchor: str, sample_rate: int) -> None:
    """Raises ListeningError where an anchor would sound like the reference."""
    if 2 * (ANCHORS_HZ[anchor] + _TRANSITION_HZ) >= sample_rate:
        advice = "compare two systems with --mode ab" if anchor == LOW_ANCHOR else "leave it out"
        raise ListeningError(f"at {sample_rate} Hz the {anchor} sounds like the reference: {advice}")


def low_passed(signal_T: FloatArray, cutoff_hz: float, sample_rate: int) -> FloatArray:
    """Samples (T,) without what lies above a frequency; no phase is turned. Flat to 0.1 dB up to it, 60 dB less
    from 500 Hz above it."""
    from scipy.signal import firwin, kaiser_beta, oaconvolve

    # Kaiser's formula for the length that reaches 60 dB within the transition.
    half = math.ceil((_STOP_DB - 7.95) / (2.285 * 2 * math.pi * _TRANSITION_HZ / sample_rate) / 2)
    middle_hz = cutoff_hz + _TRANSITION_HZ / 2
    window = ("kaiser", kaiser_beta(_STOP_DB))
    kernel_L = firwin(2 * half + 1, middle_hz, window=window, fs=sample_rate)
    return np.asarray(oaconvolve(np.pad(signal_T, half), kernel_L, "valid"), np.float32)


def make_stimuli(
    signals: Mapping[str, FloatArray], anchors: tuple[str, ...], sample_rate: int, name: str
) -> dict[str, FloatArray]:
    """The signals (T,) of a clip and the anchors made of "clean", matched in loudness.

    name: of the clip, for the ListeningError that a silent reference raises. A system's silence stays silence.
    """
    clean_T = signals[CLEAN]
    heard = dict(signals) | {
        anchor: low_passed(clean_T, ANCHORS_HZ[anchor], sample_rate) for anchor in anchors
    }
    counted_M = gate(block_powers(clean_T, sample_rate))
    if not counted_M.any():
        raise ListeningError(f"{name}: its reference is silent: leave it out of the report")
    lufs = {
        key: loudness_lufs(block_powers(signal_T, sample_rate), counted_M) for key, signal_T in heard.items()
    }
    matched = {
        key: signal_T * 10 ** ((lufs[CLEAN] - lufs[key]) / 20)
        if lufs[key] > lufs[CLEAN] - SILENCE_LU
        else signal_T
        for key, signal_T in heard.items()
    }
    peak = max(float(np.abs(signal_T).max()) for signal_T in matched.values())
    gain = min(10 ** ((LEVEL_LUFS - lufs[CLEAN]) / 20), PEAK / peak)
    return {key: (gain * signal_T).astype(np.float32) for key, signal_T in matched.items()}


def as_pcm(signal_T: FloatArray, rng: np.random.Generator) -> bytes:
    """16-bit samples, little-endian, with triangular dither of their own.

    So equal signals are not equal bytes, by which somebody could tell the hidden reference from the rest.
    """
    dither_T = rng.random(len(signal_T)) - rng.random(len(signal_T))
    pcm_T: npt.NDArray[np.int16] = np.clip(np.rint(signal_T * 32767 + dither_T), -32768, 32767).astype("<i2")
    return pcm_T.tobytes()
