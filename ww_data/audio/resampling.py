"""From one sample rate to another."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ww_data.audio.errors import AudioError
from ww_data.dsp import FloatArray
from ww_data.torchaudio_compat import torchaudio_transforms

MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 4_000, 768_000
# torchaudio's kernel has (from/gcd) x (to/gcd) entries: beyond this, an FFT over the whole clip is the better way.
_MAX_KERNEL_ENTRIES = 1_000_000


def resample(samples: npt.ArrayLike, from_rate: int, to_rate: int) -> FloatArray:
    """Samples (..., T) at `from_rate` Hz as float32 (..., ceil(T * to_rate / from_rate)) at `to_rate` Hz."""
    for rate in (from_rate, to_rate):
        if not MIN_SAMPLE_RATE <= rate <= MAX_SAMPLE_RATE:
            raise AudioError(
                f"the sample rate is {rate} Hz: expected {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz"
            )
    x = np.ascontiguousarray(samples, dtype=np.float32)
    divisor = math.gcd(from_rate, to_rate)
    step_in, step_out = from_rate // divisor, to_rate // divisor
    if step_in == step_out or x.shape[-1] == 0:
        return x
    if step_in * step_out > _MAX_KERNEL_ENTRIES:
        return _resample_fft(x, step_in, step_out)
    import torch  # heavy, and most corpora never need it

    with torch.inference_mode():
        resampled = _resampler(step_in, step_out)(torch.from_numpy(x))
    return np.ascontiguousarray(resampled.numpy())


@lru_cache(maxsize=8)
def _resampler(step_in: int, step_out: int) -> Any:
    """torchaudio's resampler, with its kernel, which takes about as long to make as a clip of ten seconds to filter."""
    return torchaudio_transforms().Resample(step_in, step_out, lowpass_filter_width=16)


def _resample_fft(x: FloatArray, step_in: int, step_out: int) -> FloatArray:
    """Resampling by cutting or extending the spectrum: exact for rates without a useful common divisor."""
    num_samples = x.shape[-1]
    # Whole steps keep the ratio exact; one more keeps the ends apart.
    num_steps = -(-num_samples // step_in) + 1
    spectrum = np.fft.rfft(x.astype(np.float64), n=num_steps * step_in)
    y = np.fft.irfft(spectrum[..., : num_steps * min(step_in, step_out) // 2 + 1], n=num_steps * step_out)
    return (y[..., : -(-num_samples * step_out // step_in)] * (step_out / step_in)).astype(np.float32)
