"""Mixtures on the fly: Ray Data tasks mix what the plan lists, and each training rank receives exactly its share.

    plan (seed, step) -> blocks of items -> mixed in tasks all over the cluster -> streaming_split -> ranks

A block holds a whole number of one rank's batches, blocks are numbered so that block b belongs to rank b % num_workers,
and their order is preserved; so an equal split deals each rank its own blocks, whichever node mixed them. Every batch
carries its positions in the plan, and the receiving rank compares them with the plan before it uses them.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray.data import (
    DataContext,
    DataIterator,
    Dataset,
    Datasource,
    ExecutionOptions,
    ExecutionResources,
    ReadTask,
)
from ray.data._internal.execution.execution_callback import (
    ExecutionCallback,
)  # named by DataContext's public field
from ray.data.block import Block, BlockAccessor, BlockMetadata
from ray.data.collate_fn import NumpyBatchCollateFn

from cluster.placement import MIXING_CPUS
from ww_data import (
    Corpus,
    MixingConfig,
    NoiseBank,
    Plan,
    SegmentBlock,
    mix_segments,
    open_corpus,
    read_shard,
)

OBJECT_STORE_BUDGET_BYTES = 512 * 2**20  # mixed ahead of the trainer; back-pressure holds it there
MAX_BLOCKS = 20_000  # Ray Data plans all blocks of an execution at once


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeedConfig:
    """What decides the sequence of training batches, and how it is dealt to ranks.

    global_batch: items of one optimizer step over all ranks, a multiple of num_workers.
    start_step, num_steps: the stretch of the plan to feed.
    """

    corpus_uri: str
    mixing: MixingConfig
    seed: int
    global_batch: int
    num_workers: int
    start_step: int
    num_steps: int

    @property
    def rank_batch(self) -> int:
        return self.global_batch // self.num_workers

    @property
    def steps_per_block(self) -> int:
        """About 64 items make a block of some megabytes; very long runs take more, so that blocks stay countable."""
        return max(1, 64 // self.rank_batch, -(-self.num_steps * self.num_workers // MAX_BLOCKS))

    @property
    def num_blocks(self) -> int:
        return -(-self.num_steps // self.steps_per_block) * self.num_workers

    def block_positions(self, block: int) -> np.ndarray:
        """Positions in the plan (step x global_batch + place in the step) of a block's rows, in order."""
        rank = block % self.num_workers
        first_step = self.start_step + block // self.num_workers * self.steps_per_block
        steps = first_step + np.arange(self.steps_per_block)
        places = rank * self.rank_batch + np.arange(self.rank_batch)
        return (steps[:, None] * self.global_batch + places[None, :]).reshape(-1)

    def batch_positions(self, step: int, rank: int) -> np.ndarray:
        """Positions of what one rank trains on at one step."""
        return step * self.global_batch + rank * self.rank_batch + np.arange(self.rank_batch)


@dataclasses.dataclass
class Batch:
    """noisy, clean: float32 (B, 1, T), full scale +-1; positions: (B,) places in the plan."""

    noisy: torch.Tensor
    clean: torch.Tensor
    positions: np.ndarray
    wait_s: float = 0.0  # how long the trainer stood still for it


def make_plan(corpus: Corpus, feed: FeedConfig) -> Plan:
    """The order in which the corpus' training segments are used: a pure function of the seed and the step."""
    sizes = [shard.num_segments for shard in corpus.shards("train")]
    return Plan(seed=feed.seed, shard_sizes=sizes, global_batch=feed.global_batch)


def mixtures(feed: FeedConfig, *, train_cpus: float = 0.0) -> Dataset:
    """A Ray Dataset of mixtures in the plan's order; rows: noisy, clean (1, T) float32, position, snr_db.

    train_cpus: CPUs that are set aside for the trainer and are not to be counted on for mixing.
    """
    source = MixtureSource(feed)
    dataset = ray.data.read_datasource(source, num_cpus=MIXING_CPUS, override_num_blocks=feed.num_blocks)
    options = ExecutionOptions(
        preserve_order=True,
        exclude_resources=ExecutionResources(cpu=train_cpus),
        resource_limits=ExecutionResources(object_store_memory=OBJECT_STORE_BUDGET_BYTES),
    )
    dataset.context.execution_options = options
    dataset.context.target_max_block_size = None  # a block that was cut in two would go to two ranks
    dataset.context.custom_execution_callback_classes = [_PauseBetweenSteps]
    return dataset


