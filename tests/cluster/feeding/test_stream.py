"""Mixtures through Ray Data: exactly the plan's items, the same on any number of workers, from any step on."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
import threading
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cluster.feeding.blocks import FeedConfig, MixedItems, make_plan, mix_positions
from cluster.feeding.stream import Batch, RankBatches, pack, split_among_ranks, unpack
from ww_data import (
    AugmentConfig,
    CorpusError,
    MixingConfig,
    MixtureDraw,
    Mixtures,
    mix_segments,
    open_corpus,
)

STEPS, BATCH = 11, 6
AUGMENTED = MixingConfig(
    crop_s=1.0,
    augment=AugmentConfig(room=0.5, equaliser=0.5, second_noise=0.5, clipping=0.5, dropouts=0.5, speed=0.3),
)


def feed_of(corpus: Path | str, **changes: Any) -> FeedConfig:
    feed = FeedConfig(
        corpus_uri=str(corpus),
        mixing=AUGMENTED,
        seed=3,
        global_batch=BATCH,
        num_workers=1,
        start_step=0,
        num_steps=STEPS,
    )
    return dataclasses.replace(feed, **changes)


def stream(feed: FeedConfig, num_steps: int | None = None) -> dict[int, np.ndarray]:
    """{position: noisy (T,)} of all ranks, each read by a thread of its own, as workers do, for a number of steps."""
    seen: dict[int, np.ndarray] = {}
    failures: list[BaseException] = []

    def read(rank: int, source: Any) -> None:
        try:
            for batch in islice(RankBatches(source, feed, rank), num_steps):
                assert batch.noisy.shape == batch.clean.shape == (feed.rank_batch, 1, 16_000)
                assert batch.noisy.dtype == batch.clean.dtype == batch.snr_db.dtype == torch.float32
                assert batch.snr_db.shape == (feed.rank_batch,)
                assert batch.snr_over == "active"
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
    assert sorted(on_one_worker) == list(range(STEPS * BATCH))
    direct = mix_positions(feed_of(small_corpus), np.arange(STEPS * BATCH)).noisy_NT
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


@pytest.mark.parametrize(("before", "after"), [(1, 1), (2, 3), (3, 2)])
def test_stopped_in_an_epoch_it_goes_on_with_just_what_was_not_seen(
    on_one_worker: dict[int, np.ndarray], small_corpus: Path, before: int, after: int
) -> None:
    """Whatever was mixed ahead of the trainer when it stopped is mixed again, and on other workers if need be."""
    stop = 5
    num_items = make_plan(open_corpus(small_corpus), feed_of(small_corpus)).num_items
    assert (stop * BATCH) % num_items  # in the middle of an epoch, and the rest is more than that epoch
    assert num_items < (STEPS - stop) * BATCH
    seen = stream(feed_of(small_corpus, num_workers=before), stop)
    rest = stream(feed_of(small_corpus, num_workers=after, start_step=stop, num_steps=STEPS - stop))
    assert sorted([*seen, *rest]) == list(range(STEPS * BATCH))
    for position, noisy in (seen | rest).items():
        np.testing.assert_array_equal(noisy, on_one_worker[position])


def test_rooms_of_the_corpus_are_heard(monkeypatch: pytest.MonkeyPatch, small_corpus: Path) -> None:
    drawn: list[MixtureDraw] = []

    def noting(*arguments: Any) -> Mixtures:
        mixed = mix_segments(*arguments)
        drawn.extend(mixed.draws)
        return mixed

    monkeypatch.setattr("cluster.feeding.blocks.mix_segments", noting)
    heard = mix_positions(feed_of(small_corpus), np.arange(40)).clean_NT
    has_room = [draw.augmentation is not None and draw.augmentation.room_index is not None for draw in drawn]
    assert 10 <= sum(has_room) <= 30
    no_rooms = dataclasses.replace(AUGMENTED, augment=dataclasses.replace(AUGMENTED.augment, room=0.0))
    dry = mix_positions(feed_of(small_corpus, mixing=no_rooms), np.arange(40)).clean_NT
    assert (heard != dry).any(axis=1).tolist() == has_room


def test_an_epoch_is_every_segment_once_and_the_next_one_sounds_different(small_corpus: Path) -> None:
    corpus = open_corpus(small_corpus)
    num_segments = sum(shard.num_segments for shard in corpus.shards("train"))
    feed = feed_of(small_corpus, global_batch=num_segments)
    assert make_plan(corpus, feed).num_items == num_segments
    epochs = [mix_positions(feed, epoch * num_segments + np.arange(num_segments)) for epoch in range(4)]
    assert len(np.unique(epochs[0].key_N)) == num_segments
    for first, second in pairwise(epochs):
        assert set(first.key_N) == set(second.key_N)
        order = {int(key): row for row, key in enumerate(second.key_N)}
        for row, key in enumerate(first.key_N):
            assert not np.array_equal(first.noisy_NT[row], second.noisy_NT[order[int(key)]])


def test_the_batch_states_the_snr_that_it_has(small_corpus: Path) -> None:
    mixing = MixingConfig(
        crop_s=1.0, snr_over="clip", level_dbfs=(-35.0, -35.0)
    )  # so low that no peak is scaled
    items = mix_positions(feed_of(small_corpus, mixing=mixing), np.arange(20))
    noise_NT = items.noisy_NT.astype(np.float64) - items.clean_NT
    snr_db_N = 10 * np.log10(np.square(items.clean_NT, dtype=np.float64).sum(1) / np.square(noise_NT).sum(1))
    np.testing.assert_allclose(snr_db_N, items.snr_db_N, atol=0.01)


@given(
    num_workers=st.integers(1, 5),
    rank_batch=st.integers(1, 400),
    start_step=st.integers(0, 50),
    num_steps=st.integers(1, 3000),
)
def test_blocks_deal_each_rank_its_share_of_each_step_in_order(
    num_workers: int, rank_batch: int, start_step: int, num_steps: int
) -> None:
    feed = feed_of(
        "",
        num_workers=num_workers,
        global_batch=rank_batch * num_workers,
        start_step=start_step,
        num_steps=num_steps,
    )
    for rank in range(num_workers):
        blocks = [feed.block_steps(block) for block in range(rank, feed.num_blocks, num_workers)]
        assert [step for steps in blocks for step in steps] == list(range(start_step, start_step + num_steps))
        assert len(blocks[0]) == 1  # mixed quickly, so that training starts
        assert all(1 <= len(steps) <= feed.max_steps_per_block for steps in blocks)
    np.testing.assert_array_equal(
        np.sort(np.concatenate([feed.batch_positions(start_step, rank) for rank in range(num_workers)])),
        start_step * feed.global_batch + np.arange(feed.global_batch),
    )
    last = feed.num_blocks - 1
    assert len(feed.block_positions(last)) == len(feed.block_steps(last)) * rank_batch


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"global_batch": 7, "num_workers": 3}, "global_batch is 7 and num_workers 3: expected a multiple"),
        ({"num_workers": 0}, "num_workers is 0: expected a whole number of at least 1"),
        ({"global_batch": 0}, "global_batch is 0: expected a whole number of at least 1"),
        ({"global_batch": 6.0}, "global_batch is 6.0: expected a whole number of at least 1"),
        ({"num_steps": -1}, "num_steps is -1: expected a whole number of at least 0"),
        ({"start_step": -2}, "start_step is -2: expected a whole number of at least 0"),
        ({"seed": -1}, "seed is -1: expected a whole number of at least 0"),
    ],
)
def test_feeds_that_would_drop_items_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        feed_of("", **wrong)


def test_a_packed_block_is_the_same_unpacked() -> None:
    rng = np.random.default_rng(0)
    items = MixedItems(
        noisy_NT=rng.standard_normal((3, 50), np.float32),
        clean_NT=rng.standard_normal((3, 100), np.float32)[:, ::2],  # not in one piece
        snr_db_N=np.array([1, np.nan, -5], np.float32),
        position_N=np.array([7, 2**40, 0]),
        key_N=np.array([0, 2**64 - 1, 5], np.uint64),
    )
    row = pack(items)
    assert row.num_rows == 1
    for name, values in vars(unpack(row)).items():
        assert values.dtype == vars(items)[name].dtype
        np.testing.assert_array_equal(values, vars(items)[name])


def test_a_batch_out_of_plan_is_refused(small_corpus: Path) -> None:
    class Swapped:
        def iter_torch_batches(self, **_: object) -> list[Batch]:
            sound, snr_db = torch.zeros(6, 1, 4), torch.zeros(6)
            wrong = np.arange(6) + 6
            return [Batch(noisy=sound, clean=sound, snr_db=snr_db, snr_over="active", positions=wrong)]

    with pytest.raises(RuntimeError, match=r"awaits items 0\.\.5 at step 0"):
        next(iter(RankBatches(Swapped(), feed_of(small_corpus), 0)))  # type: ignore[arg-type]


def test_data_that_end_too_early_are_refused(small_corpus: Path) -> None:
    class Empty:
        def iter_torch_batches(self, **_: object) -> list[Batch]:
            return []

    with pytest.raises(RuntimeError, match="ended before step 0"):
        next(iter(RankBatches(Empty(), feed_of(small_corpus), 0)))  # type: ignore[arg-type]


def test_a_shard_that_was_damaged_since_is_named(small_corpus: Path, tmp_path: Path) -> None:
    shutil.copytree(small_corpus, tmp_path / "corpus")
    feed = feed_of(tmp_path / "corpus")
    name = open_corpus(feed.corpus_uri).shards("train")[0].name
    shard = tmp_path / "corpus" / name
    shard.write_bytes(bytes(shard.stat().st_size))
    with pytest.raises(CorpusError, match=rf"{name}: cannot be read .*prepare the corpus again$"):
        mix_positions(feed, np.arange(len(shard.name) * 10))


def test_a_corpus_that_was_prepared_anew_is_not_mixed_with_the_old_one(small_corpus: Path) -> None:
    with pytest.raises(CorpusError, match="prepared anew while it was in use"):
        mix_positions(feed_of(small_corpus, manifest_hash="of another"), np.arange(6))


@pytest.mark.parametrize("package", ["torch", "ray", "scipy"])
def test_processes_that_mix_start_without(package: str) -> None:
    program = f"import sys, cluster.feeding.blocks; sys.exit({package!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=480).returncode == 0


def test_what_ray_data_hands_on_starts_without_torch() -> None:
    program = "import sys, cluster.feeding.stream; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=480).returncode == 0
