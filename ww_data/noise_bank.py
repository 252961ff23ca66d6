"""The noise bank of a split: all its noise as int16 PCM in one uncompressed Arrow IPC file, memory-mapped.

All workers of a node share its pages; a crop is a view of the file. Rows are clips, sorted by recording.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Int16Array = npt.NDArray[np.int16]

_FADE_S = 0.01
_SCHEMA = pa.schema([("id", pa.string()), ("recording", pa.string()), ("pcm", pa.large_list(pa.int16()))])


class NoiseBank:
    """Read access to a bank: `len(bank)` clips, their `ids`, `recordings` and `lengths_N` in samples.

    Opening maps the file and reads no sample. It pickles as its path, so it can be sent to other processes.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open a bank of `write_noise_bank`. Raises OSError or pyarrow.ArrowInvalid if it cannot be read."""
        self.path = os.fspath(path)
        table = pa.ipc.open_file(pa.memory_map(self.path)).read_all()
        self.sample_rate = int(table.schema.metadata[b"sample_rate"])
        self.ids: list[str] = table["id"].to_pylist()
        self.recordings: list[str] = table["recording"].to_pylist()
        self._pcm: list[Int16Array] = []
        for chunk in table["pcm"].chunks:
            samples, offsets = chunk.values.to_numpy(zero_copy_only=True), chunk.offsets.to_numpy()
            self._pcm += [samples[a:b] for a, b in pairwise(offsets)]
        self.lengths_N = np.array([len(pcm) for pcm in self._pcm], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._pcm)

    def __reduce__(self) -> tuple[Any, ...]:
        return (NoiseBank, (self.path,))

    def pcm(self, index: int) -> Int16Array:
        """All samples of a clip, as a read-only view of the file."""
        return self._pcm[index]

    def crop(self, index: int, start: int, num_samples: int) -> Int16Array:
        """`num_samples` of a clip from `start` on; a clip that is too short is looped with a cross-fade."""
        pcm_T = self._pcm[index]
        if start + num_samples <= len(pcm_T):
            return pcm_T[start : start + num_samples]
        period_P = loop_period(pcm_T, round(_FADE_S * self.sample_rate))
        return np.take(period_P, np.arange(start, start + num_samples), mode="wrap")


def loop_period(pcm_T: Int16Array, fade: int) -> Int16Array:
    """One period of a seamless loop: the clip's end is faded into its start, at constant power.

    The period is `fade` samples shorter than the clip (a quarter of the clip at most).
    """
    fade = min(fade, len(pcm_T) // 4)
    if fade == 0:
        return pcm_T
    period_P = pcm_T[:-fade].copy()
    phase = np.arange(fade) / fade * (np.pi / 2)
    mixed = np.sin(phase) * pcm_T[:fade] + np.cos(phase) * pcm_T[-fade:]
    period_P[:fade] = np.clip(np.rint(mixed), -32768, 32767).astype(np.int16)
    return period_P


def write_noise_bank(
    path: str | os.PathLike[str], clips: Iterable[tuple[str, str, Int16Array]], sample_rate: int
) -> None:
    """Write a bank from (id, recording, pcm_T) in the order they come; one clip at a time lies in memory."""
    schema = _SCHEMA.with_metadata({"sample_rate": str(sample_rate)})
    with Path(path).open("wb") as file, pa.ipc.new_file(file, schema) as writer:
        for clip_id, recording, pcm_T in clips:
            pcm = pa.LargeListArray.from_arrays(pa.array([0, len(pcm_T)], pa.int64()), pa.array(pcm_T))
            writer.write_batch(
                pa.record_batch([pa.array([clip_id]), pa.array([recording]), pcm], schema=schema)
            )
