"""What is trained on, as a pure function: (seed, position) -> which segment, of which epoch.

Any stretch can be computed alone: a resumed run goes on where it was, with any number of workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ww_data.randomness import hash64, philox

Int64Array = npt.NDArray[np.int64]

# Shards that are shuffled together: who walks along the plan needs no more of them at hand.
WINDOW_SHARDS = 8


class PlanItems(NamedTuple):
    """For each item its epoch, its shard and the row of its segment in that shard."""

    epoch: Int64Array
    shard: Int64Array
    row: Int64Array


@dataclass(frozen=True, kw_only=True)
class Plan:
    """An endless shuffled walk over all segments: every epoch is an exact permutation of all rows of all shards.

    Shards are shuffled, then the rows of `window_shards` neighbours at a time: reading stays sequential, and only a
    window of shards has to be at hand.
    """

    seed: int
    shard_sizes: Sequence[int]  # segments in each shard
    window_shards: int = WINDOW_SHARDS

    def __post_init__(self) -> None:
        object.__setattr__(self, "shard_sizes", tuple(int(size) for size in self.shard_sizes))
        if not 0 <= self.seed < 1 << 32:
            raise ValueError(f"seed is {self.seed}: expected 0 to 2**32 - 1")
        if min(self.shard_sizes, default=-1) < 0 or sum(self.shard_sizes) == 0:
            raise ValueError(
                f"shard_sizes are {self.shard_sizes}: expected sizes from 0 on with a sum above 0"
            )
        if self.window_shards < 1:
            raise ValueError(f"window_shards is {self.window_shards}: expected 1 or more")

    @cached_property
    def num_items(self) -> int:
        """Segments in one epoch."""
        return sum(self.shard_sizes)

    def at(self, start: int, stop: int) -> PlanItems:
        """The items at positions start to stop - 1 of the walk: epoch * num_items + offset."""
        parts: list[tuple[int, Int64Array, Int64Array]] = []
        position = start
        while position < stop:
            epoch, offset = divmod(position, self.num_items)
            ends_W = _window_ends(self, epoch)
            window = int(np.searchsorted(ends_W, offset, side="right"))
            shard_R, row_R = _window_rows(self, epoch, window)
            first = offset - (int(ends_W[window]) - len(shard_R))
            last = min(first + stop - position, len(shard_R))
            parts.append((epoch, shard_R[first:last], row_R[first:last]))
            position += last - first
        if not parts:
            return PlanItems(*(np.empty(0, np.int64) for _ in range(3)))
        return PlanItems(
            np.concatenate([np.full(len(rows), epoch, np.int64) for epoch, _, rows in parts]),
            np.concatenate([shards for _, shards, _ in parts]),
            np.concatenate([rows for _, _, rows in parts]),
        )

    @cached_property
    def _hash(self) -> int:
        return hash((self.seed, self.shard_sizes, self.window_shards))

    def __hash__(self) -> int:
        return self._hash


@lru_cache(maxsize=8)
def _shard_order(plan: Plan, epoch: int) -> Int64Array:
    return _permutation(plan.seed, epoch, "shards", len(plan.shard_sizes))


@lru_cache(maxsize=8)
def _window_ends(plan: Plan, epoch: int) -> Int64Array:
    """(W,) offset behind the last row of each window of shards."""
    ends_S = np.cumsum(np.asarray(plan.shard_sizes)[_shard_order(plan, epoch)])
    return np.append(ends_S[plan.window_shards - 1 : -1 : plan.window_shards], ends_S[-1])


@lru_cache(maxsize=8)
def _window_rows(plan: Plan, epoch: int, window: int) -> tuple[Int64Array, Int64Array]:
    """Shards (R,) and rows (R,) of a window, shuffled."""
    first = window * plan.window_shards
    shards = _shard_order(plan, epoch)[first : first + plan.window_shards]
    sizes = np.asarray(plan.shard_sizes)[shards]
    shard_R = np.repeat(shards, sizes)
    row_R = np.concatenate([np.arange(size) for size in sizes])
    order_R = _permutation(plan.seed, epoch, f"window {window}", len(row_R))
    return shard_R[order_R], row_R[order_R]


def _permutation(seed: int, epoch: int, purpose: str, size: int) -> Int64Array:
    """A keyed permutation from raw Philox words: the same with every numpy version, unlike `permutation`."""
    words = philox(seed, epoch, hash64(f"plan {purpose}")).random_raw(size)
    return np.argsort(words, kind="stable")
