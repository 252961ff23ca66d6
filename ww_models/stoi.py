"""STOI and ESTOI of a clip: what `pystoi` computes, over all frames at once and both from one analysis.

Taal, Hendriks, Heusdens and Jensen, "An algorithm for intelligibility prediction of time-frequency weighted noisy
speech", IEEE TASLP 19 (2011); Jensen and Taal, "An algorithm for predicting the intelligibility of speech masked by
modulated noise maskers", IEEE TASLP 24 (2016). The resampling filter and the bands are pystoi's own.
"""

import math

import numpy as np
import numpy.typing as npt

FloatArray64 = npt.NDArray[np.float64]

_RATE, _FRAME, _HOP, _FFT = 10_000, 256, 128, 512
_SEGMENT_FRAMES = 30  # 0.4 s
_SPEECH_RANGE_DB = 40.0  # below the loudest frame; what is fainter is left out
_WORST_SDR_DB = -15.0
_TINY = float(np.finfo(np.float64).eps)
_WINDOW = np.hanning(_FRAME + 2)[1:-1]


def stoi_scores(
    clean_T: FloatArray64, estimate_T: FloatArray64, sample_rate: int, *, extended: bool = True
) -> tuple[float, float]:
    """(STOI, ESTOI) of a clip (T,), each at most 1; both NaN where fewer than 30 frames (0.4 s) hold speech.

    extended: whether ESTOI is wanted; without it that is NaN.
    """
    frames = [_frames(_at_10_khz(each_T, sample_rate)) for each_T in (clean_T, estimate_T)]
    if not len(frames[0]):
        return math.nan, math.nan
    level_dbM = 20 * np.log10(np.linalg.norm(frames[0], axis=1) + _TINY)
    is_speech_M = level_dbM > level_dbM.max() - _SPEECH_RANGE_DB
    envelopes = [_band_envelopes(_overlap_add(each[is_speech_M])) for each in frames]
    if envelopes[0].shape[1] < _SEGMENT_FRAMES:
        return math.nan, math.nan
    # (bands, segments, frames of a segment)
    x, y = (np.lib.stride_tricks.sliding_window_view(each, _SEGMENT_FRAMES, axis=1) for each in envelopes)
    return _correlation(x, y), _extended_correlation(x, y) if extended else math.nan


def _correlation(x: FloatArray64, y: FloatArray64) -> float:
    """Mean over bands and segments of how alike the envelopes are, without what is beyond the worst SDR."""
    norm = np.linalg.norm(x, axis=2, keepdims=True) / (np.linalg.norm(y, axis=2, keepdims=True) + _TINY)
    y = np.minimum(y * norm, x * (1 + 10 ** (-_WORST_SDR_DB / 20)))
    x, y = (each - each.mean(axis=2, keepdims=True) for each in (x, y))
    norms = [np.linalg.norm(each, axis=2) + _TINY for each in (x, y)]
    return float(np.mean(np.einsum("bsf,bsf->bs", x, y) / (norms[0] * norms[1])))


def _extended_correlation(x: FloatArray64, y: FloatArray64) -> float:
    """Mean over segments and their frames of how alike spectra are, once each band has been normalised."""
    x, y = (_unit(_unit(each, axis=2), axis=0) for each in (x, y))
    return float(np.einsum("bsf,bsf->", x, y) / (x.shape[1] * _SEGMENT_FRAMES))


def _unit(x: FloatArray64, axis: int) -> FloatArray64:
    """Without its mean, and of norm 1 (0 where there is nothing but the mean)."""
    x = x - x.mean(axis=axis, keepdims=True)
    return x / np.maximum(np.linalg.norm(x, axis=axis, keepdims=True), _TINY)


def _at_10_khz(x_T: FloatArray64, sample_rate: int) -> FloatArray64:
    from pystoi.utils import resample_oct

    return x_T if sample_rate == _RATE else resample_oct(x_T, _RATE, sample_rate)


def _frames(x_T: FloatArray64) -> FloatArray64:
    """(T,) -> (M, 256), windowed. The last whole frame is not taken where it ends the signal, as in the original."""
    if len(x_T) <= _FRAME:
        return np.zeros((0, _FRAME))
    return np.lib.stride_tricks.sliding_window_view(x_T[:-1], _FRAME)[::_HOP] * _WINDOW


def _overlap_add(frames: FloatArray64) -> FloatArray64:
    """(M, 256) -> the signal of these frames, one after another at half their length."""
    halves = np.zeros((len(frames) + 1, _HOP))
    halves[:-1] += frames[:, :_HOP]
    halves[1:] += frames[:, _HOP:]
    return halves.reshape(-1)


def _band_envelopes(x_T: FloatArray64) -> FloatArray64:
    """(T,) -> (15 bands, M)."""
    from pystoi.stoi import OBM

    power = np.abs(np.fft.rfft(_frames(x_T), _FFT, axis=1)) ** 2
    return np.sqrt(OBM @ power.T)
