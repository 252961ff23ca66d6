"""CSIG, CBAK and COVL: what listeners would say of speech, background and all, predicted from simpler measures.

Hu and Loizou, "Evaluation of objective quality measures for speech enhancement", IEEE TASLP 16 (2008), equations of its
table with PESQ as the field uses it since: wide band where the rate allows.
"""

import math

import numpy as np

from ww_models.measures.spectral import log_likelihood_ratio, seg_snr_db, weighted_spectral_slope
from ww_models.perceptual import FloatArray64, at_rate, pesq_rate

NAMES = ("csig", "cbak", "covl")


def composite_scores(
    clean_T: FloatArray64, estimate_T: FloatArray64, sample_rate: int, pesq: float
) -> dict[str, float]:
    """{"csig", "cbak", "covl"} of a clip (T,), each 1 to 5, at the rate of its PESQ; NaN where that is NaN.

    pesq: that of the clip, as `pesq_score` gives it; narrow band at 8 kHz.
    """
    rate = pesq_rate(sample_rate)
    if rate is None or math.isnan(pesq):
        return dict.fromkeys(NAMES, math.nan)
    signals = at_rate(clean_T, sample_rate, rate), at_rate(estimate_T, sample_rate, rate)
    llr = log_likelihood_ratio(*signals, rate)
    wss = weighted_spectral_slope(*signals, rate)
    return combine(
        pesq=_raw_narrow_band(pesq) if rate == 8_000 else pesq,
        llr=llr,
        wss=wss,
        seg_snr_db=seg_snr_db(*signals, rate),
    )


def combine(*, pesq: float, llr: float, wss: float, seg_snr_db: float) -> dict[str, float]:
    """The regressions of the paper, held between 1 and 5."""
    values = (
        3.093 - 1.029 * llr + 0.603 * pesq - 0.009 * wss,
        1.634 + 0.478 * pesq - 0.007 * wss + 0.063 * seg_snr_db,
        1.594 + 0.805 * pesq - 0.512 * llr - 0.007 * wss,
    )
    return {name: float(np.clip(value, 1, 5)) for name, value in zip(NAMES, values, strict=True)}


def _raw_narrow_band(pesq: float) -> float:
    """P.862 out of P.862.1, whose scale (MOS-LQO) the paper did not know."""
    return (4.6607 - math.log(4.0 / (pesq - 0.999) - 1)) / 1.4945
