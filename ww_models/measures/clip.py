"""All measures of one clip that are asked for, undefined ones as NaN: never an exception for what a signal holds."""

import math
from collections.abc import Collection, Sequence

import numpy as np

from ww_models.measures import composite, dnsmos
from ww_models.measures.spectral import lsd_db, seg_snr_db
from ww_models.measures.words import Recogniser, word_error_rate, words_of
from ww_models.perceptual import FloatArray64, is_silent, pesq_score, stoi_score
from ww_models.quality import MEASURES, si_sdr_db, snr_db

# Those that need nothing but the sound itself, and those that need nothing but its two sides.
WITHOUT_CLEAN = dnsmos.NAMES
_DIGITS = 9
STANDARD = tuple(name for name in MEASURES if name not in (*WITHOUT_CLEAN, "wer"))


def measure_clip(
    clean_T: np.ndarray | None,
    estimate_T: np.ndarray,
    sample_rate: int,
    measures: Collection[str] = STANDARD,
    *,
    recogniser: Recogniser | None = None,
    said: Sequence[str] = (),
) -> dict[str, float]:
    """The measures by name, in the order of the table. Signals: (T,), full scale +-1.

    clean_T: None where there is no clean side: all that needs one is NaN.
    recogniser, said: for "wer": what hears words, and the words (`words_of`) that were said.
    ValueError for shapes that differ or are not (T,).
    """
    shapes = estimate_T.shape if clean_T is None else clean_T.shape, estimate_T.shape
    if estimate_T.ndim != 1 or shapes[0] != shapes[1]:
        raise ValueError(
            f"a clip is measured as two (samples,) of equal length, got {shapes[0]} and {shapes[1]}"
        )
    estimate = estimate_T.astype(np.float64)
    found: dict[str, float] = {}
    if np.isfinite(estimate).all():
        if clean_T is not None:
            found |= _against_clean(clean_T.astype(np.float64), estimate, sample_rate, measures)
        if not set(WITHOUT_CLEAN).isdisjoint(measures) and not is_silent(estimate):
            found |= dnsmos.dnsmos_scores(estimate, sample_rate)
        if "wer" in measures and recogniser is not None:
            heard = words_of(recogniser(estimate_T.astype(np.float32), sample_rate))
            found["wer"] = word_error_rate(said, heard)
    # Where a signal lies in memory decides its last bits: between systems they are no difference.
    return {name: round(found.get(name, math.nan), _DIGITS) for name in MEASURES if name in measures}


def _against_clean(
    clean: FloatArray64, estimate: FloatArray64, sample_rate: int, measures: Collection[str]
) -> dict[str, float]:
    if is_silent(clean) or not np.isfinite(clean).all():
        return {}
    found: dict[str, float] = {}
    if "snr_db" in measures:
        found["snr_db"] = float(snr_db(clean, estimate))
    if "si_sdr_db" in measures:
        found["si_sdr_db"] = float(si_sdr_db(clean, estimate))
    if "seg_snr_db" in measures:
        found["seg_snr_db"] = seg_snr_db(clean, estimate, sample_rate)
    if is_silent(estimate):
        return found
    if "lsd_db" in measures:
        found["lsd_db"] = lsd_db(clean, estimate, sample_rate)
    if "stoi" in measures:
        found["stoi"] = stoi_score(clean, estimate, sample_rate)
    if "estoi" in measures:
        found["estoi"] = stoi_score(clean, estimate, sample_rate, extended=True)
    if not {"pesq", *composite.NAMES}.isdisjoint(measures):
        found["pesq"] = pesq_score(clean, estimate, sample_rate)
    if not set(composite.NAMES).isdisjoint(measures):
        found |= composite.composite_scores(clean, estimate, sample_rate, found["pesq"])
    return found