class MixtureSource(Datasource):
    """The plan as something that Ray Data can read: one task mixes one block."""

    def __init__(self, feed: FeedConfig) -> None:
        super().__init__()
        self.feed = feed

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: DataContext | None = None
    ) -> list[ReadTask]:
        about = BlockMetadata(
            num_rows=self.feed.steps_per_block * self.feed.rank_batch,
            size_bytes=None,
            exec_stats=None,
            input_files=None,
        )
        return [
            ReadTask(functools.partial(_mix_block, self.feed, block), about)
            for block in range(self.feed.num_blocks)
        ]


def _mix_block(feed: FeedConfig, block: int) -> Iterator[Block]:
    yield BlockAccessor.batch_to_block(mix_positions(feed, feed.block_positions(block)))


class _PauseBetweenSteps(ExecutionCallback):
    """A pause in each turn of Ray Data's scheduling loop.

    While mixed blocks wait for the trainer the loop finds its tasks "ready" at once, may not read them, and starts
    over: it was seen to take half a core from the trainers beside it. Blocks last for seconds, so 50 ms cost nothing.
    """

    def on_execution_step(self, executor: object) -> None:
        time.sleep(0.05)


def split_among_ranks(feed: FeedConfig, *, train_cpus: float = 0.0) -> list[DataIterator]:
    """One iterator per rank over one shared execution. Call it in one place and hand the iterators out."""
    return mixtures(feed, train_cpus=train_cpus).streaming_split(feed.num_workers, equal=True)


class RankBatches:
    """Iterates over the batches of one rank, checking each against the plan.

    Raises RuntimeError when a batch is not the one the plan lists: training on it would silently break the promise
    that a run sees the same items on any number of workers.
    """

    def __init__(self, source: DataIterator, feed: FeedConfig, rank: int) -> None:
        self.source, self.feed, self.rank = source, feed, rank

    def __iter__(self) -> Iterator[Batch]:
        batches: Iterator[Any] = iter(
            self.source.iter_torch_batches(
                batch_size=self.feed.rank_batch,
                collate_fn=_Collate(),
                prefetch_batches=4,
                drop_last=True,
            )
        )
        for step in range(self.feed.start_step, self.feed.start_step + self.feed.num_steps):
            start = time.perf_counter()
            batch: Batch | None = next(batches, None)
            if batch is None:
                raise RuntimeError(
                    f"the data ended before step {step}, of which rank {self.rank} awaits a batch"
                )
            batch.wait_s = time.perf_counter() - start
            expected = self.feed.batch_positions(step, self.rank)
            if not np.array_equal(batch.positions, expected):
                raise RuntimeError(
                    f"rank {self.rank} awaits items {expected[0]}..{expected[-1]} at step {step}, "
                    f"but got {batch.positions.tolist()}"
                )
            yield batch


class _Collate(NumpyBatchCollateFn):
    def __call__(self, batch: dict[str, np.ndarray]) -> Any:
        def tensor(name: str) -> torch.Tensor:
            return torch.from_numpy(np.array(batch[name], dtype=np.float32))[:, None, :]

        return Batch(noisy=tensor("noisy"), clean=tensor("clean"), positions=np.asarray(batch["position"]))


def mix_positions(feed: FeedConfig, positions: np.ndarray) -> dict[str, np.ndarray]:
    """The mixtures at some positions of the plan: noisy (N, T), clean (N, T), position (N,), key (N,), snr_db (N,)."""
    corpus, plan, bank = _open(feed)
    starts = positions[:: feed.rank_batch]  # positions come in whole batches of a rank, each without gaps
    parts = [plan.at(int(start), int(start) + feed.rank_batch) for start in starts]
    epochs, shards, rows = (np.concatenate(field) for field in zip(*parts, strict=True))
    paths = [shard.path for shard in corpus.shards("train")]
    by_shard = np.argsort(shards, kind="stable")
    segments = SegmentBlock.concatenate(
        [
            _read_shard(paths[shard]).take(rows[by_shard][shards[by_shard] == shard])
            for shard in np.unique(shards).tolist()
        ]
    ).take(np.argsort(by_shard, kind="stable"))
    mixed = mix_segments(segments, epochs, bank, feed.mixing, feed.seed)
    return {
        "noisy": mixed.noisy_NT,
        "clean": mixed.clean_NT,
        "position": positions,
        "key": segments.key_N,
        "snr_db": np.array([draw.snr_db for draw in mixed.params]),
    }


# Ray uses its worker processes again, so what one task opened serves the next: the bank is a memory map shared by all
# processes of a node, and a window of the plan touches few shards.
@functools.lru_cache(maxsize=4)
def _open(feed: FeedConfig) -> tuple[Corpus, Plan, NoiseBank]:
    corpus = open_corpus(feed.corpus_uri)
    return corpus, make_plan(corpus, feed), corpus.noise_bank("train")


@functools.lru_cache(maxsize=16)
def _read_shard(path: Path) -> SegmentBlock:
    return read_shard(path)
