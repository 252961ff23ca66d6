"""Mixtures on the fly: Ray Data tasks mix what the plan lists, and each training rank receives exactly its share.

    plan (seed, step) -> blocks of its items -> mixed in tasks, anywhere in the cluster -> streaming_split -> ranks

A row of the dataset is a whole block: some batches of one rank, as raw bytes. Row b belongs to rank b % num_workers,
and the order of rows is preserved; so an equal split deals each rank its own rows, whichever node mixed them. Every
batch carries its positions in the plan, and the receiving rank compares them with the plan before it uses them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import ray
from ray.data import DataContext, DataIterator, Datasource, ExecutionOptions, ExecutionResources, ReadTask
from ray.data.block import BlockMetadata
from ray.data.collate_fn import ArrowBatchCollateFn

from cluster.feeding.blocks import FeedConfig, MixedItems, mix_positions
from cluster.machine.memory import keep_freed_memory
from cluster.machine.placement import nodes_of, selector_of
from cluster.machine.ray_internals import ease_scheduling
from cluster.settings.resources import MIXING_CPUS
from ww_data import open_corpus

if TYPE_CHECKING:  # imported where batches are made: processes that only mix or coordinate start without it
    import torch

# Mixed ahead of the trainer, for each node; back-pressure holds it there. With what is on its way the object store was
# seen to hold 1.2 GB (benchmarks/feeding.py), so one of 1.5 GB is enough. A smaller store is filled to a share.
OBJECT_STORE_BUDGET_BYTES = 900 * 2**20
_SHARE_OF_SMALL_STORE = 0.6
# Ray Data lists all tasks of an execution before it starts one, at half a millisecond each. So long runs have tasks of
# several blocks; but not of many: a task's blocks wait until all those of the tasks before it have been dealt.
_TASKS, _MAX_BLOCKS_PER_TASK = 250, 8
_ARRAYS = {"noisy_NT": "<f4", "clean_NT": "<f4", "snr_db_N": "<f4", "position_N": "<i8", "key_N": "<u8"}


@dataclasses.dataclass
class Batch:
    """noisy, clean: float32 (B, 1, T), full scale +-1; positions: (B,) places in the plan.

    snr_db: (B,) speech power over noise power, the former measured over what `snr_over` names (see MixingConfig).
    """

    noisy: torch.Tensor
    clean: torch.Tensor
    snr_db: torch.Tensor
    snr_over: str
    positions: np.ndarray


def split_among_ranks(
    feed: FeedConfig, *, train_cpus: float = 0.0, mixing_nodes: str = ""
) -> list[DataIterator]:
    """One iterator per rank over one shared execution. Call it in one place and hand the iterators out.

    train_cpus: CPUs that are set aside for the trainer and are not to be counted on for mixing. mixing_nodes: the pool
    of the nodes that mix; any by default.
    """
    tasks_at_once, where = _tasks_at_once(train_cpus, mixing_nodes), selector_of(mixing_nodes)
    # Spread, as Ray Data's tasks are: within a sweep it would else have to fit in beside the worker that asks.
    warm_up = ray.remote(
        num_cpus=MIXING_CPUS, max_retries=0, scheduling_strategy="SPREAD", label_selector=where
    )(_warm_up)
    for _ in range(tasks_at_once):  # nobody waits for these
        warm_up.remote(feed)
    corpus = open_corpus(feed.corpus_uri)
    source = MixtureSource(dataclasses.replace(feed, manifest_hash=corpus.manifest_hash))
    dataset = ray.data.read_datasource(
        source,
        num_cpus=MIXING_CPUS,
        concurrency=tasks_at_once,
        override_num_blocks=len(source.shares),
        label_selector=where or None,
    )
    dataset.context.execution_options = ExecutionOptions(
        preserve_order=True,
        exclude_resources=ExecutionResources(cpu=train_cpus),
        resource_limits=ExecutionResources(object_store_memory=_object_store_budget_bytes()),
    )
    dataset.context.target_max_block_size = 1  # bytes: each row by itself, as soon as it is mixed
    ease_scheduling(dataset.context)
    return dataset.streaming_split(feed.num_workers, equal=True)


def _object_store_budget_bytes() -> float:
    stores = [node["Resources"].get("object_store_memory", 0.0) for node in ray.nodes() if node["Alive"]]
    return sum(min(OBJECT_STORE_BUDGET_BYTES, _SHARE_OF_SMALL_STORE * store) for store in stores)


def _tasks_at_once(train_cpus: float, mixing_nodes: str) -> int:
    """One for each CPU that mixes, though a task asks for half of one (all that may be free beside trainers).

    Each task has a process, which takes more than a second of CPU time to start.
    """
    cpus = sum(node["Resources"].get("CPU", 0.0) for node in nodes_of(mixing_nodes))
    return max(2, int(cpus - train_cpus))


class MixtureSource(Datasource):
    """The plan's mixtures for Ray Data: each task mixes some blocks, one after the other; each is a row, as bytes."""

    def __init__(self, feed: FeedConfig) -> None:
        super().__init__()
        blocks = range(feed.num_blocks)
        size = min(-(-len(blocks) // _TASKS), _MAX_BLOCKS_PER_TASK)
        self.feed, self.shares = feed, [blocks[first : first + size] for first in blocks[::size]]

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: DataContext | None = None
    ) -> list[ReadTask]:
        unknown = {"size_bytes": None, "exec_stats": None, "input_files": None}
        return [
            ReadTask(functools.partial(_mix, self.feed, share), BlockMetadata(num_rows=len(share), **unknown))
            for share in self.shares
        ]


def _mix(feed: FeedConfig, blocks: range) -> Iterator[pa.Table]:
    keep_freed_memory()
    for block in blocks:
        yield pack(mix_positions(feed, feed.block_positions(block)))


def _warm_up(feed: FeedConfig) -> None:
    """Makes a process ready to mix, beside the second that the execution's own process takes to start."""
    with contextlib.suppress(Exception):  # whatever is wrong with the corpus is told where it is mixed
        mix_positions(feed, feed.block_positions(0))


def pack(items: MixedItems) -> pa.Table:
    """One row with the bytes of each array; they are not copied."""
    columns = {}
    for name, dtype in _ARRAYS.items():
        values = pa.py_buffer(np.ascontiguousarray(getattr(items, name), dtype))
        ends = pa.py_buffer(np.array([0, values.size], np.int64))
        columns[name] = pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, [None, ends, values])
    return pa.table(columns)


