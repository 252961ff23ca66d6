"""Segments of speech: fixed-length int16 pieces of clips, as they lie in the Parquet shards of a corpus."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ww_data.dsp import Int16Array
from ww_data.randomness import hash64

# What remains of a clip after its last whole segment is kept if it is at least this part of a segment.
_MIN_TAIL = 0.25
# In the metadata of a shard: all of its samples lie in one page, which Parquet limits to 2 GB.
_ONE_PIECE, _MAX_PAGE_BYTES = b"samples in one piece", 2**31 - 1
# The columns of a shard beside `pcm`; `SegmentBlock` has them with `_N` behind their names.
_TYPES = {
    "key": pa.uint64(),
    "clip_id": pa.string(),
    "start": pa.int64(),
    "valid_samples": pa.int64(),
    "speaker": pa.string(),
    "active_floor": pa.int64(),
}


@dataclass(frozen=True, kw_only=True)
class SegmentBlock:
    """N segments of T samples each. Behind `valid_samples` the PCM is zero (clips shorter than a segment)."""

    pcm_NT: Int16Array
    valid_samples_N: npt.NDArray[np.int64]
    key_N: npt.NDArray[np.uint64]
    start_N: npt.NDArray[np.int64]  # in samples of the clip at the corpus's rate
    active_floor_N: npt.NDArray[np.int64]  # frames of at least this energy are speech, see `active_floor`
    clip_id_N: npt.NDArray[np.object_]
    speaker_N: npt.NDArray[np.object_]

    def __len__(self) -> int:
        return len(self.key_N)

    def take(self, rows: npt.ArrayLike | slice) -> SegmentBlock:
        """The block of these rows (indices or a slice), in this order."""
        return SegmentBlock(**{name: column[rows] for name, column in vars(self).items()})

    @staticmethod
    def concatenate(blocks: list[SegmentBlock]) -> SegmentBlock:
        """One block of the rows of several."""
        columns = {name: [vars(block)[name] for block in blocks] for name in vars(blocks[0])}
        return SegmentBlock(**{name: np.concatenate(parts) for name, parts in columns.items()})

    @property
    def segment_samples(self) -> int:
        """Samples of each segment."""
        return self.pcm_NT.shape[1]

    def to_table(self) -> pa.Table:
        """As an Arrow table with the columns of a shard; `pcm` has the bytes of T little-endian int16."""
        num_segments, num_samples = self.pcm_NT.shape
        if not num_samples:
            raise ValueError("segments have no samples: expected 1 or more each")
        pcm = pa.py_buffer(np.ascontiguousarray(self.pcm_NT, "<i2"))
        columns = {name: pa.array(vars(self)[f"{name}_N"], kind) for name, kind in _TYPES.items()}
        kind = pa.binary(2 * num_samples)
        return pa.table(
            columns | {"pcm": pa.FixedSizeBinaryArray.from_buffers(kind, num_segments, [None, pcm])}
        )

    @staticmethod
    def from_table(table: pa.Table) -> SegmentBlock:
        """From an Arrow table with the columns of a shard. The arrays cannot be written to: they lie in the table."""
        columns = {f"{name}_N": table[name].to_numpy() for name in _TYPES}
        return SegmentBlock(pcm_NT=_pcm(table["pcm"]), **columns)


@dataclass(frozen=True, kw_only=True)
class SegmentRows:
    """N segments of T samples out of several blocks, with all that mixing asks for.

    `pcm_NT` are views (T,) of the blocks: of a crop, no more is copied, or read from a mapped file, than the crop.
    """

    pcm_NT: Sequence[Int16Array]
    valid_samples_N: npt.NDArray[np.int64]
    key_N: npt.NDArray[np.uint64]
    start_N: npt.NDArray[np.int64]
    active_floor_N: npt.NDArray[np.int64]
    clip_id_N: npt.NDArray[np.object_]
    segment_samples: int

    def __len__(self) -> int:
        return len(self.key_N)

    @staticmethod
    def gather(
        blocks: Mapping[int, SegmentBlock], block_N: npt.NDArray[np.int64], row_N: npt.NDArray[np.int64]
    ) -> SegmentRows:
        """Row `row_N[n]` of `blocks[block_N[n]]` for each n."""
        rows = list(zip((blocks[index] for index in block_N.tolist()), row_N.tolist(), strict=True))
        return SegmentRows(
            pcm_NT=[block.pcm_NT[row] for block, row in rows],
            valid_samples_N=np.array([block.valid_samples_N[row] for block, row in rows], np.int64),
            key_N=np.array([block.key_N[row] for block, row in rows], np.uint64),
            start_N=np.array([block.start_N[row] for block, row in rows], np.int64),
            active_floor_N=np.array([block.active_floor_N[row] for block, row in rows], np.int64),
            clip_id_N=np.array([block.clip_id_N[row] for block, row in rows], np.object_),
            segment_samples=next(iter(blocks.values())).segment_samples,
        )


def read_shard(source: str | os.PathLike[str] | pa.NativeFile) -> SegmentBlock:
    """All segments of one shard: of a path, or of a file that a `Storage` opened.

    On this machine samples are mapped, not read, and shared by all processes. Raises OSError or pyarrow.ArrowInvalid if
    it cannot be read, ValueError if it is no shard.
    """
    file = source if isinstance(source, pa.NativeFile) else pa.memory_map(os.fspath(source))
    with pq.ParquetFile(file) as shard:
        if missing := {*_TYPES, "pcm"} - set(shard.schema_arrow.names):
            column = min(missing)
            raise ValueError(f"holds no segments (there is no column {column!r}): prepare the corpus again")
        pcm = _stored_pcm(file, shard)
        names = [*_TYPES, "pcm"] if pcm is None else [*_TYPES]
        table = shard.read(columns=names, use_threads=False)
    return SegmentBlock.from_table(table if pcm is None else table.append_column("pcm", pcm))


def write_shard(path: str | os.PathLike[str], block: SegmentBlock) -> None:
    """Write one shard. PCM is stored as plain bytes in one piece, for `read_shard` to map."""
    table = block.to_table().replace_schema_metadata({_ONE_PIECE: "yes"})
    pq.write_table(
        table,
        path,
        compression="none",
        use_dictionary=False,
        write_statistics=False,  # they would hold a whole segment as the smallest, and one as the largest
        row_group_size=max(len(block), 1),
        data_page_size=_MAX_PAGE_BYTES,
    )


def _stored_pcm(file: pa.NativeFile, shard: pq.ParquetFile) -> pa.FixedSizeBinaryArray | None:
    """The column `pcm` as it lies in the file; None if it was not written by `write_shard` and has to be decoded."""
    about = shard.metadata
    if about.num_row_groups != 1 or _ONE_PIECE not in (shard.schema_arrow.metadata or {}):
        return None
    column = about.row_group(0).column(shard.schema_arrow.get_field_index("pcm"))
    kind = shard.schema_arrow.field("pcm").type
    num_bytes = about.num_rows * kind.byte_width
    # A page is a header and the values, one after the other; so they end where the column's only page ends.
    file.seek(column.data_page_offset + column.total_compressed_size - num_bytes)
    return pa.FixedSizeBinaryArray.from_buffers(kind, about.num_rows, [None, file.read_buffer(num_bytes)])


def _pcm(column: pa.ChunkedArray) -> Int16Array:
    """The samples (N, T) of a column; of one in one piece without a copy."""
    segments = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    num_bytes = segments.type.byte_width
    shape, offset = (len(segments), num_bytes // 2), segments.offset * num_bytes
    values = segments.buffers()[1]
    if values is None:
        return np.empty(shape, np.int16)
    pcm_NT = np.frombuffer(values, "<i2", len(segments) * shape[1], offset).reshape(shape)
    return pcm_NT.astype(np.int16, copy=False)  # a copy where the machine is a big-endian one


def segment_key(split: str, clip_id: str, start: int) -> int:
    """The 64-bit name of a segment: it keys its draws, whatever the machine and the layout of shards."""
    return hash64(f"{split}\0{clip_id}\0{start}")


def segment_starts(num_samples: int, segment_samples: int) -> Iterator[int]:
    """Where the segments of a clip start. A tail worth keeping becomes a whole segment that overlaps."""
    yield from range(0, max(num_samples - segment_samples, 0) + 1, segment_samples)
    tail = num_samples % segment_samples
    if num_samples > segment_samples and tail >= _MIN_TAIL * segment_samples:
        yield num_samples - segment_samples
