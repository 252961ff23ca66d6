"""A corpus is written in parts: files of about half a minute's work each, named after what is in them.

A part that is there already is never written again, after a run was killed or when a corpus grows.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ww_data.audio import AudioError
from ww_data.corpus.banks import BankRow, NoiseBank
from ww_data.corpus.corpus import FORMAT_VERSION
from ww_data.corpus.rooms import RoomBank
from ww_data.corpus.segments import SegmentBlock, segment_key, segment_starts, write_shard
from ww_data.dsp import HIGH_PASS_HZ, active_floor, frame_length
from ww_data.manifest import SPLITS, Clip, CorpusError, Manifest
from ww_data.randomness import keyed_order
from ww_data.storage import Storage, sha256_of
from ww_data.write.pieces import Piece, PieceReader, pcm_gain, pieces_of, to_pcm

# 256 segments of 4 s are 33 MB: quick to read, and a small corpus still has several shards.
SHARD_SEGMENTS = 256
_SHARD_SAMPLES = 1 << 25  # 64 MiB
_SPEECH_FROM_DB = -20.0  # of a recording's level
_BANK_S = {"noise": 2000, "rir": 1000}
PROGRESS_FOLDER = ".progress"


@dataclass(frozen=True)
class Part:
    """One file of a corpus to be: the pieces that go into it, all of one role and split."""

    role: str
    split: str
    sample_rate: int
    segment_samples: int
    pieces: tuple[Piece, ...]
    high_pass_hz: float = HIGH_PASS_HZ

    @cached_property
    def name(self) -> str:
        """Its path in the corpus: it changes with whatever would change its content."""
        about = f"{FORMAT_VERSION} {self.sample_rate} {self.segment_samples}"
        about += f" {self.high_pass_hz:g} Hz" if self.high_pass_hz else ""
        digest = hashlib.blake2b(about.encode(), digest_size=10)
        for piece in self.pieces:
            clip = piece.clip
            peak = [clip.peak, clip.offset] if self.high_pass_hz else [clip.peak]
            row = [clip.id, clip.speaker, clip.content_hash, *peak, piece.start_s]
            digest.update(json.dumps(row).encode())
        suffix = "parquet" if self.role == "speech" else "arrow"
        return f"{self.role}/{self.split}/{digest.hexdigest()}.{suffix}"

    @property
    def num_clips(self) -> int:
        """Clips that end in this part: over all parts, each counts once."""
        return sum(piece.seconds is None for piece in self.pieces)


def plan_parts(
    manifest: Manifest,
    sample_rate: int,
    segment_samples: int,
    kept_clips: Iterable[str] = (),
    high_pass_hz: float = HIGH_PASS_HZ,
) -> list[Part]:
    """The parts of a manifest, without the clips (by id) that files of the corpus hold already; a pure function."""
    kept = set(kept_clips)
    parts = []
    for role in ("speech", "noise", "rir"):
        for split in SPLITS:
            clips = [clip for clip in manifest.used(role, split) if clip.id not in kept]
            if role == "speech":
                clips.sort(key=lambda clip: keyed_order(manifest.seed, clip.id))
                limit = min(SHARD_SEGMENTS * segment_samples, _SHARD_SAMPLES)
            else:
                clips.sort(key=lambda clip: (clip.speaker, clip.id))
                limit = _BANK_S[role] * sample_rate
            unit = segment_samples if role == "speech" else 1
            for pieces in _fill(clips, limit, sample_rate, unit):
                parts.append(Part(role, split, sample_rate, segment_samples, tuple(pieces), high_pass_hz))
    return parts


def _fill(clips: Sequence[Clip], limit: int, sample_rate: int, unit: int) -> Iterator[list[Piece]]:
    """Pieces in order, as many at a time as stay below `limit` samples, each counted in whole units."""
    waiting: list[Piece] = []
    filled = 0
    for clip in clips:
        for piece in pieces_of(clip):
            size = -(-piece.num_samples(sample_rate) // unit) * unit
            if waiting and filled + size > limit:
                yield waiting
                waiting, filled = [], 0
            waiting.append(piece)
            filled += size
    if waiting:
        yield waiting


def write_part(storage: Storage, part: Part) -> tuple[str, dict[str, Any], int]:
    """Write a part, or find it written: its name, what corpus.json says of it, and its number of clips."""
    record = f"{PROGRESS_FOLDER}/{part.name.replace('/', '-')}.json"
    if storage.size(record) is not None:
        about = dict(json.loads(storage.read(record)))
        if storage.size(part.name) == about["bytes"]:
            return part.name, about, part.num_clips
    with storage.writing(part.name) as path, PieceReader(part.sample_rate, part.high_pass_hz) as reader:
        about = {}
        if part.role == "speech":
            block = SegmentBlock.concatenate([_segments(part, piece, reader) for piece in part.pieces])
            write_shard(path, block)
            about["num_segments"] = len(block)
        else:
            bank = NoiseBank if part.role == "noise" else RoomBank
            bank.write(path, (_bank_row(piece, part, reader) for piece in part.pieces), part.sample_rate)
        about["sha256"] = sha256_of(path)
        about["bytes"] = path.stat().st_size
    storage.write(record, json.dumps(about).encode())  # the mark that the file is whole
    return part.name, about, part.num_clips


def _bank_row(piece: Piece, part: Part, reader: PieceReader) -> BankRow:
    pcm_T = _read_pcm(piece, part, reader) if part.role == "noise" else _read(piece, reader)
    return BankRow(piece.clip.id, piece.clip.speaker, piece.start_s * part.sample_rate, pcm_T)


def _read_pcm(piece: Piece, part: Part, reader: PieceReader) -> np.ndarray:
    return to_pcm(_read(piece, reader), pcm_gain(piece.clip, part.sample_rate, part.high_pass_hz))


def _active_floor(piece: Piece, part: Part, pcm_T: np.ndarray) -> int:
    """The energy from which a frame is speech. A minute of a long recording may be a pause: its level counts, too."""
    floor = active_floor(pcm_T, part.sample_rate)
    if piece.start_s == 0 and piece.seconds is None:
        return floor
    gain_db = 20 * np.log10(pcm_gain(piece.clip, part.sample_rate, part.high_pass_hz))
    quietest = 32768 * 10 ** ((piece.clip.level_dbfs + gain_db + _SPEECH_FROM_DB) / 20)
    return max(floor, int(frame_length(part.sample_rate) * quietest**2))


def _read(piece: Piece, reader: PieceReader) -> np.ndarray:
    clip = piece.clip
    try:
        samples_T = reader.read(piece)
    except (AudioError, OSError) as error:
        raise CorpusError(f"{error} (it was readable when the folders were scanned)") from error
    if not clip.minus and "://" not in clip.path:
        now = Path(clip.path).stat()
        if (now.st_size, now.st_mtime_ns) != (clip.size_bytes, clip.modified_ns):
            raise CorpusError(f"{clip.path}: changed since the folders were scanned: prepare again")
    return samples_T


def _segments(part: Part, piece: Piece, reader: PieceReader) -> SegmentBlock:
    """Cut one piece into its segments."""
    pcm_T, segment_samples = _read_pcm(piece, part, reader), part.segment_samples
    clip, offset = piece.clip, piece.start_s * part.sample_rate
    starts = list(segment_starts(len(pcm_T), segment_samples))
    pcm_NT = np.zeros((len(starts), segment_samples), np.int16)
    valid_samples_N = np.minimum(len(pcm_T) - np.array(starts), segment_samples)
    for row, (start, valid) in enumerate(zip(starts, valid_samples_N, strict=True)):
        pcm_NT[row, :valid] = pcm_T[start : start + valid]
    return SegmentBlock(
        pcm_NT=pcm_NT,
        valid_samples_N=valid_samples_N.astype(np.int64),
        key_N=np.array([segment_key(clip.split, clip.id, offset + start) for start in starts], np.uint64),
        start_N=np.array(starts, np.int64) + offset,
        active_floor_N=np.full(len(starts), _active_floor(piece, part, pcm_T), np.int64),
        clip_id_N=np.full(len(starts), clip.id, object),
        speaker_N=np.full(len(starts), clip.speaker, object),
    )


def shards_of_clips(parts: Iterable[Part]) -> dict[str, list[str]]:
    """Clip id -> names of the parts that it lies in."""
    names: defaultdict[str, list[str]] = defaultdict(list)
    for part in parts:
        for clip_id in dict.fromkeys(piece.clip.id for piece in part.pieces):
            names[clip_id].append(part.name)
    return dict(names)


def still_valid(
    before: Manifest, now: Manifest, lost: Iterable[str] = ()
) -> tuple[set[str], Mapping[str, list[str]]]:
    """Files that an earlier manifest's clips lie in and that `now` can keep, and the clips (id -> files) in them.

    A file is kept if every clip in it is still used, with the same sound, speaker and split, and it is not `lost`.
    """
    today = {clip.id: _identity(clip) for clip in now.clips if not clip.skip_reason}
    files_of = {clip.id: clip.shard.split() for clip in before.clips if not clip.skip_reason}
    changed = {
        clip.id for clip in before.clips if clip.id in files_of and today.get(clip.id) != _identity(clip)
    }
    stale = {name for clip_id in changed for name in files_of[clip_id]} | set(lost)
    while True:  # a clip over several files is kept with all of them or not at all
        grown = stale | {name for names in files_of.values() if stale & set(names) for name in names}
        if grown == stale:
            break
        stale = grown
    kept = {clip_id: names for clip_id, names in files_of.items() if names and not stale & set(names)}
    return {name for names in kept.values() for name in names}, kept


def _identity(clip: Clip) -> tuple[str, str, str, str]:
    return clip.role, clip.speaker, clip.split, clip.content_hash
