"""A prepared corpus on disk: what `write_shards` makes and everything else reads.

manifest.parquet                  every clip, its split, or why it is not used
speech/<split>/shard-00000.parquet   segments of speech (see ww_data.segments)
noise/<split>.arrow               the noise bank (see ww_data.noise_bank)
mixtures/{val,test}.parquet       fixed mixtures (see ww_data.fixed_mixtures)
corpus.json                       written last: without it there is no corpus
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ww_data.manifest import CorpusError, Manifest
from ww_data.noise_bank import NoiseBank

FORMAT = "wave-wizard corpus"
FORMAT_VERSION = 1
CORPUS_FILE = "corpus.json"
MANIFEST_FILE = "manifest.parquet"


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One Parquet file of segments."""

    path: Path
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


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """An open corpus. `splits` has "train", "val" and "test"; `settings` is what it was written with."""

    path: Path
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

    def shards(self, split: str) -> list[Shard]:
        """The shards of a split, in the order that a `Plan` counts them."""
        self._check_split(split)
        return [
            Shard(path=self.path / name, num_segments=about["num_segments"])
            for name, about in sorted(self.files.items())
            if name.startswith(f"speech/{split}/")
        ]

    def noise_path(self, split: str) -> Path:
        """The file of a split's noise bank."""
        self._check_split(split)
        return self.path / f"noise/{split}.arrow"

    def noise_bank(self, split: str) -> NoiseBank:
        """A split's noise bank, memory-mapped."""
        path = self.noise_path(split)
        try:
            return NoiseBank(path)
        except (OSError, pa.ArrowException) as error:
            raise CorpusError(
                f"{path}: is damaged ({_first_line(error)}): prepare the corpus again"
            ) from error

    def mixtures_path(self, split: str) -> Path:
        """The Parquet file of a held-out split's fixed mixtures ("val" or "test")."""
        if split not in ("val", "test"):
            raise CorpusError(f"there are fixed mixtures for 'val' and 'test', not for {split!r}")
        return self.path / f"mixtures/{split}.parquet"

    def manifest(self) -> Manifest:
        """The manifest that the corpus was written from."""
        return Manifest.read(self.path / MANIFEST_FILE)

    def verify(self) -> None:
        """Read every file and compare its checksum. Raises CorpusError for the first that differs."""
        for name, about in self.files.items():
            if sha256_of(self.path / name) != about["sha256"]:
                raise CorpusError(
                    f"{self.path / name}: is damaged (wrong checksum): prepare the corpus again"
                )

    def summary(self) -> str:
        """A few lines for a person."""
        lines = [f"{self.path}: {self.sample_rate} Hz, segments of {self.segment_s:g} s"]
        for split, about in self.splits.items():
            lines.append(
                f"{split:5} speech {about.speech_hours:.2f} h, {about.num_speakers} speakers, "
                f"{about.num_segments} segments; "
                f"noise {about.noise_hours:.2f} h, {about.num_recordings} recordings"
            )
        return "\n".join(lines)

    @staticmethod
    def _check_split(split: str) -> None:
        if split not in ("train", "val", "test"):
            raise CorpusError(f"there is no split {split!r}: expected 'train', 'val' or 'test'")


def open_corpus(uri: str | os.PathLike[str]) -> Corpus:
    """Open a corpus that `write_shards` wrote; reads `corpus.json` and checks that all files have their size.

    Raises CorpusError, one line, if it is missing, damaged, cut short or of a newer format.
    """
    path = local_path(uri)
    corpus_file = path / CORPUS_FILE
    try:
        text = corpus_file.read_bytes()
    except OSError as error:
        raise CorpusError(
            f"{path}: holds no corpus ({CORPUS_FILE}: {error.strerror}): prepare one with jobs.prepare"
        ) from error
    try:
        corpus = _parse(path, text)
        sizes = {name: int(file["bytes"]) for name, file in corpus.files.items()}
    except CorpusError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CorpusError(
            f"{corpus_file}: is damaged ({_first_line(error)}): prepare the corpus again"
        ) from error
    for name, size in sizes.items():
        file = path / name
        if not file.is_file():
            raise CorpusError(f"{file}: is missing: prepare the corpus again")
        if file.stat().st_size != size:
            raise CorpusError(
                f"{file}: is damaged ({file.stat().st_size} of {size} bytes): prepare the corpus again"
            )
    return corpus


def _parse(path: Path, text: bytes) -> Corpus:
    """The corpus that `corpus.json` describes; whatever error comes of damage is left to the caller."""
    about = json.loads(text)
    if about["format"] != FORMAT:
        raise CorpusError(f"{path / CORPUS_FILE}: is not a Wave Wizard corpus (format {about['format']!r})")
    if about["format_version"] > FORMAT_VERSION:
        raise CorpusError(
            f"{path / CORPUS_FILE}: has format {about['format_version']}, not {FORMAT_VERSION}: "
            "update Wave Wizard or prepare the corpus again"
        )
    return Corpus(
        path=path,
        sample_rate=int(about["sample_rate"]),
        segment_samples=int(about["segment_samples"]),
        manifest_hash=str(about["manifest_hash"]),
        seed=int(about["seed"]),
        splits={split: SplitSummary(**summary) for split, summary in about["splits"].items()},
        settings=dict(about["settings"]),
        files=dict(about["files"]),
    )


def write_corpus_file(corpus: Corpus) -> None:
    """Write `corpus.json`: the mark that everything else is in place."""
    about: dict[str, Any] = {"format": FORMAT, "format_version": FORMAT_VERSION} | asdict(corpus)
    del about["path"]
    temporary = corpus.path / f".{CORPUS_FILE}.partial"
    temporary.write_text(json.dumps(about, indent=1))
    temporary.replace(corpus.path / CORPUS_FILE)


def local_path(uri: str | os.PathLike[str]) -> Path:
    """The path that a corpus URI names: a plain path or file:///..."""
    text = os.fspath(uri)
    if text.startswith("file://"):
        return Path(text.removeprefix("file://"))
    if "://" in text:
        raise CorpusError(
            f"{text}: a corpus must lie in a folder that every node can reach, such as /mnt/shared/corpus"
        )
    return Path(text).absolute()


def sha256_of(path: Path) -> str:
    """Checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
