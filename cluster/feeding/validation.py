"""The stored validation mixtures as a rank sees them: the same sound for every model, run and number of workers."""

from __future__ import annotations

import torch
from torch.utils.data import DataLoader, Dataset

from ww_data import open_corpus


class RankMixtures(Dataset[dict[str, object]]):
    """Items {index, noisy (1, T), clean (1, T)} of one rank: every world_size-th of the first `limit` (0: all)."""

    def __init__(self, corpus_uri: str, split: str, *, limit: int, rank: int, world_size: int) -> None:
        self._mixtures = open_corpus(corpus_uri).mixtures(split)
        total = min(limit or len(self._mixtures), len(self._mixtures))
        self._indices = range(rank, total, world_size)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, number: int) -> dict[str, object]:
        index = self._indices[number]
        noisy, clean = (torch.tensor(signal_T)[None] for signal_T in self._mixtures[index])
        return {"index": index, "noisy": noisy, "clean": clean}


def stored_mixtures(
    corpus_uri: str, split: str, *, limit: int = 0, rank: int = 0, world_size: int = 1
) -> DataLoader[dict[str, object]]:
    """One rank's stored mixtures, one item a batch: clips of a few seconds keep a core busy."""
    dataset = RankMixtures(corpus_uri, split, limit=limit, rank=rank, world_size=world_size)
    return DataLoader(dataset, batch_size=1)
