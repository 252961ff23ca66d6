"""Banks: the samples of many clips in uncompressed Arrow IPC files that are memory-mapped, not read.

All workers of a node share the pages of a bank. Its rows have one order, however many files they lie in.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class BankRow(NamedTuple):
    """A clip, or a piece of a long one that starts at sample `start` of it. `recording`: what it is a part of."""

    id: str
    recording: str
    start: int
    pcm_T: npt.NDArray[Any]


class Bank:
    """Read access to a bank: `len(bank)` rows, sorted by (recording, id, start), and their `lengths_N` in samples.

    It pickles as its paths, so it can be sent to other processes.
    """

    # Of the samples, in a file and in memory.
    dtype: type[np.generic] = np.int16

    def __init__(self, paths: Paths) -> None:
        """Open one or more files of one bank. Raises OSError or pyarrow.ArrowInvalid if they cannot be read."""
        self.paths = [
            os.fspath(path) for path in ([paths] if isinstance(paths, str | os.PathLike) else paths)
        ]
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


def write_bank(
    path: str | os.PathLike[str],
    rows: Iterable[tuple[str, str, int, npt.NDArray[Any]]],
    sample_rate: int,
    dtype: type[np.generic],
) -> None:
    """Write rows (id, recording, start, pcm_T) in the order they come; one at a time lies in memory."""
    schema = _schema(dtype).with_metadata({"sample_rate": str(sample_rate)})
    with Path(path).open("wb") as file, pa.ipc.new_file(file, schema) as writer:
        for clip_id, recording, start, pcm_T in rows:
            if pcm_T.ndim != 1 or not len(pcm_T) or pcm_T.dtype != dtype:
                raise ValueError(
                    f"{clip_id}: came as {pcm_T.dtype} {pcm_T.shape}: expected samples (T,) of {np.dtype(dtype)}, T > 0"
                )
            pcm = pa.LargeListArray.from_arrays(pa.array([0, len(pcm_T)], pa.int64()), pa.array(pcm_T))
            names = [pa.array([clip_id]), pa.array([recording]), pa.array([start], pa.int64())]
            writer.write_batch(pa.record_batch([*names, pcm], schema=schema))