def unpack(row: pa.Table) -> MixedItems:
    """The arrays of one row, which lie in it and cannot be written to."""
    arrays = {name: np.frombuffer(_only_value(row[name]), dtype) for name, dtype in _ARRAYS.items()}
    for name in ("noisy_NT", "clean_NT"):
        arrays[name] = arrays[name].reshape(len(arrays["position_N"]), -1)
    return MixedItems(**arrays)


def _only_value(column: pa.ChunkedArray) -> pa.Buffer:
    """The bytes of a column of one row where they lie; an Arrow scalar would be a copy of them."""
    array = column.chunk(0)
    _, ends, values = array.buffers()
    first, last = np.frombuffer(ends, np.int64)[array.offset : array.offset + 2]
    return values[first:last]


class RankBatches:
    """Iterates over the batches of one rank. waited_s: how long its reader stood still for data, in all.

    Raises RuntimeError when a batch is not the one the plan lists: training on it would silently break the promise
    that a run sees the same items on any number of workers.
    """

    def __init__(self, source: DataIterator, feed: FeedConfig, rank: int) -> None:
        self.source, self.feed, self.rank = source, feed, rank
        self.waited_s = 0.0

    def __iter__(self) -> Iterator[Batch]:
        blocks: Iterator[Any] = iter(
            self.source.iter_torch_batches(batch_size=1, collate_fn=_ToBatch(self.feed), prefetch_batches=2)
        )
        for block in range(self.rank, self.feed.num_blocks, self.feed.num_workers):
            steps = self.feed.block_steps(block)
            start = time.perf_counter()
            whole: Batch | None = next(blocks, None)
            self.waited_s += time.perf_counter() - start
            if whole is None:
                raise RuntimeError(
                    f"the data ended before step {steps[0]}, of which rank {self.rank} awaits a batch"
                )
            for index, step in enumerate(steps):
                rows = slice(index * self.feed.rank_batch, (index + 1) * self.feed.rank_batch)
                parts = {
                    name: getattr(whole, name)[rows] for name in ("noisy", "clean", "snr_db", "positions")
                }
                batch = dataclasses.replace(whole, **parts)
                self._check(batch, step)
                yield batch

    def _check(self, batch: Batch, step: int) -> None:
        expected = self.feed.batch_positions(step, self.rank)
        if not np.array_equal(batch.positions, expected):
            raise RuntimeError(
                f"rank {self.rank} awaits items {expected[0]}..{expected[-1]} at step {step}, "
                f"but got {batch.positions.tolist()}"
            )


class _ToBatch(ArrowBatchCollateFn):
    """All batches of a block as one, which lies in Ray's object store until its last tensor is gone."""

    def __init__(self, feed: FeedConfig) -> None:
        self.snr_over = feed.mixing.snr_over

    def __call__(self, batch: pa.Table) -> Any:
        import torch

        items = unpack(batch)

        def tensor(values: np.ndarray) -> torch.Tensor:
            # By way of Arrow, for torch takes no array that is read-only. A copy would be a tenth of all the CPU time,
            # and nobody else reads this block any more.
            flat = pa.Array.from_buffers(pa.float32(), values.size, [None, pa.py_buffer(values)])
            return torch.from_dlpack(flat).reshape(values.shape)

        return Batch(
            noisy=tensor(items.noisy_NT)[:, None, :],
            clean=tensor(items.clean_NT)[:, None, :],
            snr_db=tensor(items.snr_db_N),
            snr_over=self.snr_over,
            positions=items.position_N,
        )
