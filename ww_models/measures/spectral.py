"""How far an estimate is from clean speech, frame by frame: segmental SNR, spectral distance, LLR and WSS.

LLR, WSS and the segmental SNR are those of the composites: Hu and Loizou, "Evaluation of objective quality measures for
speech enhancement", IEEE TASLP 16 (2008), and the code that its second author published with his book ("Speech
Enhancement: Theory and Practice", 2007), down to how many frames count. Signals are float64 (T,) of one length, full
scale +-1; without a whole frame every value is NaN.
"""

import math
from collections.abc import Iterator

import numpy as np

from ww_models.perceptual import FloatArray64

_FRAME_S, _HOPS_PER_FRAME = 0.030, 4
_MIN_SEG_SNR_DB, _MAX_SEG_SNR_DB = -10.0, 35.0
_KEPT = 0.95  # of the frames, the worst ones left out: LLR and WSS
_EPS = float(np.finfo(np.float64).eps)
_LSD_FRAME_S, _LSD_RANGE_DB = 0.032, 80.0
_FRAMES_AT_ONCE = 4096  # half a minute: of an hour, all frames at once would take gigabytes
# Centres and widths of the 25 critical bands in Hz: 70 Hz apart, then as far as they are wide.
_BANDS_HZ = np.array(
    [(50 + 70 * band, 70.0) for band in range(7)]
    + [(540.0, 77.3724), (617.372, 86.0056), (703.378, 95.3398), (798.717, 105.411), (904.128, 116.256)]
    + [(1020.38, 127.914), (1148.30, 140.423), (1288.72, 153.823), (1442.54, 168.154), (1610.70, 183.457)]
    + [(1794.16, 199.776), (1993.93, 217.153), (2211.08, 235.631), (2446.71, 255.255), (2701.97, 276.072)]
    + [(2978.04, 298.126), (3276.17, 321.465), (3597.63, 346.136)]
)
_FAR_DB, _NEAR_DB = 20.0, 1.0  # Klatt's constants of how peaks weigh, of all bands and of the nearest one
_SILENT_BAND_DB = -100.0


def seg_snr_db(clean_T: FloatArray64, estimate_T: FloatArray64, sample_rate: int) -> float:
    """Mean SNR of frames of 30 ms, each held between -10 and 35 dB."""
    ratios_db = []
    for clean, estimate in _frame_pieces(clean_T, estimate_T, sample_rate):
        signal, error = np.square(clean).sum(-1), np.square(clean - estimate).sum(-1)
        ratios_db.append(10 * np.log10(signal / (error + _EPS) + _EPS))
    if not ratios_db:
        return math.nan
    return float(np.concatenate(ratios_db).clip(_MIN_SEG_SNR_DB, _MAX_SEG_SNR_DB).mean())


def lsd_db(clean_T: FloatArray64, estimate_T: FloatArray64, sample_rate: int) -> float:
    """Log-spectral distance in dB (Gray and Markel 1976): the mean over frames of the root mean square difference.

    Frames of 32 ms, half overlapping; a bin counts as at least 80 dB below the loudest of the clean side.
    """
    size = round(_LSD_FRAME_S * sample_rate)
    if len(clean_T) < size:
        return math.nan
    loudest = max(float(power.max()) for power in _lsd_powers(clean_T, size))
    floor = loudest * 10 ** (-_LSD_RANGE_DB / 10)
    if not floor > 0:
        return math.nan
    distances_db = []
    for powers in zip(_lsd_powers(clean_T, size), _lsd_powers(estimate_T, size), strict=True):
        clean_db, estimate_db = (10 * np.log10(np.maximum(power, floor)) for power in powers)
        distances_db.append(np.sqrt(np.square(clean_db - estimate_db).mean(-1)))
    return float(np.concatenate(distances_db).mean())


