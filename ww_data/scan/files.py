"""Finding audio files below a folder or an address, and telling from their paths which of them belong together."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, get_args
from urllib.parse import quote

from ww_data.audio import source_name
from ww_data.storage import Storage

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
SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
    "eval": "test",
}


@dataclass(frozen=True, kw_only=True)
class Found:
    """A file that looks like audio. `name` is its path below the root, with "/" on every system."""

    location: str  # path or address
    name: str
    skip_reason: str = ""
    size_bytes: int = 0
    modified_ns: int = 0

    @property
    def path(self) -> Path:
        """The path of a file of this machine."""
        return Path(self.location)

    @property
    def parts(self) -> tuple[str, ...]:
        """The folders below the root and the file's name."""
        return tuple(self.name.split("/"))


def find_audio(root: str | os.PathLike[str]) -> list[Found]:
    """All audio files below a folder or an address, those that cannot be read with a reason.

    Links are followed, but not in circles; hidden files and folders are passed over. Raises OSError where an address
    cannot be listed.
    """
    text = os.fspath(root)
    if "://" in text and not text.startswith("file://"):
        return list(_list(Storage(text)))
    return list(_walk(Path(text.removeprefix("file://")).absolute()))


def _list(storage: Storage) -> Iterator[Found]:
    for file in storage.files():
        if _is_audio(file.name) and not any(part.startswith(".") for part in file.name.split("/")):
            yield Found(
                location=storage.child(quote(file.name)).uri,
                name=file.name,
                skip_reason=_why_unreadable(file.name),
                size_bytes=file.size_bytes,
                modified_ns=file.modified_ns,
            )


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
            if not name.startswith(".") and _is_audio(name):
                yield _found(root, Path(folder, name))
    for path in closed:
        yield _found(root, path, "folder cannot be opened")


def _found(root: Path, path: Path, reason: str = "") -> Found:
    name = path.relative_to(root).as_posix()
    shown = source_name(name)
    try:
        status = path.stat()
    except OSError:  # a link that leads nowhere or in a circle
        status = None
    if not reason and not (status and stat.S_ISREG(status.st_mode)):
        reason = "is not a regular file"  # a pipe would block for ever
    if shown != name:
        reason = reason or "file name is not UTF-8: rename it"
    return Found(
        location=source_name(path),
        name=shown,
        skip_reason=reason or _why_unreadable(name),
        size_bytes=status.st_size if status else 0,
        modified_ns=status.st_mtime_ns if status else 0,
    )


def _is_audio(name: str) -> bool:
    suffix = PurePosixPath(name).suffix.lower()
    return suffix in _READABLE or suffix in _UNREADABLE


def _why_unreadable(name: str) -> str:
    suffix = PurePosixPath(name).suffix.lower()
    return f"{suffix} files cannot be read: convert them to WAV or FLAC" if suffix in _UNREADABLE else ""


def group_names(names: Sequence[str], grouping: Grouping) -> list[str]:
    """The group that each file of a folder belongs to, from their paths below it (see `scan_corpus`)."""
    if grouping not in get_args(Grouping):
        raise ValueError(f"unknown grouping {grouping!r}: expected one of {', '.join(get_args(Grouping))}")
    if grouping == "file":
        return list(names)
    depth = _common_depth([name.split("/")[:-1] for name in names])
    return [_group(name.split("/")[depth:], grouping) for name in names]


def given_splits(names: Sequence[str]) -> list[str]:
    """The split that each file was given by a folder such as train/ or test/; "" for all without such folders."""
    parents = [name.split("/")[:-1] for name in names]
    for depth in range(_common_depth(parents)):
        splits = [SPLIT_FOLDERS.get(parts[depth].lower(), "") for parts in parents]
        if len(set(splits)) > 1 and "train" in splits:  # a folder that all files share splits nothing
            return splits
    return [""] * len(names)


def _common_depth(parents: list[list[str]]) -> int:
    """How many leading folders say nothing about groups: shared by all files, or named like splits."""
    depth = 0
    while parents and all(len(parts) > depth for parts in parents):
        names = {parts[depth].lower() for parts in parents}
        if len(names) > 1 and not names <= SPLIT_FOLDERS.keys():
            break
        depth += 1
    return depth


def _group(parts: list[str], grouping: Grouping) -> str:
    """The group of a file from the parts of its path below the last folder that is common to all."""
    if len(parts) > 1 and grouping in ("auto", "folder"):
        return parts[0]
    if grouping == "folder":
        return "."
    return prefix(parts[-1])


def prefix(name: str) -> str:
    """A file name up to its first "__", "_" or "-"; without its suffix, where there is none of them."""
    stem = PurePosixPath(name).stem
    for separator in ("__", "_", "-"):
        head, found, _ = stem.partition(separator)
        if found and head:
            return head
    return stem
