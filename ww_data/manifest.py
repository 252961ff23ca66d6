"""The manifest of a corpus: every clip, who speaks, its split or why it is left out; one Parquet file."""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ww_data.storage import first_line

Role = Literal["speech", "noise", "rir"]

ROLES: tuple[Role, ...] = get_args(Role)
SPLITS = ("train", "val", "test")
# What a group of each role is called: `Clip.speaker` names the group, which is never in two splits.
GROUP_WORDS: dict[str, str] = {"speech": "speakers", "noise": "recordings", "rir": "rooms"}
_FORMAT_VERSION = 2
_METADATA_KEY = b"wave_wizard_manifest"


class CorpusError(ValueError):
    """A corpus, or folders meant to become one, that cannot be used. One line: what came, what to do."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One sound: an audio file or, for the noise of a recorded pair, the noisy file minus the clean one.

    Exactly one of `split` and `skip_reason` is empty. Lengths and levels are those of the file as it is.
    """

    id: str  # role/path below its root
    path: str  # or address, such as s3://bucket/corpus/a.wav
    role: str  # "speech", "noise" or "rir" (room impulse response)
    speaker: str  # for noise the recording, for impulse responses the room
    sample_rate: int = 0  # Hz
    num_frames: int = 0
    num_channels: int = 0
    seconds: float = 0.0
    split: str = ""
    level_dbfs: float = float("-inf")  # over all channels, without their constant parts
    peak: float = 0.0  # at full scale 1, channels averaged (rir: channel 0); the larger one of a pair's files
    offset: float = (
        0.0  # the largest constant part of a channel, at full scale 1; of a pair's, the larger one
    )
    content_hash: str = ""  # of its sound
    sample_hash: str = ""  # of some bytes of its file, or of both
    skip_reason: str = ""
    layout: str = ""  # of the corpus that it was found in: "folder", "librispeech", ...
    size_bytes: int = 0  # of both files, where there is a `minus`
    modified_ns: int = 0  # since 1970; where there is a `minus`, a number that changes with either file
    minus: str = ""  # path or address of the clean file to subtract, sample by sample
    shard: str = ""  # the files of the corpus that it lies in, with spaces between

    @property
    def name(self) -> str:
        """Its id without the role: both sides of a pair have the same name."""
        return self.id.partition("/")[2]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All clips of a corpus, sorted by role and id, and the seed of their splits; `notes` are not written."""

    clips: tuple[Clip, ...]
    seed: int = 0
    notes: tuple[str, ...] = field(default=(), compare=False)

    def used(self, role: str, split: str) -> list[Clip]:
        """The usable clips of a role ("speech", "noise", "rir") in a split ("train", "val", "test")."""
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

    def check(self) -> None:
        """Raises CorpusError if a speaker, recording, room or the same sound is used in two splits."""
        first: dict[tuple[str, str], Clip] = {}
        for clip in self.clips:
            if clip.skip_reason:
                continue
            if clip.role not in ROLES or clip.split not in SPLITS:
                raise CorpusError(
                    f"{clip.id}: has role {clip.role!r} and split {clip.split!r}: expected a role of "
                    f"{', '.join(ROLES)} and a split of {', '.join(SPLITS)}"
                )
            for what, key in (
                (f"{GROUP_WORDS[clip.role].removesuffix('s')} {clip.speaker}", (clip.role, clip.speaker)),
                ("the same sound", ("", clip.content_hash)),
            ):
                other = first.setdefault(key, clip)
                if other.split != clip.split and key[1]:
                    raise CorpusError(
                        f"{what} is in two splits: {other.id} in {other.split} and {clip.id} in {clip.split}: "
                        "scan the folders again or take one of them out"
                    )

    def summary(self) -> str:
        """A few lines for a person. Levels are the range that eight of ten files lie in."""
        lines = []
        for role in ROLES:
            if any(clip.role == role for clip in self.clips):
                lines += [_summary_line(role, split, self.used(role, split)) for split in SPLITS]
        reasons: defaultdict[str, list[Clip]] = defaultdict(list)
        for clip in self.skipped:
            reasons[clip.skip_reason.split(" (")[0]].append(clip)
        for reason, clips in sorted(reasons.items(), key=lambda item: -len(item[1])):
            lines.append(f"left out {len(clips)} x {reason}, such as {_shown(clips[0].id)}")
        return "\n".join([*lines, *self.notes])

    def to_parquet(self) -> bytes:
        """The content of a Parquet file, one row per clip."""
        about = json.dumps({"format_version": _FORMAT_VERSION, "seed": self.seed, "hash": self.hash})
        table = clips_to_table(self.clips).replace_schema_metadata({_METADATA_KEY: about.encode()})
        content = pa.BufferOutputStream()
        pq.write_table(table, content)
        return bytes(content.getvalue())

    @classmethod
    def read(cls, source: str | os.PathLike[str] | pa.NativeFile, name: str = "") -> Manifest:
        """Read what `to_parquet` gave, from a path or an open file that errors call `name`. Raises CorpusError."""
        name = name or (str(source) if isinstance(source, (str, os.PathLike)) else "the manifest")
        try:
            table = pq.read_table(source)
            about = json.loads((table.schema.metadata or {})[_METADATA_KEY])
            if about["format_version"] > _FORMAT_VERSION:
                raise CorpusError(f"{name}: was written by a newer version of Wave Wizard: update this one")
            manifest = cls(clips=table_to_clips(table), seed=about["seed"])
        except (OSError, KeyError, TypeError, pa.ArrowException, json.JSONDecodeError) as error:
            raise CorpusError(
                f"{name}: is not a readable manifest ({first_line(error)}): prepare the corpus again"
            ) from error
        if manifest.hash != about["hash"]:
            raise CorpusError(f"{name}: does not hold what was written to it: prepare the corpus again")
        return manifest


def _shown(name: str) -> str:
    """On one line, whatever is in it."""
    return name if name.isprintable() else repr(name)


_ARROW_TYPES = {"str": pa.string(), "int": pa.int64(), "float": pa.float64()}
_SCHEMA = pa.schema([(column.name, _ARROW_TYPES[str(column.type)]) for column in fields(Clip)])


def clips_to_table(clips: Iterable[Clip]) -> pa.Table:
    """One row per clip, one column per field."""
    clips = tuple(clips)
    return pa.table(
        {column.name: [getattr(clip, column.name) for clip in clips] for column in fields(Clip)}, _SCHEMA
    )


def table_to_clips(table: pa.Table) -> tuple[Clip, ...]:
    """The clips of a table of `clips_to_table`; columns that an older version did not write are empty."""
    return tuple(Clip(**row) for row in table.to_pylist())


def _summary_line(role: str, split: str, clips: Sequence[Clip]) -> str:
    minutes = sum(clip.seconds for clip in clips) / 60
    length = f"{minutes:8.1f} min" if minutes < 120 else f"{minutes / 60:8.1f} h  "
    num_groups = len({clip.speaker for clip in clips})
    line = f"{role:6} {split:5} {length} {len(clips):7} files {num_groups:6} {GROUP_WORDS[role]:10}"
    if clips:
        low, high = np.quantile([clip.level_dbfs for clip in clips], [0.1, 0.9])
        line += f" {low:.0f} to {high:.0f} dBFS"
    return line.rstrip()
