"""The noise bank of a split: all its noise as int16 PCM, memory-mapped (see `bank.py`). A crop is a view."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ww_data.corpus.bank import Bank, BankRow, write_bank

Int16Array = npt.NDArray[np.int16]

_FADE_S = 0.01


class NoiseBank(Bank):
    """A bank of noise: rows of `ids` and `recordings`, each `lengths_N` samples long."""

    dtype = np.int16

    def crop(self, index: int, start: int, num_samples: int) -> Int16Array:
        """`num_samples` of a row from `start` on; a row that is too short is looped with a cross-fade."""
        pcm_T = self._samples[index]
        if start + num_samples <= len(pcm_T):
            return pcm_T[start : start + num_samples]
        period_P = loop_period(pcm_T, round(_FADE_S * self.sample_rate))
        return np.take(period_P, np.arange(start, start + num_samples), mode="wrap")

    def own_noise(self, clip_id: str, start: int) -> tuple[int, int] | None:
        """(row, sample in the row) of the noise that was recorded with sample `start` of the clip "speech/<x>".

        That is noise/<x>, which only corpora of pairs have; None for all others.
        """
        pieces = self._pieces.get("noise/" + clip_id.removeprefix("speech/"))
        if not pieces:
            return None
        starts, first_row = pieces
        piece = max(bisect_right(starts, start) - 1, 0)
        offset = start - starts[piece]
        return (first_row + piece, offset) if 0 <= offset < self.lengths_N[first_row + piece] else None

    @cached_property
    def _pieces(self) -> dict[str, tuple[list[int], int]]:
        """Where the pieces of each clip start, and the row of the first; the others follow."""
        rows: defaultdict[str, list[int]] = defaultdict(list)
        for row, clip_id in enumerate(self.ids):
            rows[clip_id].append(row)
        return {
            clip_id: ([self.starts[row] for row in of_clip], of_clip[0]) for clip_id, of_clip in rows.items()
        }


def loop_period(pcm_T: Int16Array, fade: int) -> Int16Array:
    """One period of a seamless loop: the clip's end is faded into its start, at constant power.

    The period is `fade` samples shorter than the clip (a quarter of the clip at most).
    """
    fade = min(fade, len(pcm_T) // 4)
    if fade == 0:
        return pcm_T
    period_P = pcm_T[:-fade].copy()
    phase = np.arange(fade) / fade * (np.pi / 2)
    mixed = np.sin(phase) * pcm_T[:fade] + np.cos(phase) * pcm_T[-fade:]
    period_P[:fade] = np.clip(np.rint(mixed), -32768, 32767).astype(np.int16)
    return period_P


def write_noise_bank(path: str | os.PathLike[str], rows: Iterable[BankRow], sample_rate: int) -> None:
    """Write one file of a bank from rows of int16 PCM; one row at a time lies in memory."""
    write_bank(path, rows, sample_rate, np.int16)
