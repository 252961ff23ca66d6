"""Banks: all noise, or all room responses, of a split, in uncompressed Arrow IPC files that are memory-mapped.

All workers of a node share the pages of a bank. Its rows have one order, however many files they lie in.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ww_data.dsp import Int16Array

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

_FADE_S = 0.01


class BankRow(NamedTuple):
    """A clip, or a piece of a long one that starts at sample `start` of it. `recording`: what it is a part of."""

    id: str
    recording: str
    start: int
    pcm_T: npt.NDArray[Any]


class Bank:
    """`len(bank)` rows, sorted by (recording, id, start), `lengths_N` in samples. It pickles as its paths."""

    # Of the samples, in a file and in memory.
    dtype: type[np.generic] = np.int16

    def __init__(self, paths: Paths) -> None:
        """Open one or more files of one bank. Raises OSError or pyarrow.ArrowInvalid if they cannot be read."""
        paths = [paths] if isinstance(paths, str | os.PathLike) else paths
        self.paths = [os.fspath(path) for path in paths]
        if not self.paths:
            raise pa.ArrowInvalid("a bank without files came: expected at least one")
        rows: list[BankRow] = []
        rates = set()
        for path in self.paths:
            table = pa.ipc.open_file(pa.memory_map(path)).read_all()
            if table.schema.remove_metadata() != _schema(self.dtype):
                raise pa.ArrowInvalid(
                    f"{path}: is not a bank of {np.dtype(self.dtype)} samples: prepare the corpus again"
                )
            rates.add(int(table.schema.metadata[b"sample_rate"]))
            rows += _rows(table)
        if len(rates) > 1:
            raise pa.ArrowInvalid(f"{self.paths[0]} and others: are of several sample rates, {sorted(rates)}")
        rows.sort(key=lambda row: (row.recording, row.id, row.start))
        self.sample_rate = rates.pop()
        self.ids = [row.id for row in rows]
        self.recordings = [row.recording for row in rows]
        self.starts = [row.start for row in rows]
        self._samples = [row.pcm_T for row in rows]
        self.lengths_N = np.array([len(pcm_T) for pcm_T in self._samples], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._samples)

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.paths,))

    def pcm(self, index: int) -> npt.NDArray[Any]:
        """All samples of a row, as a read-only view of the file."""
        return self._samples[index]

    @classmethod
    def write(cls, path: str | os.PathLike[str], rows: Iterable[BankRow], sample_rate: int) -> None:
        """Write one file of a bank, its rows in the order they come; one at a time lies in memory."""
        schema = _schema(cls.dtype).with_metadata({"sample_rate": str(sample_rate)})
        with Path(path).open("wb") as file, pa.ipc.new_file(file, schema) as writer:
            for row in rows:
                cls.check(row)
                ends = pa.array([0, len(row.pcm_T)], pa.int64())
                pcm = pa.LargeListArray.from_arrays(ends, pa.array(row.pcm_T))
                names = [pa.array([row.id]), pa.array([row.recording]), pa.array([row.start], pa.int64())]
                writer.write_batch(pa.record_batch([*names, pcm], schema=schema))

    @classmethod
    def check(cls, row: BankRow) -> None:
        """Raises ValueError for samples that are none, or of another type."""
        pcm_T = row.pcm_T
        if pcm_T.ndim != 1 or not len(pcm_T) or pcm_T.dtype != cls.dtype:
            raise ValueError(
                f"{row.id}: came as {pcm_T.dtype} {pcm_T.shape}: expected samples (T,) of {np.dtype(cls.dtype)}, T > 0"
            )


class NoiseBank(Bank):
    """A bank of noise as int16 PCM. A crop is a view."""

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
    """One period of a seamless loop, `fade` samples shorter than the row: its end is faded into its start, at constant
    power."""
    fade = min(fade, len(pcm_T) // 4)
    if fade == 0:
        return pcm_T
    period_P = pcm_T[:-fade].copy()
    phase = np.arange(fade) / fade * (np.pi / 2)
    mixed = np.sin(phase) * pcm_T[:fade] + np.cos(phase) * pcm_T[-fade:]
    period_P[:fade] = np.clip(np.rint(mixed), -32768, 32767).astype(np.int16)
    return period_P


def _rows(table: pa.Table) -> list[BankRow]:
    samples: list[npt.NDArray[Any]] = []
    for chunk in table["pcm"].chunks:
        values, offsets = chunk.values.to_numpy(zero_copy_only=True), chunk.offsets.to_numpy()
        samples += [values[a:b] for a, b in pairwise(offsets)]
    columns = (table[name].to_pylist() for name in ("id", "recording", "start"))
    return [BankRow(*row) for row in zip(*columns, samples, strict=True)]


def _schema(dtype: type[np.generic]) -> pa.Schema:
    pcm = pa.large_list(pa.from_numpy_dtype(dtype))
    return pa.schema([("id", pa.string()), ("recording", pa.string()), ("start", pa.int64()), ("pcm", pcm)])
