"""What a training run is fed: which mixtures, in blocks for Ray Data, and the mixing of one block.

A process that mixes needs no more. It imports neither torch nor Ray, for such processes start with each run.
"""

from __future__ import annotations

import dataclasses
import functools
import numbers
import time

import numpy as np
import numpy.typing as npt

from cluster.monitoring.metrics import MIX_AUDIO, MIX_TIME
from ww_data import Corpus, CorpusError, MixingConfig, NoiseBank, RoomBank, mix_segments, open_corpus
from ww_data.corpus.segments import SegmentBlock, SegmentRows, read_shard
from ww_data.mixing.plan import WINDOW_SHARDS, Plan
from ww_data.storage import first_line

Int64Array = npt.NDArray[np.int64]

# Of noisy and clean in a block. Smaller blocks cost more of Ray's time, larger ones come in larger jumps.
_BLOCK_BYTES = 24 * 2**20
# For the size of a block alone; nothing depends on it being right.
_USUAL_RATE, _USUAL_SEGMENT_S = 16_000, 4.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeedConfig:
    """What decides the sequence of training batches, and how it is dealt to ranks.

    global_batch: items of one step over all ranks, a multiple of num_workers.
    start_step, num_steps: the stretch of the plan to feed. Wrong numbers are a ValueError.
    manifest_hash: of the corpus that is meant; "" takes whichever lies at corpus_uri.

    A block holds whole batches of one rank. Blocks come in rounds, one for each rank: block b is of round
    b // num_workers and for rank b % num_workers. The first round is of one step, so that training can start; each
    further one has twice as many steps, until blocks are of some megabytes.
    """

    corpus_uri: str
    mixing: MixingConfig
    seed: int
    global_batch: int
    num_workers: int
    start_step: int
    num_steps: int
    manifest_hash: str = ""

    def __post_init__(self) -> None:
        least = {"global_batch": 1, "num_workers": 1, "seed": 0, "start_step": 0, "num_steps": 0}
        for name, lowest in least.items():
            value = getattr(self, name)
            if not isinstance(value, numbers.Integral) or value < lowest:
                raise ValueError(f"{name} is {value!r}: expected a whole number of at least {lowest}")
        if self.global_batch % self.num_workers:
            raise ValueError(
                f"global_batch is {self.global_batch} and num_workers {self.num_workers}: expected a multiple of it, "
                "for each worker trains on as many items of a step"
            )

    @property
    def rank_batch(self) -> int:
        """Items of a batch on one rank."""
        return self.global_batch // self.num_workers

    @property
    def max_steps_per_block(self) -> int:
        """Steps of a block once their number has stopped growing."""
        item_bytes = (self.mixing.crop_s or _USUAL_SEGMENT_S) * _USUAL_RATE * 2 * 4
        return max(1, int(_BLOCK_BYTES / item_bytes / self.rank_batch))

    @property
    def num_blocks(self) -> int:
        """Blocks of all ranks."""
        growing = self._growing_rounds
        rest = self.num_steps - (2**growing - 1)
        rounds = growing + -(-rest // self.max_steps_per_block) if rest > 0 else self.num_steps.bit_length()
        return rounds * self.num_workers

    def block_steps(self, block: int) -> range:
        """The steps of the plan that a block has a rank's batches of."""
        turn, growing, largest = block // self.num_workers, self._growing_rounds, self.max_steps_per_block
        first = 2 ** min(turn, growing) - 1 + max(turn - growing, 0) * largest
        last = min(first + (2**turn if turn < growing else largest), self.num_steps)
        return range(self.start_step + first, self.start_step + last)

    def batch_positions(self, step: int, rank: int) -> Int64Array:
        """Positions in the plan (step x global_batch + place in the step) of what a rank trains on at a step."""
        return step * self.global_batch + rank * self.rank_batch + np.arange(self.rank_batch)

    def block_positions(self, block: int) -> Int64Array:
        """Positions in the plan of a block's items, in order."""
        rank = block % self.num_workers
        return np.concatenate([self.batch_positions(step, rank) for step in self.block_steps(block)])

    @property
    def _growing_rounds(self) -> int:
        return (self.max_steps_per_block - 1).bit_length()


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixedItems:
    """N mixtures of T samples, where in the plan they stand and which segments (`key_N`) they are made of."""

    noisy_NT: npt.NDArray[np.float32]
    clean_NT: npt.NDArray[np.float32]
    snr_db_N: npt.NDArray[np.float32]
    position_N: Int64Array
    key_N: npt.NDArray[np.uint64]


def make_plan(corpus: Corpus, feed: FeedConfig) -> Plan:
    """The order in which the corpus' training segments are used: a pure function of the seed and the step."""
    return _plan(tuple(shard.num_segments for shard in corpus.shards("train")), feed.seed)


def mix_positions(feed: FeedConfig, position_N: Int64Array) -> MixedItems:
    """The mixtures at some positions of the plan, in any order. Raises CorpusError for a corpus that is damaged."""
    began = time.perf_counter()
    opened = _open(feed.corpus_uri, feed.manifest_hash)
    plan = make_plan(opened.corpus, feed)
    breaks = np.flatnonzero(np.diff(position_N) != 1) + 1
    runs = [plan.at(int(run[0]), int(run[-1]) + 1) for run in np.split(position_N, breaks)]
    epoch_N, shard_N, row_N = (np.concatenate(column) for column in zip(*runs, strict=True))
    blocks = {shard: _read_shard(opened, shard) for shard in np.unique(shard_N).tolist()}
    segments = SegmentRows.gather(blocks, shard_N, row_N)
    mixed = mix_segments(segments, epoch_N, opened.bank, feed.mixing, feed.seed, opened.rooms)
    MIX_TIME.add(time.perf_counter() - began)
    MIX_AUDIO.add(mixed.noisy_NT.size / opened.corpus.sample_rate)
    return MixedItems(
        noisy_NT=mixed.noisy_NT,
        clean_NT=mixed.clean_NT,
        snr_db_N=mixed.snr_db_N.astype(np.float32),
        position_N=position_N,
        key_N=segments.key_N,
    )


@dataclasses.dataclass(frozen=True, eq=False)  # compared by identity, as caches do
class _Opened:
    corpus: Corpus
    bank: NoiseBank
    rooms: RoomBank | None


# Ray uses its worker processes again, so what one task opened serves the next. Banks, and shards on this machine, are
# memory maps that all its processes share; of shards from afar, each process holds what the plan shuffles together.
@functools.lru_cache(maxsize=2)
def _open(corpus_uri: str, manifest_hash: str) -> _Opened:
    corpus = open_corpus(corpus_uri)
    if manifest_hash not in ("", corpus.manifest_hash):
        raise CorpusError(f"{corpus_uri}: was prepared anew while it was in use: start the run again")
    return _Opened(corpus, corpus.noise_bank("train"), corpus.rooms("train"))


@functools.lru_cache(maxsize=4)
def _plan(shard_sizes: tuple[int, ...], seed: int) -> Plan:
    return Plan(seed=seed, shard_sizes=shard_sizes)


@functools.lru_cache(maxsize=WINDOW_SHARDS)
def _read_shard(opened: _Opened, index: int) -> SegmentBlock:
    storage, name = opened.corpus.storage, opened.corpus.shards("train")[index].name
    try:
        with storage.open(name) as file:
            return read_shard(file)
    except (OSError, ValueError) as error:  # pyarrow.ArrowInvalid is a ValueError
        address, why = storage.address(name), first_line(error)
        raise CorpusError(f"{address}: cannot be read ({why}): prepare the corpus again") from error
