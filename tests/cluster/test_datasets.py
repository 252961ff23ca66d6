"""Mixtures through Ray Data: exactly the plan's items, the same on any number of workers, from any step on."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import numpy as np
import pytest

from cluster.datasets import FeedConfig, RankBatches, make_plan, mix_positions, split_among_ranks
from ww_data import MixingConfig, open_corpus


def feed_of(corpus: Path, **changes: int) -> FeedConfig:
    feed = FeedConfig(
        corpus_uri=str(corpus),
        mixing=MixingConfig(crop_s=1.0),
        seed=3,
        global_batch=6,
        num_workers=1,
        start_step=0,
        num_steps=11,
    )
    return dataclasses.replace(feed, **changes)


def stream(feed: FeedConfig) -> dict[int, np.ndarray]:
    """{position: noisy (T,)} of all ranks, each rank read by a thread of its own as workers do."""
    seen: dict[int, np.ndarray] = {}
    failures: list[BaseException] = []

    def read(rank: int, source: object) -> None:
        try:
            for batch in RankBatches(source, feed, rank):
                assert batch.noisy.shape == batch.clean.shape == (feed.rank_batch, 1, 16_000)
                for position, noisy in zip(batch.positions, batch.noisy.numpy(), strict=True):
                    assert int(position) not in seen
                    seen[int(position)] = noisy[0]
        except BaseException as error:
            failures.append(error)

    threads = [
        threading.Thread(target=read, args=(rank, source))
        for rank, source in enumerate(split_among_ranks(feed))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
    return seen


@pytest.fixture(scope="module")
def on_one_worker(local_ray: str, small_corpus: Path) -> dict[int, np.ndarray]:
    return stream(feed_of(small_corpus))


def test_every_item_of_the_plan_comes_once(on_one_worker: dict[int, np.ndarray], small_corpus: Path) -> None:
    feed = feed_of(small_corpus)
    assert sorted(on_one_worker) == list(range(11 * 6))
    direct = mix_positions(feed, np.arange(11 * 6))["noisy"]
    for position, noisy in on_one_worker.items():
        np.testing.assert_array_equal(noisy, direct[position])


@pytest.mark.parametrize("workers", [2, 3])
def test_same_mixtures_bit_for_bit_on_more_workers(
    on_one_worker: dict[int, np.ndarray], small_corpus: Path, workers: int
) -> None:
    several = stream(feed_of(small_corpus, num_workers=workers))
    assert several.keys() == on_one_worker.keys()
    for position, noisy in several.items():
        np.testing.assert_array_equal(noisy, on_one_worker[position])


def test_resumed_stream_goes_on_where_it_stopped(
    on_one_worker: dict[int, np.ndarray], small_corpus: Path
) -> None:
    rest = stream(feed_of(small_corpus, num_workers=2, start_step=7, num_steps=4))
    assert sorted(rest) == list(range(7 * 6, 11 * 6))
    for position, noisy in rest.items():
        np.testing.assert_array_equal(noisy, on_one_worker[position])


def test_an_epoch_is_every_segment_once_and_the_next_one_sounds_different(small_corpus: Path) -> None:
    corpus = open_corpus(small_corpus)
    num_segments = sum(shard.num_segments for shard in corpus.shards("train"))
    feed = feed_of(small_corpus, global_batch=num_segments)
    assert make_plan(corpus, feed).num_items == num_segments
    first, second = (mix_positions(feed, epoch * num_segments + np.arange(num_segments)) for epoch in (0, 1))
    assert len(np.unique(first["key"])) == num_segments
    assert set(first["key"]) == set(second["key"])
    order = {int(key): row for row, key in enumerate(second["key"])}
    for row, key in enumerate(first["key"]):
        assert not np.array_equal(first["noisy"][row], second["noisy"][order[int(key)]])


def test_a_batch_out_of_plan_is_refused(small_corpus: Path) -> None:
    class Swapped:
        def iter_torch_batches(self, **_: object) -> list[object]:
            from cluster.datasets import Batch

            wrong = np.arange(6) + 6
            return [Batch(noisy=None, clean=None, positions=wrong)]  # type: ignore[arg-type]

    with pytest.raises(RuntimeError, match=r"awaits items 0\.\.5 at step 0"):
        next(iter(RankBatches(Swapped(), feed_of(small_corpus), 0)))
