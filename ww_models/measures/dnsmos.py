"""DNSMOS P.835: what listeners would say, from the sound alone, without a clean side (arXiv 2110.01763).

The networks come with the package `speechmos`, which the extra `dnsmos` installs.
"""

import importlib
import math

import numpy as np

from ww_models.perceptual import FloatArray64, at_rate

NAMES = ("dnsmos_sig", "dnsmos_bak", "dnsmos_ovrl")
_RATE = 16_000
_THEIR_NAMES = ("sig_mos", "bak_mos", "ovrl_mos")


def require_dnsmos() -> None:
    """ValueError, one line, where the package or what it needs is not installed."""
    try:
        importlib.import_module("speechmos.dnsmos")
    except ImportError as error:
        raise ValueError(
            f"DNSMOS needs a package that is not installed ({error}): pip install 'wave-wizard[dnsmos]'"
        ) from error


def dnsmos_scores(x_T: FloatArray64, sample_rate: int) -> dict[str, float]:
    """{"dnsmos_sig", "dnsmos_bak", "dnsmos_ovrl"} of a clip (T,), each 1 to 5; a short one is repeated up to 9 s."""
    module = importlib.import_module("speechmos.dnsmos")
    signal_T = at_rate(x_T, sample_rate, _RATE).clip(-1, 1).astype(np.float32)
    if not signal_T.size:
        return dict.fromkeys(NAMES, math.nan)
    found = module.run(signal_T, sr=_RATE)
    return {name: float(found[theirs]) for name, theirs in zip(NAMES, _THEIR_NAMES, strict=True)}
