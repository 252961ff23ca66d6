"""How good an estimate of clean speech is: the table of all measures, and the four of validation.

Undefined values (silence, a clip too short) are NaN and never an exception, so that one odd clip neither ends
an evaluation nor disappears from it.
"""

import math
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from ww_models.perceptual import is_silent, pesq_score, stoi_score

# Beyond this an estimate is the clean signal, or has nothing of it, to within rounding.
MAX_DB = 100.0


@dataclass(frozen=True)
class Measure:
    """How a figure of quality is named and written wherever it appears. unit: "" where it has none.

    about: what it says, in a line for people.
    """

    name: str
    title: str
    unit: str
    digits: int  # after the point
    about: str
    higher_is_better: bool = True

    @property
    def label(self) -> str:
        """Title and unit: `SI-SDR dB`."""
        return f"{self.title} {self.unit}".rstrip()


# The one table of them, in the order in which they are shown.
_ALL = (
    Measure(
        "pesq",
        "PESQ",
        "",
        2,
        "how good speech sounds, 1 (bad) to 4.6 (flawless), as a listening panel would judge it (ITU-T P.862.2, wide "
        "band; P.862, narrow band, at 8 kHz)",
    ),
    Measure("stoi", "STOI", "", 3, "how well it can be understood, 0 to 1"),
    Measure("estoi", "ESTOI", "", 3, "the same, made for noise that comes and goes, 0 to 1"),
    Measure("snr_db", "SNR", "dB", 1, "clean speech over everything else"),
    Measure("si_sdr_db", "SI-SDR", "dB", 1, "the same, but blind to a mere change of volume"),
    Measure(
        "seg_snr_db", "segSNR", "dB", 1, "the SNR of 30 ms at a time, each held between −10 and 35 dB; a mean"
    ),
    Measure("csig", "CSIG", "", 2, "how natural the speech sounds, 1 to 5, predicted (Hu and Loizou 2008)"),
    Measure("cbak", "CBAK", "", 2, "how little the background disturbs, 1 to 5, predicted (the same)"),
    Measure("covl", "COVL", "", 2, "how good all of it sounds, 1 to 5, predicted (the same)"),
    Measure(
        "lsd_db",
        "LSD",
        "dB",
        2,
        "how far spectra are from the clean ones; lower is better",
        higher_is_better=False,
    ),
    Measure(
        "dnsmos_sig", "DNSMOS SIG", "", 2, "how good the speech sounds, 1 to 5, without a reference (P.835)"
    ),
    Measure("dnsmos_bak", "DNSMOS BAK", "", 2, "how little the background disturbs, 1 to 5 (the same)"),
    Measure("dnsmos_ovrl", "DNSMOS OVRL", "", 2, "how good all of it sounds, 1 to 5 (the same)"),
    Measure(
        "wer",
        "WER",
        "%",
        1,
        "words that a recogniser gets wrong, of those that were said; lower is better",
        higher_is_better=False,
    ),
)
MEASURES = {measure.name: measure for measure in _ALL}


@dataclass(frozen=True, kw_only=True)
class Quality:
    """pesq: 1.0 to 4.64 (P.862.2 wideband at 16 kHz, to which higher rates are converted, P.862 narrowband at 8 kHz,
    else NaN); stoi: 0 to 1."""

    pesq: float
    stoi: float
    snr_db: float
    si_sdr_db: float


# What validation measures in training, and what a sweep can go by.
VALIDATION_MEASURES = {field.name: MEASURES[field.name] for field in fields(Quality)}


def snr_db(clean: Tensor | np.ndarray, estimate: Tensor | np.ndarray) -> Tensor:
    """(..., T), (..., T) -> (...): power of `clean` over that of the error, dB; NaN for silence."""
    clean, estimate = torch.as_tensor(clean), torch.as_tensor(estimate)
    return _ratio_db(clean.square().sum(-1), (estimate - clean).square().sum(-1))


def si_sdr_db(clean: Tensor | np.ndarray, estimate: Tensor | np.ndarray) -> Tensor:
    """(..., T), (..., T) -> (...): scale-invariant SDR in dB (arXiv 1811.02508), no mean taken off; NaN for silence."""
    clean, estimate = torch.as_tensor(clean), torch.as_tensor(estimate)
    clean_energy = clean.square().sum(-1, keepdim=True)
    target = (estimate * clean).sum(-1, keepdim=True) / clean_energy * clean
    ratio_db = _ratio_db(target.square().sum(-1), (estimate - target).square().sum(-1))
    is_silent = estimate.square().sum(-1) == 0
    return torch.where(is_silent, torch.nan, ratio_db)


def _ratio_db(signal: Tensor, error: Tensor) -> Tensor:
    # 0/0 stays NaN; a finite limit instead of infinity keeps means and JSON usable.
    return (10 * torch.log10(signal / error)).clamp(-MAX_DB, MAX_DB).where(signal + error > 0, torch.nan)


def score_clip(
    clean_T: np.ndarray, estimate_T: np.ndarray, sample_rate: int, *, perceptual: bool = True
) -> Quality:
    """All measures of one clip, full scale +-1. ValueError for shapes that differ or are not (T,)."""
    shapes = clean_T.shape, estimate_T.shape
    if clean_T.ndim != 1 or shapes[0] != shapes[1]:
        raise ValueError(f"quality takes two (samples,) of equal length, got {shapes[0]} and {shapes[1]}")
    clean, estimate = clean_T.astype(np.float64), estimate_T.astype(np.float64)
    if is_silent(clean) or not (np.isfinite(clean).all() and np.isfinite(estimate).all()):
        return Quality(pesq=math.nan, stoi=math.nan, snr_db=math.nan, si_sdr_db=math.nan)
    can_perceive = perceptual and not is_silent(estimate)
    return Quality(
        pesq=pesq_score(clean, estimate, sample_rate) if can_perceive else math.nan,
        stoi=stoi_score(clean, estimate, sample_rate) if can_perceive else math.nan,
        snr_db=float(snr_db(clean, estimate)),
        si_sdr_db=float(si_sdr_db(clean, estimate)),
    )
