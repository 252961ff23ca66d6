"""From a manifest to a corpus on disk (see `ww_data.corpus`): its parts, stored mixtures, corpus.json at the end.

A run that was killed resumes where it stopped. A corpus may grow: files that it has stay as they are.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pyarrow as pa

from ww_data.corpus.corpus import Corpus, SplitSummary, open_corpus, read_corpus_file, write_corpus_file
from ww_data.corpus.stored_mixtures import read_sources
from ww_data.dsp import HIGH_PASS_HZ
from ww_data.manifest import SPLITS, CorpusError, Manifest
from ww_data.parallel import Executor, Progress, on_threads
from ww_data.storage import Storage
from ww_data.write.folder import alone, checked_folder, lost_files, open_storage
from ww_data.write.mixtures import read_candidates, write_mixtures
from ww_data.write.parts import PROGRESS_FOLDER, plan_parts, shards_of_clips, still_valid, write_part

_OWN_NAMES = re.compile(r"(speech|noise|rir|mixtures)/|manifest-|\.(corpus|manifest).*\.partial(\.|$)")


def write_corpus(
    manifest: Manifest,
    out_uri: str | os.PathLike[str],
    *,
    drop_missing: bool = False,
    executor: Executor = on_threads,
    progress: Progress | None = None,
    **settings: Any,
) -> Corpus:
    """Write the corpus of a manifest to a folder or address and open it; `settings` are those of `checked_settings`.

    Of a corpus of these settings that is there already, all files stay whose clips still are; clips that the manifest
    lacks are an error, unless `drop_missing`. `executor` spreads the work; `progress(done, total, what)` counts clips.
    Raises CorpusError if the folder holds anything else, or if a file changed since it was scanned.
    """
    with alone(open_storage(out_uri)):
        return write_corpus_alone(
            manifest, out_uri, drop_missing=drop_missing, executor=executor, progress=progress, **settings
        )


def write_corpus_alone(
    manifest: Manifest,
    out_uri: str | os.PathLike[str],
    *,
    drop_missing: bool,
    executor: Executor,
    progress: Progress | None,
    **settings: Any,
) -> Corpus:
    """`write_corpus` for who holds the folder already."""
    settings = checked_settings(**settings, seed=manifest.seed)
    manifest.check()
    storage = open_storage(out_uri)
    before = checked_folder(storage, settings)
    settings = settings if before is None else before.settings
    known = Manifest(clips=()) if before is None else before.manifest()
    lost = set() if before is None else lost_files(before)
    writer = _Writer(manifest, storage, settings, before, known, lost, drop_missing, executor, progress)
    if before is None or lost or not _is_written(manifest, known):
        writer.write()
    writer.remove_leftovers()
    return open_corpus(out_uri)


def checked_settings(
    *,
    sample_rate: int = 16000,
    segment_s: float = 4.0,
    num_val_mixtures: int = 60,
    num_test_mixtures: int = 120,
    eval_snr_db: Sequence[float] = (-5, 0, 5, 10, 15),
    seed: int = 0,
) -> dict[str, Any]:
    """What a corpus depends on beside its clips, as corpus.json holds it. Raises CorpusError for nonsense."""
    if not 0 <= seed < 1 << 32:
        raise CorpusError(f"the seed is {seed}: expected 0 to 2**32 - 1")
    if not 8000 <= sample_rate <= 96000:
        raise CorpusError(f"sample_rate is {sample_rate}: expected 8000 to 96000 Hz")
    if not 0.5 <= segment_s <= 60:
        raise CorpusError(f"segment_s is {segment_s}: expected 0.5 to 60 s")
    if min(num_val_mixtures, num_test_mixtures) < 1 or not eval_snr_db:
        raise CorpusError(
            f"{num_val_mixtures} val and {num_test_mixtures} test mixtures at {len(eval_snr_db)} SNRs: "
            "expected at least one of each"
        )
    if not all(-60 <= snr <= 120 for snr in eval_snr_db):
        raise CorpusError(f"the SNRs of the stored mixtures are {list(eval_snr_db)}: expected -60 to 120 dB")
    return {
        "sample_rate": sample_rate,
        "segment_s": float(segment_s),
        "num_mixtures": {"val": num_val_mixtures, "test": num_test_mixtures},
        "eval_snr_db": [float(snr) for snr in eval_snr_db],
        "seed": seed,
        "high_pass_hz": HIGH_PASS_HZ,
    }


def _is_written(manifest: Manifest, known: Manifest) -> bool:
    """Whether a corpus was written from just this manifest, files that were left out and their reasons included."""
    return manifest.clips == tuple(replace(clip, shard="") for clip in known.clips)


@dataclass
class _Writer:
    """One run of `write_corpus`."""

    manifest: Manifest
    storage: Storage
    settings: dict[str, Any]
    before: Corpus | None  # what lies there,
    known: Manifest  # its manifest,
    lost: set[str]  # and those of its files that are not there or not whole
    drop_missing: bool
    executor: Executor
    progress: Progress | None
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    num_mixtures: dict[str, int] = field(default_factory=dict)  # by split

    def write(self) -> None:
        self.sample_rate: int = self.settings["sample_rate"]
        self.segment_samples = round(self.settings["segment_s"] * self.sample_rate)
        self._write_parts(self._keep_files())
        corpus = Corpus(
            storage=self.storage,
            sample_rate=self.sample_rate,
            segment_samples=self.segment_samples,
            manifest_hash=self.manifest.hash,
            seed=self.manifest.seed,
            splits={},
            settings=self.settings,
            files=self.files,
        )
        for split in self.settings["num_mixtures"]:
            self._write_mixtures(corpus, split)
        content = self.manifest.to_parquet()
        self._write_named("manifest", content)
        write_corpus_file(replace(corpus, splits={split: self._summary(split) for split in SPLITS}))
        self.storage.write("manifest.parquet", content)  # for people: nothing reads it again

    def _keep_files(self) -> dict[str, list[str]]:
        """Take over what is still good of the corpus that is there: clip id -> the files it lies in."""
        if self.before is None:
            return {}
        now = {clip.id for clip in self.manifest.clips if not clip.skip_reason}
        missing = [clip for clip in self.known.clips if not clip.skip_reason and clip.id not in now]
        if missing and not self.drop_missing:
            raise CorpusError(
                f"{self.storage}: {len(missing)} files of the corpus there were not found again or cannot be used "
                f"(the first: {missing[0].path}): choose another folder, or drop them with --drop-missing"
            )
        names, kept = still_valid(self.known, self.manifest, self.lost)
        self.files |= {name: self.before.files[name] for name in sorted(names)}
        return dict(kept)

    def _write_parts(self, kept: dict[str, list[str]]) -> None:
        high_pass_hz = self.settings.get("high_pass_hz", 0.0)
        parts = plan_parts(self.manifest, self.sample_rate, self.segment_samples, kept, high_pass_hz)
        done, total = len(kept), self._num_used()
        for name, about, num_clips in self.executor(partial(write_part, self.storage), parts):
            self.files[name] = about
            done += num_clips
            if self.progress:
                self.progress(done, total, "writing shards")
        shards = kept | shards_of_clips(parts)
        clips = (replace(clip, shard=" ".join(shards.get(clip.id, []))) for clip in self.manifest.clips)
        self.manifest = replace(self.manifest, clips=tuple(clips))

    def _write_mixtures(self, corpus: Corpus, split: str) -> None:
        """The stored mixtures of a held-out split: those that are there, or new ones."""
        clips = {clip.id for role in ("speech", "noise") for clip in self.manifest.used(role, split)}
        if self.before is not None:
            name = self.before.mixtures_name(split)
            if name not in self.lost and read_sources(self.storage, name) <= clips & self._unchanged():
                self.files[name] = self.before.files[name]
                self.num_mixtures[split] = self.before.splits[split].num_mixtures
                return
        if self.progress:
            self.progress(self._num_used(), self._num_used(), f"mixing {split}")
        shards = [shard.name for shard in corpus.shards(split)]
        found = self.executor(partial(read_candidates, self.storage, self.sample_rate), shards)
        candidates = [candidate for of_shard in found for candidate in of_shard]
        candidates.sort(key=lambda candidate: (candidate.shard, candidate.row))
        content = pa.BufferOutputStream()
        self.num_mixtures[split] = write_mixtures(
            content,
            self.storage,
            candidates,
            corpus.noise_bank(split),
            split=split,
            num_mixtures=self.settings["num_mixtures"][split],
            snr_db=self.settings["eval_snr_db"],
            seed=self.manifest.seed,
            manifest_hash=self.manifest.hash,
        )
        self._write_named(f"mixtures/{split}", bytes(content.getvalue()))

    def _num_used(self) -> int:
        return sum(not clip.skip_reason for clip in self.manifest.clips)

    def _unchanged(self) -> set[str]:
        """Ids of the clips that still hold the sound that they held before."""
        before = {clip.id: clip.content_hash for clip in self.known.clips}
        return {clip.id for clip in self.manifest.clips if before.get(clip.id) == clip.content_hash}

    def _write_named(self, stem: str, content: bytes) -> None:
        """Write a file that is named after its content."""
        sha256 = hashlib.sha256(content).hexdigest()
        name = f"{stem}-{sha256[:20]}.parquet"
        self.storage.write(name, content)
        self.files[name] = {"bytes": len(content), "sha256": sha256}

    def _summary(self, split: str) -> SplitSummary:
        speech, noise = self.manifest.used("speech", split), self.manifest.used("noise", split)
        shards = [about for name, about in self.files.items() if name.startswith(f"speech/{split}/")]
        return SplitSummary(
            num_segments=sum(about["num_segments"] for about in shards),
            speech_hours=sum(clip.seconds for clip in speech) / 3600,
            num_speakers=len({clip.speaker for clip in speech}),
            noise_hours=sum(clip.seconds for clip in noise) / 3600,
            num_recordings=len({clip.speaker for clip in noise}),
            num_mixtures=self.num_mixtures.get(split, 0),
            num_rooms=len(self.manifest.used("rir", split)),
        )

    def remove_leftovers(self) -> None:
        """Files of earlier states of this corpus, and of runs that were killed."""
        files = read_corpus_file(self.storage.uri).files
        before = {} if self.before is None else self.before.files
        for file in list(self.storage.files()):
            # From afar, another run may be at work: only what is known to be old is removed.
            is_old = file.name in before or file.name.startswith(f"{PROGRESS_FOLDER}/")
            is_stray = self.storage.is_local and _OWN_NAMES.match(file.name)
            if (is_old or is_stray) and file.name not in files:
                self.storage.delete(file.name)
        if self.storage.is_local:
            leftover = self.storage.path(PROGRESS_FOLDER)
            if leftover.is_dir() and not any(leftover.iterdir()):
                leftover.rmdir()
