"""The stored validation mixtures as a rank sees them: the same sound for every model, run and number of workers."""

from __future__ import annotations

import pyarrow.parquet as pq
import torch
from torch.utils.data import DataLoader, Dataset

from ww_data import open_corpus


class StoredMixtures(Dataset[dict[str, object]]):
    """Items {index, noisy (1, T), clean (1, T)} of one rank: every world_size-th of the first `limit` (0: all)."""

    def __init__(self, corpus_uri: str, split: str, *, limit: int, rank: int, world_size: int) -> None:
        path = open_corpus(corpus_uri).mixtures_path(split)
        self._table = pq.read_table(path, columns=["noisy", "clean"], memory_map=True)
        total = min(limit or len(self._table), len(self._table))
        self._indices = range(rank, total, world_size)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, place: int) -> dict[str, object]:
        index = self._indices[place]
        return {"index": index, "noisy": self._signal("noisy", index), "clean": self._signal("clean", index)}

    def _signal(self, column: str, index: int) -> torch.Tensor:
        return torch.tensor(self._table[column][index].to_numpy())[None]


def stored_mixtures(
    corpus_uri: str, split: str, *, limit: int = 0, rank: int = 0, world_size: int = 1
) -> DataLoader[dict[str, object]]:
    """One rank's stored mixtures, one item a batch: clips of a few seconds keep a core busy."""
    dataset = StoredMixtures(corpus_uri, split, limit=limit, rank=rank, world_size=world_size)
    return DataLoader(dataset, batch_size=1)
