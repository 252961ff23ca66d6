"""Small made-up blocks of segments, noise banks and rooms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.ww_data.made_sounds import RATE, hiss
from ww_data import NoiseBank, RoomBank, SegmentBlock, segment_key
from ww_data.corpus.banks import BankRow
from ww_data.dsp import active_floor
from ww_data.write.pieces import to_pcm


def block_of(clips: Sequence[np.ndarray], floors: Sequence[int] | None = None) -> SegmentBlock:
    """A segment of each clip of int16 PCM, padded to the longest of them."""
    valid_samples_N = np.array([len(clip) for clip in clips])
    pcm_NT = np.zeros((len(clips), int(valid_samples_N.max())), np.int16)
    for row, clip in enumerate(clips):
        pcm_NT[row, : len(clip)] = clip
    return SegmentBlock(
        pcm_NT=pcm_NT,
        valid_samples_N=valid_samples_N,
        key_N=np.array([segment_key("train", "x", row) for row in range(len(clips))], np.uint64),
        start_N=np.zeros(len(clips), np.int64),
        active_floor_N=np.array([active_floor(row, RATE) for row in pcm_NT] if floors is None else floors),
        clip_id_N=np.full(len(clips), "x", object),
        speaker_N=np.full(len(clips), "y", object),
    )


def noise_bank(folder: Path) -> NoiseBank:
    """Four clips of noise, 0.3 to 3.3 s long."""
    rows = (BankRow(f"n{index}", f"n{index}", 0, to_pcm(hiss(index, 0.3 + index))) for index in range(4))
    NoiseBank.write(folder / "bank.arrow", rows, RATE)
    return NoiseBank(folder / "bank.arrow")


def room_response(seed: int, direct: int = 100, seconds: float = 0.4, gain: float = -0.5) -> np.ndarray:
    """(T,) float32: silence, the direct path at sample `direct`, then noise that decays by 60 dB in `seconds`."""
    num_samples = round(seconds * RATE)
    decay = 10 ** (-3 * np.arange(num_samples) / num_samples)
    tail = 0.1 * np.clip(np.random.default_rng(seed).standard_normal(num_samples), -3, 3) * decay
    tail[0] = 1.0
    return (gain * np.concatenate([np.zeros(direct), tail])).astype(np.float32)


def room_bank(folder: Path) -> RoomBank:
    """Three rooms."""
    rows = [BankRow(f"r{seed}", f"r{seed}", 0, room_response(seed)) for seed in range(3)]
    RoomBank.write(folder / "rooms.arrow", rows, RATE)
    return RoomBank(folder / "rooms.arrow")
