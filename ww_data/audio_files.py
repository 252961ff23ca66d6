"""Finding audio files below a folder, and telling from their paths which of them belong together."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from ww_data.audio import source_name

Grouping = Literal["auto", "folder", "prefix", "file"]

_READABLE = frozenset(
    (
        ".wav",
        ".flac",
        ".ogg",
        ".oga",
        ".opus",
        ".mp3",
        ".aif",
        ".aiff",
        ".aifc",
        ".au",
        ".caf",
        ".w64",
        ".rf64",
    )
)
# Known as audio but beyond libsndfile: listed with a reason, so that nobody wonders where they went.
_UNREADABLE = frozenset(
    (".m4a", ".aac", ".mp4", ".wma", ".webm", ".amr", ".ape", ".wv", ".mka", ".shn", ".sph")
)
# Folders that data sets deal their files to: they say nothing about who speaks.
_SPLIT_FOLDERS = frozenset(
    ("train", "training", "val", "valid", "validation", "dev", "test", "testing", "eval")
)


@dataclass(frozen=True, kw_only=True)
class Found:
    """A file that looks like audio. `name` is its path below the root, with "/" on every system."""

    path: Path
    name: str
    group: str = ""
    skip_reason: str = ""

    @property
    def shown_path(self) -> str:
        """The path as text that can be stored anywhere, whatever bytes it is made of."""
        return source_name(self.path)


def find_audio(root: Path, grouping: Grouping) -> list[Found]:
    """All audio files below `root`, with their groups (see `scan_corpus`). Follows links, but no loops."""
    if grouping not in get_args(Grouping):
        raise ValueError(f"unknown grouping {grouping!r}: expected one of {', '.join(get_args(Grouping))}")
    found = list(_walk(root.absolute()))
    parents = [item.name.split("/")[:-1] for item in found]
    depth = _common_depth(parents)
    return [
        Found(
            path=item.path,
            name=item.name,
            group=item.name if grouping == "file" else _group(item.name.split("/")[depth:], grouping),
            skip_reason=item.skip_reason,
        )
        for item in found
    ]


def _walk(root: Path) -> Iterator[Found]:
    seen: set[tuple[int, int]] = set()
    closed: list[Path] = []
    for folder, folders, files in os.walk(
        root, followlinks=True, onerror=lambda error: closed.append(Path(error.filename))
    ):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()  # reached before, over another link
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            suffix = Path(name).suffix.lower()
            if not name.startswith(".") and suffix in _READABLE | _UNREADABLE:
                path = Path(folder, name)
                reason = "" if path.is_file() else "is not a regular file"  # a pipe would block for ever
                if suffix in _UNREADABLE:
                    reason = f"{suffix} files cannot be read: convert them to WAV or FLAC"
                yield _found(root, path, reason)
    for path in closed:
        yield _found(root, path, "folder cannot be opened")


def _found(root: Path, path: Path, reason: str) -> Found:
    name = path.relative_to(root).as_posix()
    stored = source_name(name)
    if stored != name:
        reason = reason or "file name is not UTF-8: rename it"
    return Found(path=path, name=stored, skip_reason=reason)


def _common_depth(parents: list[list[str]]) -> int:
    """How many leading folders say nothing about groups: shared by all files, or named like splits."""
    depth = 0
    while parents and all(len(parts) > depth for parts in parents):
        names = {parts[depth].lower() for parts in parents}
        if len(names) > 1 and not names <= _SPLIT_FOLDERS:
            break
        depth += 1
    return depth


def _group(parts: list[str], grouping: Grouping) -> str:
    """The group of a file from the parts of its path below the last folder that is common to all."""
    if len(parts) > 1 and grouping in ("auto", "folder"):
        return parts[0]
    stem = Path(parts[-1]).stem
    if grouping == "folder":
        return "."
    for separator in ("__", "_", "-"):
        head, found, _ = stem.partition(separator)
        if found and head:
            return head
    return stem
