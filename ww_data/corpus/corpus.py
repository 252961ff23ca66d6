"""A prepared corpus on disk: what `write_corpus` makes and everything else reads.

corpus.json                       written last: without it there is no corpus
manifest-<hash>.parquet           every clip, its split and the files it lies in, or why it is not used
manifest.parquet                  the same, for people
speech/<split>/<hash>.parquet     shards of segments (see ww_data.corpus.segments)
noise/<split>/<hash>.arrow        the noise bank (see ww_data.corpus.banks)
rir/<split>/<hash>.arrow          responses of rooms, if there are any (see ww_data.corpus.rooms)
mixtures/{val,test}-<hash>.parquet   stored mixtures (see ww_data.corpus.stored_mixtures)

It lies in a folder or behind an address (see ww_data.storage). A file's name changes with its content, so nothing is
ever written over, and a copy of a file never grows old.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from ww_data.corpus.banks import NoiseBank
from ww_data.corpus.rooms import RoomBank
from ww_data.corpus.stored_mixtures import StoredMixtures
from ww_data.manifest import SPLITS, CorpusError, Manifest
from ww_data.storage import Storage, StorageError, first_line

Bank = TypeVar("Bank")

FORMAT = "wave-wizard corpus"
FORMAT_VERSION = 2
CORPUS_FILE = "corpus.json"


class DamagedCorpusError(CorpusError):
    """A `corpus.json` or a manifest that cannot be read."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One Parquet file of segments, by its name in the corpus."""

    name: str
    num_segments: int


@dataclass(frozen=True, kw_only=True)
class SplitSummary:
    """How much there is in a split. Hours are those of the recordings."""

    num_segments: int
    speech_hours: float
    num_speakers: int
    noise_hours: float
    num_recordings: int
    num_mixtures: int
    num_rooms: int = 0


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """An open corpus. `splits` has "train", "val" and "test"; `settings` is what it was written with."""

    storage: Storage
    sample_rate: int
    segment_samples: int
    manifest_hash: str
    seed: int
    splits: dict[str, SplitSummary]
    settings: dict[str, Any]
    files: dict[str, dict[str, Any]]  # relative path -> {"bytes", "sha256"} and, for shards, {"num_segments"}

    @property
    def segment_s(self) -> float:
        """Seconds of a segment."""
        return self.segment_samples / self.sample_rate

    @property
    def high_pass_hz(self) -> float:
        """Below it there is nothing in speech and noise; 0 in corpora of earlier versions, which may hold offsets."""
        return float(self.settings.get("high_pass_hz", 0.0))

    def shards(self, split: str) -> list[Shard]:
        """The shards of a split, in the order that a `Plan` counts them."""
        return [
            Shard(name=name, num_segments=self.files[name]["num_segments"])
            for name in self._names("speech", split)
        ]

    def noise_bank(self, split: str) -> NoiseBank:
        """A split's noise bank, memory-mapped; from afar, its files are fetched once for all processes of a machine."""
        return self._bank(NoiseBank, self._names("noise", split))

    def rooms(self, split: str) -> RoomBank | None:
        """A split's responses of rooms; None if the corpus has none there."""
        names = self._names("rir", split)
        return self._bank(RoomBank, names) if names else None

    def mixtures_name(self, split: str) -> str:
        """The Parquet file of a held-out split's stored mixtures ("val" or "test")."""
        if split not in ("val", "test"):
            raise CorpusError(f"there are stored mixtures for 'val' and 'test', not for {split!r}")
        return next(name for name in self.files if name.startswith(f"mixtures/{split}-"))

    @property
    def manifest_name(self) -> str:
        """The Parquet file of the manifest."""
        return next(name for name in self.files if name.startswith("manifest-"))

    def mixtures(self, split: str) -> StoredMixtures:
        """A held-out split's stored mixtures; from afar, their file is fetched once."""
        return StoredMixtures(self._on_this_machine(self.mixtures_name(split)))

    def manifest(self) -> Manifest:
        """The manifest that the corpus was written from."""
        try:
            return Manifest.read(self._on_this_machine(self.manifest_name))
        except (CorpusError, OSError) as error:
            raise DamagedCorpusError(str(error)) from error

    def verify(self) -> None:
        """Read every file and compare its checksum. Raises CorpusError for the first that differs."""
        for name, about in self.files.items():
            with self.storage.open(name) as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest != about["sha256"]:
                raise CorpusError(
                    f"{self.storage.address(name)}: is damaged (wrong checksum): prepare the corpus again"
                )

    def summary(self) -> str:
        """A few lines for a person."""
        lines = [f"{self.storage}: {self.sample_rate} Hz, segments of {self.segment_s:g} s"]
        for split, about in self.splits.items():
            lines.append(
                f"{split:5} speech {about.speech_hours:.2f} h, {about.num_speakers} speakers, "
                f"{about.num_segments} segments; "
                f"noise {about.noise_hours:.2f} h, {about.num_recordings} recordings"
                + (f"; {about.num_rooms} room responses" if about.num_rooms else "")
            )
        return "\n".join(lines)

    def _names(self, role: str, split: str) -> list[str]:
        if split not in SPLITS:
            raise CorpusError(f"there is no split {split!r}: expected 'train', 'val' or 'test'")
        return sorted(name for name in self.files if name.startswith(f"{role}/{split}/"))

    def _on_this_machine(self, name: str) -> Path:
        return self.storage.on_this_machine(name, self.files[name]["sha256"])

    def _bank(self, bank: Callable[[list[Path]], Bank], names: list[str]) -> Bank:
        try:
            return bank([self._on_this_machine(name) for name in names])
        except (OSError, pa.ArrowException) as error:
            first = self.storage.address(names[0])
            raise CorpusError(
                f"{first}: is damaged ({first_line(error)}): prepare the corpus again"
            ) from error


