"""PESQ and STOI of one clip; NaN where they are not defined, whatever comes: never an exception, never a crash."""

import math
import warnings

import numpy as np
import numpy.typing as npt

FloatArray64 = npt.NDArray[np.float64]

_SILENCE_RMS = 1e-5
# PESQ's C code has room for 50 utterances and writes beyond it. One has at least 50 frames of 4 ms, between two
# lie at least 47 that are none (shorter gaps are closed), and 150 are added to a clip: of at most 4650 frames, which
# are 18 s, no signal has more than 48. (Of bad stretches, for 1000 of which there is room, 18 s have 190.)
PESQ_PIECE_S = 18.0
_MODES = {16_000: "wb", 8_000: "nb"}


def is_silent(x_T: FloatArray64) -> bool:
    """Whether there is nothing to hear."""
    return x_T.size == 0 or float(np.sqrt(np.mean(x_T**2))) < _SILENCE_RMS


def pesq_rate(sample_rate: int) -> int | None:
    """The rate in Hz at which sound of a rate gets its PESQ, to which it is converted; None where there is none."""
    return 16_000 if sample_rate >= 16_000 else 8_000 if sample_rate == 8_000 else None


def at_rate(x_T: FloatArray64, sample_rate: int, wanted: int) -> FloatArray64:
    """(T,) at `sample_rate` Hz, converted to `wanted` Hz."""
    if wanted == sample_rate:
        return x_T
    from scipy.signal import resample_poly

    divisor = math.gcd(wanted, sample_rate)
    return resample_poly(x_T, wanted // divisor, sample_rate // divisor)


def pesq_note(sample_rate: int) -> str:
    """What to say beside scores at a rate: "" where PESQ is that of the sound as it is."""
    rate = pesq_rate(sample_rate)
    if rate is None:
        return f"PESQ is not defined at {sample_rate} Hz: there it is at 8000 Hz, and from 16000 Hz on"
    return (
        ""
        if rate == sample_rate
        else f"PESQ is that of the sound at {rate} Hz, converted from {sample_rate} Hz"
    )


def pesq_score(clean_T: FloatArray64, estimate_T: FloatArray64, sample_rate: int) -> float:
    """PESQ of a clip of any length (T,); of a long one the mean over pieces, without those that the clean side is
    silent in. An estimate that is silent in one of the others has none."""
    rate = pesq_rate(sample_rate)
    if rate is None:
        return math.nan
    clean_T, estimate_T = (at_rate(each_T, sample_rate, rate) for each_T in (clean_T, estimate_T))
    num_pieces = max(1, math.ceil(len(clean_T) / (PESQ_PIECE_S * rate)))  # of the same length
    pieces = zip(np.array_split(clean_T, num_pieces), np.array_split(estimate_T, num_pieces), strict=True)
    heard = [(clean, estimate) for clean, estimate in pieces if not is_silent(clean)]
    if any(is_silent(estimate) for _, estimate in heard):
        return math.nan
    scores = [_pesq_of_piece(clean, estimate, rate) for clean, estimate in heard]
    defined = [score for score in scores if not math.isnan(score)]
    return float(np.mean(defined)) if defined else math.nan


def _pesq_of_piece(clean_T: FloatArray64, estimate_T: FloatArray64, rate: int) -> float:
    from pesq import PesqError, pesq

    try:
        value = float(pesq(rate, clean_T, estimate_T, _MODES[rate], on_error=PesqError.RETURN_VALUES))
    except (ValueError, PesqError, ZeroDivisionError):
        return math.nan
    return value if value > 0 else math.nan


def stoi_score(
    clean_T: FloatArray64, estimate_T: FloatArray64, sample_rate: int, *, extended: bool = False
) -> float:
    """STOI of a clip (T,), or ESTOI if extended; 0 to 1."""
    from pystoi import stoi

    # ESTOI of pystoi adds noise at the level of rounding, which decides where nothing else is there.
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    with warnings.catch_warnings():
        # pystoi warns and returns 1e-5 where fewer than 30 frames hold speech: that is no score.
        warnings.simplefilter("error")
        try:
            value = float(stoi(clean_T, estimate_T, sample_rate, extended=extended))
        except (RuntimeWarning, UserWarning, ValueError, ZeroDivisionError, IndexError):
            return math.nan
        finally:
            np.random.set_state(state)  # noqa: NPY002
    return value if math.isfinite(value) else math.nan