def _lsd_powers(x_T: FloatArray64, size: int) -> Iterator[FloatArray64]:
    """(T,) -> powers (M, F) of so many frames at a time."""
    frames = np.lib.stride_tricks.sliding_window_view(x_T, size)[:: size // 2]
    window = np.hanning(size + 2)[1:-1]
    for start in range(0, len(frames), _FRAMES_AT_ONCE):
        yield np.abs(np.fft.rfft(frames[start : start + _FRAMES_AT_ONCE] * window)) ** 2


def log_likelihood_ratio(clean_T: FloatArray64, estimate_T: FloatArray64, sample_rate: int) -> float:
    """LLR: how much worse the estimate's linear prediction fits clean speech than its own, 0 or more.

    Frames in which the clean side is digital silence do not count.
    """
    order = 10 if sample_rate < 10_000 else 16
    distances = []
    for pieces in _frame_pieces(clean_T, estimate_T, sample_rate):
        lags, estimate_lags = (_autocorrelation(frames, order) for frames in pieces)
        is_sound_M = lags[:, 0] > 0
        lags, estimate_lags = lags[is_sound_M], estimate_lags[is_sound_M]
        of_estimate, of_clean = (
            _prediction_error(lags, _linear_prediction(each)) for each in (estimate_lags, lags)
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio_M = of_estimate / of_clean
        distances.append(np.log(np.where(ratio_M > 0, ratio_M, 1000.0)))
    return _mean_of_kept(distances)


def weighted_spectral_slope(clean_T: FloatArray64, estimate_T: FloatArray64, sample_rate: int) -> float:
    """WSS: differences of the slopes between 25 critical bands, near peaks more than elsewhere (Klatt 1982), 0 or
    more."""
    distances = []
    for pieces in _frame_pieces(clean_T + _EPS, estimate_T + _EPS, sample_rate):
        levels = [_band_levels_db(frames, sample_rate) for frames in pieces]
        slopes = [np.diff(level, axis=0) for level in levels]
        weights = np.mean([_slope_weights(*pair) for pair in zip(levels, slopes, strict=True)], axis=0)
        distances.append((weights * (slopes[0] - slopes[1]) ** 2).sum(0) / weights.sum(0))
    return _mean_of_kept(distances)


def _mean_of_kept(distances: list[FloatArray64]) -> float:
    distance_M = np.sort(np.concatenate(distances)) if distances else np.zeros(0)
    kept = distance_M[: round(len(distance_M) * _KEPT)]
    return float(kept.mean()) if len(kept) else math.nan


def _frame_pieces(
    clean_T: FloatArray64, estimate_T: FloatArray64, sample_rate: int
) -> Iterator[tuple[FloatArray64, FloatArray64]]:
    """Frames of both sides, (M, size) with a Hann window, some at a time; as published without the last one."""
    size = round(_FRAME_S * sample_rate)
    hop = int(_FRAME_S * sample_rate / _HOPS_PER_FRAME)
    window = np.hanning(size + 2)[1:-1]
    num_frames = max(0, (len(clean_T) - size) // hop)
    for start in range(0, num_frames, _FRAMES_AT_ONCE):
        num = min(_FRAMES_AT_ONCE, num_frames - start)
        part = slice(start * hop, (start + num - 1) * hop + size)
        sides = (
            np.lib.stride_tricks.sliding_window_view(each[part], size)[::hop]
            for each in (clean_T, estimate_T)
        )
        clean, estimate = (frames * window for frames in sides)
        yield clean, estimate


def _autocorrelation(frames: FloatArray64, order: int) -> FloatArray64:
    """(M, size) -> lags 0 to `order`, (M, order + 1)."""
    fft_size = frames.shape[1] + order
    power = np.abs(np.fft.rfft(frames, fft_size, axis=1)) ** 2
    lags = np.fft.irfft(power, fft_size, axis=1)[:, : order + 1]
    return np.where(np.any(frames, axis=1, keepdims=True), lags, 0.0)


def _linear_prediction(lags: FloatArray64) -> FloatArray64:
    """Coefficients (M, order + 1), the first one 1, by Levinson and Durbin, all frames at once."""
    coefficients = np.zeros_like(lags)
    coefficients[:, 0] = 1.0
    error_M = lags[:, 0].copy()
    for i in range(1, lags.shape[1]):
        sum_M = (coefficients[:, :i] * lags[:, i:0:-1]).sum(1)
        with np.errstate(divide="ignore", invalid="ignore"):
            reflection = np.where(error_M > 0, -sum_M / error_M, 0.0)[:, None]
        coefficients[:, 1 : i + 1] += reflection * coefficients[:, i - 1 :: -1][:, :i]
        error_M *= 1 - reflection[:, 0] ** 2
    return coefficients


def _prediction_error(lags: FloatArray64, coefficients: FloatArray64) -> FloatArray64:
    """(M,): energy of what coefficients leave of a signal with these autocorrelations."""
    index = np.abs(np.subtract.outer(np.arange(lags.shape[1]), np.arange(lags.shape[1])))
    return np.einsum("mi,mij,mj->m", coefficients, lags[:, index], coefficients)


def _band_levels_db(frames: FloatArray64, sample_rate: int) -> FloatArray64:
    """(M, size) -> (25 bands, M)."""
    fft_size = 2 ** math.ceil(math.log2(2 * frames.shape[1]))
    power = np.abs(np.fft.rfft(frames, fft_size, axis=1)[:, :-1]) ** 2
    energy = _band_filters(fft_size // 2, sample_rate) @ power.T
    with np.errstate(divide="ignore"):
        return np.maximum(10 * np.log10(energy), _SILENT_BAND_DB)


def _band_filters(num_bins: int, sample_rate: int) -> FloatArray64:
    """(25, bins): Gaussians over frequency, cut off 30 dB down, of less height the wider they are."""
    centre, width = (_BANDS_HZ.T / (sample_rate / 2) * num_bins)[:, :, None]
    shape = np.exp(-11 * ((np.arange(num_bins) - np.floor(centre)) / width) ** 2) * (width[0] / width)
    return shape * (shape > math.exp(-30 / (2 * 2.303)))


def _slope_weights(level_db: FloatArray64, slope_db: FloatArray64) -> FloatArray64:
    """(24, M): how much each slope counts, by how far its band is below the loudest band and the peak that it leads
    to."""
    base_db = level_db[:-1]
    far = _FAR_DB / (_FAR_DB + level_db.max(0) - base_db)
    near = _NEAR_DB / (_NEAR_DB + _peaks_db(level_db, slope_db) - base_db)
    return far * near


def _peaks_db(level_db: FloatArray64, slope_db: FloatArray64) -> FloatArray64:
    """(24, M): the level of the peak that each slope leads up to; of a rising one that of the band before the peak, as
    in the published code."""
    num_slopes, num_frames = slope_db.shape
    rises = slope_db > 0
    top, bottom = np.full(num_frames, num_slopes), np.full(num_frames, -1)
    peak = np.empty(slope_db.shape, dtype=int)
    for band in range(num_slopes):
        bottom = np.where(rises[band], band, bottom)
        peak[band] = bottom + 1
    for band in reversed(range(num_slopes)):
        top = np.where(rises[band], top, band)
        peak[band] = np.where(rises[band], top - 1, peak[band])
    return np.take_along_axis(level_db, peak, axis=0)
