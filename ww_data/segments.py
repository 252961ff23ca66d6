"""Segments of speech: fixed-length int16 pieces of clips, as they lie in the Parquet shards of a corpus."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ww_data.keyed import hash64

Int16Array = npt.NDArray[np.int16]

# What remains of a clip after its last whole segment is kept if it is at least this part of a segment.
_MIN_TAIL = 0.25


@dataclass(frozen=True, kw_only=True)
class SegmentBlock:
    """N segments of S samples each. Behind `valid_samples` the PCM is zero (clips shorter than a segment)."""

    pcm_NS: Int16Array
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
        names = vars(blocks[0])
        return SegmentBlock(
            **{name: np.concatenate([vars(block)[name] for block in blocks]) for name in names}
        )

    def to_table(self) -> pa.Table:
        """As an Arrow table with the columns of a shard."""
        columns = {
            "key": self.key_N,
            "clip_id": pa.array(self.clip_id_N, pa.string()),
            "start": self.start_N,
            "valid_samples": self.valid_samples_N,
            "speaker": pa.array(self.speaker_N, pa.string()),
            "active_floor": self.active_floor_N,
            "pcm": pa.FixedShapeTensorArray.from_numpy_ndarray(self.pcm_NS),
        }
        return pa.table(columns)

    @staticmethod
    def from_table(table: pa.Table) -> SegmentBlock:
        """From an Arrow table with the columns of a shard."""
        return SegmentBlock(
            pcm_NS=table["pcm"].combine_chunks().to_numpy_ndarray(),
            valid_samples_N=table["valid_samples"].to_numpy(),
            key_N=table["key"].to_numpy(),
            start_N=table["start"].to_numpy(),
            active_floor_N=table["active_floor"].to_numpy(),
            clip_id_N=table["clip_id"].to_numpy(),
            speaker_N=table["speaker"].to_numpy(),
        )


def read_shard(path: str | os.PathLike[str]) -> SegmentBlock:
    """All segments of one shard."""
    return SegmentBlock.from_table(pq.read_table(path, memory_map=True))


def write_shard(path: str | os.PathLike[str], block: SegmentBlock) -> None:
    """Write one shard. Parquet has no 16-bit integers: as differences, PCM takes a third of plain ones."""
    encoding = {"pcm.list.element": "DELTA_BINARY_PACKED"}
    pq.write_table(block.to_table(), path, compression="none", use_dictionary=False, column_encoding=encoding)


def segment_key(split: str, clip_id: str, start: int) -> int:
    """The 64-bit name of a segment: it keys its draws, whatever the machine and the layout of shards."""
    return hash64(f"{split}\0{clip_id}\0{start}")


def segment_starts(num_samples: int, segment_samples: int) -> Iterator[int]:
    """Where the segments of a clip start. A tail worth keeping becomes a whole segment that overlaps."""
    yield from range(0, max(num_samples - segment_samples, 0) + 1, segment_samples)
    tail = num_samples % segment_samples
    if num_samples > segment_samples and tail >= _MIN_TAIL * segment_samples:
        yield num_samples - segment_samples
