"""Rooms: impulse responses as float32, split into what stays in the clean target and what a model is to remove."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ww_data.corpus.banks import Bank, BankRow, Paths
from ww_data.dsp import FloatArray, fft_length, response_of

ComplexArray = npt.NDArray[np.complex64]

# Kept before the direct path: a response that was resampled rings a little before its peak.
_LEAD_S = 0.0025
# A tail that holds less than this part of the energy (-60 dB) is cut off.
_TAIL_ENERGY = 1e-6
# Spectra that a process keeps: of crops of 2 s, about 0.2 MB for each room.
_MAX_CACHED = 128


@dataclass(frozen=True, kw_only=True)
class RoomResponse:
    """A room for `convolve`, its direct path at time 0 with gain 1.

    `full_F`: the whole response, which begins `num_before` samples before. `early_F`: only the direct path and the
    early reflections. `energy`: of the whole response, which is the power that it gives to a sound of power 1.
    """

    full_F: ComplexArray
    early_F: ComplexArray
    fft_samples: int
    num_before: int
    energy: float


class RoomBank(Bank):
    """A bank of room impulse responses (float32), memory-mapped. See `NoiseBank`."""

    dtype = np.float32

    def __init__(self, paths: Paths) -> None:
        super().__init__(paths)
        self._cached = lru_cache(maxsize=_MAX_CACHED)(self._response)

    @classmethod
    def check(cls, row: BankRow) -> None:
        """Raises ValueError for a response that is silent or not finite."""
        if not (np.isfinite(row.pcm_T).all() and row.pcm_T.any()):
            raise ValueError(f"{row.id}: is silent or not finite: leave it out")
        super().check(row)

    def response(self, index: int, num_samples: int, early_ms: float) -> RoomResponse:
        """Row `index` for crops of `num_samples`; what comes within `early_ms` after the direct path is early."""
        return self._cached(index, num_samples, early_ms)

    def _response(self, index: int, num_samples: int, early_ms: float) -> RoomResponse:
        full_L, lead = aligned(self._samples[index], self.sample_rate)
        full_L = full_L[: num_samples + lead]  # what comes later falls behind the crop
        early_L = full_L.copy()
        early_L[lead + 1 + round(early_ms / 1000 * self.sample_rate) :] = 0
        fft_samples = fft_length(num_samples, lead, len(full_L) - lead)
        return RoomResponse(
            full_F=response_of(full_L, lead, fft_samples),
            early_F=response_of(early_L, lead, fft_samples),
            fft_samples=fft_samples,
            num_before=lead,
            energy=float(np.square(full_L, dtype=np.float64).sum()),
        )


def aligned(response_T: FloatArray, sample_rate: int) -> tuple[FloatArray, int]:
    """(response_L, lead): the direct path, the strongest sample, is scaled to +1 and lies at `lead`; no silent tail."""
    direct = int(np.abs(response_T).argmax())
    lead = min(direct, round(_LEAD_S * sample_rate))
    response_L = response_T[direct - lead :] / response_T[direct]
    remaining_L = np.cumsum(np.square(response_L[::-1], dtype=np.float64))[::-1]
    num_kept = max(int((remaining_L > _TAIL_ENERGY * remaining_L[0]).sum()), lead + 1)
    return response_L[:num_kept], lead
