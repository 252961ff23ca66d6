"""Stored mixtures: those of val and test, mixed once, at preparation, so that they are the same for every model."""

from __future__ import annotations

import os
from functools import lru_cache

import numpy as np
import pyarrow.parquet as pq

from ww_data.dsp import FloatArray
from ww_data.storage import Storage


class StoredMixtures:
    """Read access to a file of mixtures: their `ids` and `snrs_db`, and (noisy_T, clean_T) by index or by id."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Raises OSError or pyarrow.ArrowInvalid if the file cannot be read."""
        self.path = os.fspath(path)
        self._file = pq.ParquetFile(path, memory_map=True)
        table = self._file.read(["id", "snr_db"])
        self.ids: list[str] = table["id"].to_pylist()
        self.snrs_db: list[float] = table["snr_db"].to_pylist()
        about = self._file.metadata
        self._ends_G = np.cumsum([about.row_group(group).num_rows for group in range(about.num_row_groups)])
        self._group = lru_cache(maxsize=1)(self._read_group)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, which: int | str) -> tuple[FloatArray, FloatArray]:
        """(noisy_T, clean_T), full scale +-1. Raises IndexError, or ValueError for an id that is not there."""
        index = self.ids.index(which) if isinstance(which, str) else range(len(self))[which]
        group = int(np.searchsorted(self._ends_G, index, side="right"))
        noisy_KT, clean_KT = self._group(group)
        row = index - int(self._ends_G[group])
        return noisy_KT[row], clean_KT[row]

    def _read_group(self, group: int) -> tuple[FloatArray, FloatArray]:
        """The (noisy_KT, clean_KT) of one row group: of many mixtures, no more than these lie in memory."""
        table = self._file.read_row_group(group, ["noisy", "clean"])
        noisy_KT, clean_KT = (table[name].combine_chunks().to_numpy_ndarray() for name in ("noisy", "clean"))
        return noisy_KT, clean_KT


def read_sources(storage: Storage, name: str) -> set[str]:
    """The ids of the clips of speech and noise that a file of mixtures was made of."""
    with storage.open(name) as file:
        table = pq.read_table(file, columns=["clip_id", "noise_id"])
    return {clip_id for column in table.columns for clip_id in column.to_pylist()}
