"""From folders of speech and noise to a manifest: what there is, who speaks, and which split it belongs to.

No speaker and no noise recording is in two splits. A file that cannot be used stays listed with the reason.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ww_data.audio import AudioError, iter_blocks, open_audio
from ww_data.audio_files import Found, Grouping, find_audio
from ww_data.parallel import ordered_map
from ww_data.splits import SPLITS, assign_splits

Role = Literal["speech", "noise"]
Progress = Callable[[int, int, str], None]
Folders = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

ROLES: tuple[Role, ...] = ("speech", "noise")
MIN_SECONDS: dict[Role, float] = {"speech": 0.5, "noise": 0.1}
SILENT_BELOW_DBFS = -80.0
_FORMAT_VERSION = 1
_METADATA_KEY = b"wave_wizard_manifest"


class CorpusError(ValueError):
    """A corpus, or folders meant to become one, that cannot be used. One line: what came, what to do."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One audio file. For noise, `speaker` is the recording; `split` is empty where `skip_reason` is not."""

    id: str
    path: str
    role: str
    speaker: str
    sample_rate: int = 0
    num_frames: int = 0
    num_channels: int = 0
    seconds: float = 0.0
    split: str = ""
    level_dbfs: float = float("-inf")
    content_hash: str = ""
    skip_reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All clips of a corpus, sorted by role and id, and the seed that dealt them to the splits."""

    clips: tuple[Clip, ...]
    seed: int = 0

    def used(self, role: str, split: str) -> list[Clip]:
        """The usable clips of a role ("speech", "noise") in a split ("train", "val", "test")."""
        return [clip for clip in self.clips if clip.role == role and clip.split == split]

    @property
    def skipped(self) -> list[Clip]:
        """The clips that are not used, each with its `skip_reason`."""
        return [clip for clip in self.clips if clip.skip_reason]

    @cached_property
    def hash(self) -> str:
        """Hash of what is used and how it is split; where the files lie does not count."""
        digest = hashlib.blake2b(digest_size=16)
        for clip in self.clips:
            if not clip.skip_reason:
                parts = [clip.id, clip.role, clip.speaker, clip.split, clip.content_hash]
                digest.update(json.dumps(parts).encode())
        return digest.hexdigest()

    def summary(self) -> str:
        """A few lines for a person: minutes, files and speakers per split, then what was skipped and why."""
        lines = []
        for role, group in (("speech", "speakers"), ("noise", "recordings")):
            for split in SPLITS:
                clips = self.used(role, split)
                minutes = sum(clip.seconds for clip in clips) / 60
                num_groups = len({clip.speaker for clip in clips})
                lines.append(
                    f"{role:6} {split:5} {minutes:8.1f} min {len(clips):6} files {num_groups:5} {group}"
                )
        reasons = Counter(clip.skip_reason.split(" (")[0] for clip in self.skipped)
        lines += [f"skipped {count} x {reason}" for reason, count in reasons.most_common()]
        return "\n".join(lines)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write as Parquet, one row per clip (`pandas.read_parquet(path)` reads it)."""
        table = pa.Table.from_pylist([asdict(clip) for clip in self.clips], schema=_SCHEMA)
        about = json.dumps({"format_version": _FORMAT_VERSION, "seed": self.seed, "hash": self.hash})
        temporary = Path(f"{os.fspath(path)}.{os.getpid()}.partial")
        try:
            pq.write_table(table.replace_schema_metadata({_METADATA_KEY: about.encode()}), temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Manifest:
        """Read what `write` wrote. Raises CorpusError if it is missing, damaged or of a newer format."""
        try:
            table = pq.read_table(path)
            about = json.loads((table.schema.metadata or {})[_METADATA_KEY])
            if about["format_version"] > _FORMAT_VERSION:
                raise CorpusError(f"{path}: was written by a newer version of Wave Wizard: update this one")
            manifest = cls(clips=tuple(Clip(**row) for row in table.to_pylist()), seed=about["seed"])
        except (OSError, KeyError, TypeError, pa.ArrowException, json.JSONDecodeError) as error:
            first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CorpusError(
                f"{path}: is not a readable manifest ({first_line}): prepare the corpus again"
            ) from error
        if manifest.hash != about["hash"]:
            raise CorpusError(f"{path}: does not hold what was written to it: prepare the corpus again")
        return manifest


_ARROW_TYPES = {"str": pa.string(), "int": pa.int64(), "float": pa.float64()}
_SCHEMA = pa.schema([(field.name, _ARROW_TYPES[str(field.type)]) for field in fields(Clip)])


def scan_corpus(
    speech_dirs: Folders,
    noise_dirs: Folders,
    *,
    speaker_from: Grouping = "auto",
    recording_from: Grouping = "file",
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    seed: int = 0,
    progress: Progress | None = None,
) -> Manifest:
    """Read every audio file below the folders once and deal speakers and noise recordings to the splits.

    `speaker_from` and `recording_from` say what makes a group that must stay in one split: "folder" (the
    first sub-folder), "prefix" (the file name up to `__`, `_` or `-`), "file", or "auto" (the folder, if
    there are sub-folders, else the prefix). Levels are over all channels and the whole file. `progress(done,
    total, what)`.

    Raises CorpusError for a missing folder, no usable audio, or fewer than three speakers or recordings.
    """
    _check_fractions(val_fraction, test_fraction)
    found: list[tuple[Role, Found]] = []
    found += [("speech", item) for item in _find("speech", speech_dirs, speaker_from)]
    found += [("noise", item) for item in _find("noise", noise_dirs, recording_from)]
    clips = []
    for index, clip in enumerate(ordered_map(lambda item: _inspect(*item), found)):
        clips.append(clip)
        if progress:
            progress(index + 1, len(found), f"reading {clip.id}")
    clips = _skip_duplicates(clips)
    for role, grouping_option in (("speech", "speaker_from"), ("noise", "recording_from")):
        clips = _deal(clips, role, grouping_option, val_fraction, test_fraction, seed)
    return Manifest(clips=tuple(clips), seed=seed)


def _check_fractions(val_fraction: float, test_fraction: float) -> None:
    if not (val_fraction > 0 and test_fraction > 0 and val_fraction + test_fraction < 1):
        raise CorpusError(
            f"val_fraction is {val_fraction} and test_fraction {test_fraction}: "
            "expected each above 0 and their sum below 1"
        )


def _find(role: Role, folders: Folders, grouping: Grouping) -> list[Found]:
    """The audio files of one role, sorted by id; ids are paths below the root they were found in."""
    roots = [folders] if isinstance(folders, (str, os.PathLike)) else list(folders)
    if not roots:
        raise CorpusError(f"no folder of {role} was given")
    found: dict[str, Found] = {}
    for root in map(Path, roots):
        if not root.is_dir():
            raise CorpusError(f"{root}: is not a folder of {role} that can be read: check the path")
        for item in find_audio(root, grouping):
            number = 1
            name = item.name
            while name in found:  # the same relative path below several roots
                number += 1
                name = f"{item.name}#{number}"
            found[name] = replace(item, name=name, group=name if grouping == "file" else item.group)
    if not found:
        raise CorpusError(
            f"no audio file was found for {role} below {', '.join(str(root) for root in roots)}"
        )
    return [found[name] for name in sorted(found)]


def _inspect(role: Role, found: Found) -> Clip:
    """Read one file to its end, block by block: length, level and content hash, or why it cannot be used."""
    clip = Clip(id=f"{role}/{found.name}", path=found.shown_path, role=role, speaker=found.group)
    if found.skip_reason:
        return replace(clip, skip_reason=found.skip_reason)
    digest = hashlib.blake2b(digest_size=16)
    energy, num_frames = 0.0, 0
    try:
        with open_audio(found.path) as file:
            sample_rate, num_channels = int(file.samplerate), int(file.channels)
            for block in iter_blocks(file, ""):
                digest.update(np.ascontiguousarray(block).data)
                energy += float(np.square(block, dtype=np.float64).sum())
                num_frames += len(block)
    except AudioError as error:
        return replace(clip, skip_reason=str(error).removeprefix(found.shown_path).removeprefix(": "))
    digest.update(f"{sample_rate} {num_channels}".encode())
    mean_square = energy / (num_frames * num_channels)
    clip = replace(
        clip,
        sample_rate=sample_rate,
        num_frames=num_frames,
        num_channels=num_channels,
        seconds=num_frames / sample_rate,
        level_dbfs=float(10 * np.log10(mean_square)) if mean_square > 0 else float("-inf"),
        content_hash=digest.hexdigest(),
    )
    return replace(clip, skip_reason=_why_useless(clip, role))


def _why_useless(clip: Clip, role: Role) -> str:
    if clip.seconds < MIN_SECONDS[role]:
        return f"too short ({clip.seconds:.3f} s, at least {MIN_SECONDS[role]} s of {role} are needed)"
    if clip.level_dbfs < SILENT_BELOW_DBFS:
        return f"silent ({clip.level_dbfs:.0f} dBFS, below {SILENT_BELOW_DBFS:.0f})"
    return ""


def _skip_duplicates(clips: Iterable[Clip]) -> list[Clip]:
    """Keep the first of several clips with the same samples: copies would let a split leak into another."""
    first: dict[str, str] = {}
    kept = []
    for clip in clips:
        if not clip.skip_reason and first.setdefault(clip.content_hash, clip.id) != clip.id:
            clip = replace(clip, skip_reason=f"same sound as another file ({first[clip.content_hash]})")
        kept.append(clip)
    return kept


def _deal(
    clips: list[Clip], role: str, option: str, val_fraction: float, test_fraction: float, seed: int
) -> list[Clip]:
    """Give each usable clip of a role its split."""
    group_seconds: defaultdict[str, float] = defaultdict(float)
    for clip in clips:
        if clip.role == role and not clip.skip_reason:
            group_seconds[clip.speaker] += clip.seconds
    if len(group_seconds) < len(SPLITS):
        raise CorpusError(_too_few(clips, role, option, sorted(group_seconds)))
    split_of = assign_splits(group_seconds, val_fraction=val_fraction, test_fraction=test_fraction, seed=seed)
    return [
        replace(clip, split=split_of[clip.speaker]) if clip.role == role and not clip.skip_reason else clip
        for clip in clips
    ]


def _too_few(clips: Iterable[Clip], role: str, option: str, groups: Sequence[str]) -> str:
    what = "speakers" if role == "speech" else "recordings"
    of_role = [clip for clip in clips if clip.role == role]
    skipped = [clip for clip in of_role if clip.skip_reason]
    text = f"{role}: {len(SPLITS)} {what} are needed, one for each split, but {len(groups)} were found"
    text += f" ({', '.join(groups)})" if groups else ""
    text += f" in {len(of_role) - len(skipped)} usable files"
    if skipped:
        text += f" ({len(skipped)} skipped, the first, {skipped[0].id}: {skipped[0].skip_reason})"
    return f"{text}: add {what} or say how they are told apart ({option}: folder, prefix or file)"
