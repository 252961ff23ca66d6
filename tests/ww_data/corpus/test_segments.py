"""Shards of segments: what is read is what was written, from a path or a storage, by ourselves or with pandas."""

from __future__ import annotations

import dataclasses
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ww_data import SegmentBlock, Storage, read_shard
from ww_data.corpus.segments import SegmentRows, segment_key, segment_starts, write_shard


def block_of(num_segments: int, num_samples: int, seed: int = 0) -> SegmentBlock:
    rng = np.random.default_rng(seed)
    pcm_NT = rng.integers(-32768, 32768, (num_segments, num_samples), np.int16)
    pcm_NT[:1, :1], pcm_NT[-1:, -1:] = -32768, 32767
    return SegmentBlock(
        pcm_NT=pcm_NT,
        valid_samples_N=rng.integers(1, num_samples + 1, num_segments),
        key_N=rng.integers(0, 2**64, num_segments, np.uint64),
        start_N=rng.integers(0, 2**40, num_segments),
        active_floor_N=rng.integers(1, 2**50, num_segments),
        clip_id_N=np.array([f"Straße {n}.wav" for n in range(num_segments)], object),
        speaker_N=np.array([f"s{n % 3}" for n in range(num_segments)], object),
    )


def assert_same(found: SegmentBlock, expected: SegmentBlock) -> None:
    for name, column in vars(expected).items():
        assert vars(found)[name].dtype == column.dtype
        assert vars(found)[name].shape == column.shape
        np.testing.assert_array_equal(vars(found)[name], column)


@given(st.integers(0, 7), st.integers(1, 300))
def test_tables_keep_every_value(num_segments: int, num_samples: int) -> None:
    block = block_of(num_segments, num_samples)
    assert_same(SegmentBlock.from_table(block.to_table()), block)


def test_parts_of_tables_and_of_blocks_keep_their_place() -> None:
    block = block_of(9, 40)
    assert_same(SegmentBlock.from_table(block.to_table().slice(3, 4)), block.take(slice(3, 7)))
    every_second = block.take(slice(None, None, 2))  # its samples do not lie in one piece
    assert_same(SegmentBlock.from_table(every_second.to_table()), block.take([0, 2, 4, 6, 8]))
    in_chunks = pa.concat_tables([block.to_table().slice(0, 5), block.to_table().slice(5)])
    assert_same(SegmentBlock.from_table(in_chunks), block)


def test_shards_are_read_from_paths_and_storages(tmp_path: Path) -> None:
    block = block_of(20, 8000)  # several pages
    write_shard(tmp_path / "shard.parquet", block)
    assert_same(read_shard(tmp_path / "shard.parquet"), block)
    with Storage(tmp_path).open("shard.parquet") as file:
        found = read_shard(file)
    assert_same(found, block)  # and needs the file no longer


@given(num_segments=st.integers(0, 40), num_samples=st.sampled_from([1, 7, 100, 9_999]))
def test_samples_are_found_in_files_of_any_size(num_segments: int, num_samples: int) -> None:
    block = block_of(num_segments, num_samples)
    with tempfile.TemporaryDirectory() as folder:
        write_shard(Path(folder, "shard.parquet"), block)
        assert_same(read_shard(Path(folder, "shard.parquet")), block)


def test_samples_are_found_in_shards_of_many_segments(tmp_path: Path) -> None:
    block = block_of(3000, 500)
    write_shard(tmp_path / "shard.parquet", block)
    assert_same(read_shard(tmp_path / "shard.parquet"), block)


def test_samples_of_files_are_mapped(tmp_path: Path) -> None:
    write_shard(tmp_path / "shard.parquet", block_of(50, 16_000))
    before = pa.total_allocated_bytes()
    block = read_shard(tmp_path / "shard.parquet")
    assert pa.total_allocated_bytes() - before < block.pcm_NT.nbytes / 10
    assert not block.pcm_NT.flags.writeable


def test_shards_that_something_else_wrote_are_read(tmp_path: Path) -> None:
    block = block_of(20, 8000)
    pq.write_table(block.to_table(), tmp_path / "shard.parquet", compression="zstd", row_group_size=7)
    assert_same(read_shard(tmp_path / "shard.parquet"), block)


def test_pandas_reads_shards(tmp_path: Path) -> None:
    block = block_of(5, 300)
    write_shard(tmp_path / "shard.parquet", block)
    frame = pd.read_parquet(tmp_path / "shard.parquet")
    assert frame["speaker"].tolist() == block.speaker_N.tolist()
    assert frame["key"].tolist() == block.key_N.tolist()
    np.testing.assert_array_equal(np.frombuffer(frame["pcm"][2], "<i2"), block.pcm_NT[2])


def test_shards_take_hardly_more_than_their_samples(tmp_path: Path) -> None:
    block = block_of(64, 16_000)
    write_shard(tmp_path / "shard.parquet", block)
    assert (tmp_path / "shard.parquet").stat().st_size < block.pcm_NT.nbytes + 20_000


def test_other_files_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.parquet"
    pq.write_table(pa.table({"name": ["a"]}), other)
    with pytest.raises(ValueError, match=r"holds no segments .* prepare the corpus again"):
        read_shard(other)
    other.write_bytes(b"PAR1 and nothing more")
    with pytest.raises(pa.ArrowInvalid):
        read_shard(other)
    nothing = dataclasses.replace(block_of(2, 1), pcm_NT=np.empty((2, 0), np.int16))
    with pytest.raises(ValueError, match="no samples: expected 1 or more"):
        write_shard(other, nothing)


@given(st.data())
def test_gathered_rows_are_those_that_were_asked_for(data: st.DataObject) -> None:
    blocks = {index: block_of(index % 3 + 1, 10, seed=index) for index in (2, 5, 9)}
    rows = [(index, row) for index, block in blocks.items() for row in range(len(block))]
    wanted = data.draw(st.lists(st.sampled_from(rows), min_size=1, max_size=12))
    block_N, row_N = np.array(wanted).T
    expected = SegmentBlock.concatenate([blocks[index].take([row]) for index, row in wanted])
    found = SegmentRows.gather(blocks, block_N, row_N)
    assert (len(found), found.segment_samples) == (len(wanted), expected.segment_samples)
    for name in vars(found).keys() & vars(expected).keys():
        assert np.asarray(vars(found)[name]).dtype == vars(expected)[name].dtype
        np.testing.assert_array_equal(vars(found)[name], vars(expected)[name])
    for (index, _), pcm_S in zip(wanted, found.pcm_NT, strict=True):
        assert np.shares_memory(pcm_S, blocks[index].pcm_NT)


@given(st.integers(1, 2000), st.integers(1, 300))
def test_segments_lie_in_the_clip_and_leave_out_at_most_a_short_tail(
    num_samples: int, segment_samples: int
) -> None:
    starts = list(segment_starts(num_samples, segment_samples))
    assert starts == sorted(set(starts))
    assert starts[0] == 0
    if num_samples <= segment_samples:
        assert starts == [0]
        return
    assert starts[-1] + segment_samples <= num_samples
    assert all(second - first <= segment_samples for first, second in pairwise(starts))
    assert num_samples - (starts[-1] + segment_samples) < segment_samples / 4


def test_keys_tell_segments_apart() -> None:
    keys = {
        segment_key(split, clip, start)
        for split in ("train", "val")
        for clip in ("a", "a1")
        for start in (0, 1, 10, 11)
    }
    assert len(keys) == 16
    assert segment_key("train", "speech/a.wav", 64_000) == segment_key("train", "speech/a.wav", 64_000)