def open_corpus(uri: str | os.PathLike[str]) -> Corpus:
    """Open a corpus: reads `corpus.json` and checks that all files have their size.

    Raises CorpusError, one line, if it is missing, damaged, cut short or of another format.
    """
    corpus = read_corpus_file(uri)
    storage = corpus.storage
    there = {file.name: file.size_bytes for file in storage.files()}
    for name, about in corpus.files.items():
        size, address = about["bytes"], storage.address(name)
        if name not in there:
            raise CorpusError(f"{address}: is missing: prepare the corpus again")
        if there[name] != size:
            raise CorpusError(
                f"{address}: is damaged ({there[name]} of {size} bytes): prepare the corpus again"
            )
    return corpus


def read_corpus_file(uri: str | os.PathLike[str]) -> Corpus:
    """The corpus that `corpus.json` describes, whether or not all of its files are there. Raises like `open_corpus`."""
    try:
        storage = Storage(uri)
        text = storage.read(CORPUS_FILE)
    except StorageError as error:
        raise CorpusError(str(error)) from error
    except OSError as error:
        why = error.strerror or first_line(error)
        raise CorpusError(
            f"{uri}: holds no corpus ({CORPUS_FILE}: {why}): prepare one with jobs.prepare"
        ) from error
    address = storage.address(CORPUS_FILE)
    try:
        return _parse(storage, text)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, CorpusError):
            raise
        raise DamagedCorpusError(
            f"{address}: is damaged ({first_line(error)}): prepare the corpus again"
        ) from error


def _parse(storage: Storage, text: bytes) -> Corpus:
    """The corpus that `corpus.json` describes; whatever error comes of damage is left to the caller."""
    about = json.loads(text)
    address = storage.address(CORPUS_FILE)
    if about["format"] != FORMAT:
        raise CorpusError(f"{address}: is not a Wave Wizard corpus (format {about['format']!r})")
    if about["format_version"] < FORMAT_VERSION:
        raise CorpusError(f"{address}: is of an earlier version: prepare the corpus again in another folder")
    if about["format_version"] > FORMAT_VERSION:
        raise CorpusError(
            f"{address}: has format {about['format_version']}, not {FORMAT_VERSION}: "
            "update Wave Wizard or prepare the corpus again"
        )
    return Corpus(
        storage=storage,
        sample_rate=int(about["sample_rate"]),
        segment_samples=int(about["segment_samples"]),
        manifest_hash=str(about["manifest_hash"]),
        seed=int(about["seed"]),
        splits={split: SplitSummary(**summary) for split, summary in about["splits"].items()},
        settings=dict(about["settings"]),
        files={name: {**file, "bytes": int(file["bytes"])} for name, file in about["files"].items()},
    )


def write_corpus_file(corpus: Corpus) -> None:
    """Write `corpus.json`: the mark that everything else is in place."""
    about: dict[str, Any] = {"format": FORMAT, "format_version": FORMAT_VERSION}
    about |= {field.name: getattr(corpus, field.name) for field in fields(corpus) if field.name != "storage"}
    about["splits"] = {split: asdict(summary) for split, summary in corpus.splits.items()}
    corpus.storage.write(CORPUS_FILE, json.dumps(about, indent=1).encode())
