"""From a manifest to a corpus on disk: shards of speech, noise banks, fixed mixtures (see ww_data.corpus).

Everything is written to a folder beside the target that is renamed at the end: a run that dies leaves no
corpus, and a second run with the same manifest and settings finds the work done.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ww_data.activity import active_floor, activity
from ww_data.atomic import whole_folder
from ww_data.audio import AudioError, read_mono
from ww_data.corpus import (
    CORPUS_FILE,
    MANIFEST_FILE,
    Corpus,
    SplitSummary,
    local_path,
    open_corpus,
    sha256_of,
    write_corpus_file,
)
from ww_data.fixed_mixtures import Candidate, write_mixtures
from ww_data.keyed import keyed_order
from ww_data.manifest import Clip, CorpusError, Manifest, Progress
from ww_data.noise_bank import Int16Array, NoiseBank, write_noise_bank
from ww_data.parallel import ordered_map
from ww_data.segments import SegmentBlock, segment_key, segment_starts, write_shard
from ww_data.splits import SPLITS

# 256 segments of 4 s are 33 MB: quick to read, and a small corpus still has several shards.
_SHARD_SEGMENTS = 256


def write_shards(
    manifest: Manifest,
    out_uri: str | os.PathLike[str],
    *,
    sample_rate: int = 16000,
    segment_s: float = 4.0,
    num_val_mixtures: int = 60,
    num_test_mixtures: int = 120,
    eval_snr_db: Sequence[float] = (-5, 0, 5, 10, 15),
    progress: Progress | None = None,
) -> Corpus:
    """Write the corpus of a manifest to a folder and open it. Clips are made mono at `sample_rate` Hz.

    If the folder already holds just this corpus, nothing is written. Raises CorpusError if it holds anything
    else, or if a file changed since it was scanned. `progress(done, total, what)` counts clips and, at the
    end, mixtures files.
    """
    settings = _settings(manifest, sample_rate, segment_s, num_val_mixtures, num_test_mixtures, eval_snr_db)
    out = local_path(out_uri)
    if (out / CORPUS_FILE).exists():
        corpus = open_corpus(out)
        if (corpus.manifest_hash, corpus.settings) == (manifest.hash, settings):
            return corpus
        raise CorpusError(
            f"{out}: holds another corpus (other files or settings): choose another folder or remove it"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CorpusError(f"{out}: is not an empty folder: choose another one or remove it")
    with whole_folder(out) as partial:
        _Writer(manifest, partial, settings, progress).write()
    return open_corpus(out)


def _settings(
    manifest: Manifest,
    sample_rate: int,
    segment_s: float,
    num_val_mixtures: int,
    num_test_mixtures: int,
    eval_snr_db: Sequence[float],
) -> dict[str, Any]:
    """What a corpus depends on beside its clips, checked."""
    if not 8000 <= sample_rate <= 96000:
        raise CorpusError(f"sample_rate is {sample_rate}: expected 8000 to 96000 Hz")
    if not 0.5 <= segment_s <= 60:
        raise CorpusError(f"segment_s is {segment_s}: expected 0.5 to 60 s")
    if min(num_val_mixtures, num_test_mixtures) < 1 or not eval_snr_db:
        raise CorpusError(
            f"{num_val_mixtures} val and {num_test_mixtures} test mixtures at {len(eval_snr_db)} SNRs: "
            "expected at least one of each"
        )
    return {
        "sample_rate": sample_rate,
        "segment_s": float(segment_s),
        "num_mixtures": {"val": num_val_mixtures, "test": num_test_mixtures},
        "eval_snr_db": [float(snr) for snr in eval_snr_db],
        "seed": manifest.seed,
    }


@dataclass
class _Writer:
    """One run of `write_shards` into an empty folder."""

    manifest: Manifest
    folder: Path
    settings: dict[str, Any]
    progress: Progress | None
    num_done: int = 0

    def write(self) -> None:
        self.sample_rate: int = self.settings["sample_rate"]
        self.segment_samples = round(self.settings["segment_s"] * self.sample_rate)
        self.num_segments: dict[str, int] = {}  # of each shard, by its path in the corpus
        self.manifest.write(self.folder / MANIFEST_FILE)
        for part in ("noise", "mixtures", *(f"speech/{split}" for split in SPLITS)):
            (self.folder / part).mkdir(parents=True)
        splits = {split: self._write_split(split) for split in SPLITS}
        corpus = Corpus(
            path=self.folder,
            sample_rate=self.sample_rate,
            segment_samples=self.segment_samples,
            manifest_hash=self.manifest.hash,
            seed=self.manifest.seed,
            splits=splits,
            settings=self.settings,
            files={},
        )
        write_corpus_file(replace(corpus, files=self._files()))

    def _write_split(self, split: str) -> SplitSummary:
        speech, noise = self.manifest.used("speech", split), self.manifest.used("noise", split)
        noise = sorted(noise, key=lambda clip: (clip.speaker, clip.id))
        bank_path = self.folder / f"noise/{split}.arrow"
        write_noise_bank(
            bank_path, ((clip.id, clip.speaker, pcm_T) for clip, pcm_T in self._pcm(noise)), self.sample_rate
        )
        candidates = self._write_speech(split, speech)
        num_mixtures = self.settings["num_mixtures"].get(split, 0)
        if num_mixtures:
            self._tell(f"mixing {split}", advance=0)
            write_mixtures(
                self.folder / f"mixtures/{split}.parquet",
                candidates,
                NoiseBank(bank_path),
                split=split,
                num_mixtures=num_mixtures,
                snr_db=self.settings["eval_snr_db"],
                seed=self.manifest.seed,
            )
        return SplitSummary(
            num_segments=sum(count for name, count in self.num_segments.items() if f"/{split}/" in name),
            speech_hours=sum(clip.seconds for clip in speech) / 3600,
            num_speakers=len({clip.speaker for clip in speech}),
            noise_hours=sum(clip.seconds for clip in noise) / 3600,
            num_recordings=len({clip.speaker for clip in noise}),
            num_mixtures=num_mixtures,
        )

    def _write_speech(self, split: str, clips: Sequence[Clip]) -> list[Candidate]:
        """Write a split's shards, clips in shuffled order; returns what fixed mixtures may be made of."""
        shuffled = sorted(clips, key=lambda clip: keyed_order(self.manifest.seed, clip.id))
        candidates: list[Candidate] = []
        waiting: list[SegmentBlock] = []
        for clip, pcm_T in self._pcm(shuffled):
            waiting.append(_segments(clip, pcm_T, self.segment_samples, self.sample_rate))
            if sum(map(len, waiting)) >= _SHARD_SEGMENTS:
                block = SegmentBlock.concatenate(waiting)
                whole = len(block) // _SHARD_SEGMENTS * _SHARD_SEGMENTS
                for first in range(0, whole, _SHARD_SEGMENTS):
                    candidates += self._write_shard(split, block.take(slice(first, first + _SHARD_SEGMENTS)))
                waiting = [block.take(slice(whole, None))]
        rest = SegmentBlock.concatenate(waiting)
        return candidates + (self._write_shard(split, rest) if len(rest) else [])

    def _write_shard(self, split: str, block: SegmentBlock) -> list[Candidate]:
        index = sum(f"/{split}/" in name for name in self.num_segments)
        name = f"speech/{split}/shard-{index:05d}.parquet"
        write_shard(self.folder / name, block)
        self.num_segments[name] = len(block)
        if split == "train":
            return []
        return [
            Candidate(
                shard=self.folder / name,
                row=row,
                key=int(block.key_N[row]),
                speaker=str(block.speaker_N[row]),
                activity=activity(block.pcm_NS[row], self.sample_rate, int(block.active_floor_N[row])),
                valid_fraction=int(block.valid_samples_N[row]) / self.segment_samples,
            )
            for row in range(len(block))
        ]

    def _pcm(self, clips: Sequence[Clip]) -> Iterator[tuple[Clip, Int16Array]]:
        """Clips with their samples at the corpus's rate, decoded ahead on all cores."""
        for clip, pcm_T in zip(clips, ordered_map(self._read, clips), strict=True):
            self._tell(f"writing {clip.id}")
            yield clip, pcm_T

    def _read(self, clip: Clip) -> Int16Array:
        try:
            return to_pcm(read_mono(clip.path, self.sample_rate))
        except AudioError as error:
            raise CorpusError(f"{error} (it was readable when the folders were scanned)") from error

    def _tell(self, what: str, advance: int = 1) -> None:
        self.num_done += advance
        if self.progress:
            total = sum(not clip.skip_reason for clip in self.manifest.clips)
            self.progress(self.num_done, total, what)

    def _files(self) -> dict[str, dict[str, Any]]:
        files = {}
        for path in sorted(self.folder.rglob("*")):
            if path.is_file():
                name = path.relative_to(self.folder).as_posix()
                files[name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
                if name in self.num_segments:
                    files[name]["num_segments"] = self.num_segments[name]
        return files


def to_pcm(x_T: np.ndarray) -> Int16Array:
    """int16 PCM of samples at full scale +-1. Clips that leave it (by resampling) are scaled, not cut off."""
    full_scale = 32768 * x_T
    highest, lowest = float(full_scale.max(initial=0.0)), float(full_scale.min(initial=0.0))
    full_scale = full_scale * min(1.0, 32767 / max(highest, 1.0), -32768 / min(lowest, -1.0))
    return np.rint(full_scale).astype(np.int16)


def _segments(clip: Clip, pcm_T: Int16Array, segment_samples: int, sample_rate: int) -> SegmentBlock:
    """Cut one clip into its segments."""
    starts = list(segment_starts(len(pcm_T), segment_samples))
    pcm_NS = np.zeros((len(starts), segment_samples), np.int16)
    valid_samples_N = np.minimum(len(pcm_T) - np.array(starts), segment_samples)
    for row, (start, valid) in enumerate(zip(starts, valid_samples_N, strict=True)):
        pcm_NS[row, :valid] = pcm_T[start : start + valid]
    return SegmentBlock(
        pcm_NS=pcm_NS,
        valid_samples_N=valid_samples_N.astype(np.int64),
        key_N=np.array([segment_key(clip.split, clip.id, start) for start in starts], np.uint64),
        start_N=np.array(starts, np.int64),
        active_floor_N=np.full(len(starts), active_floor(pcm_T, sample_rate), np.int64),
        clip_id_N=np.full(len(starts), clip.id, object),
        speaker_N=np.full(len(starts), clip.speaker, object),
    )
