"""Finding audio files below a folder or an address, and telling from their paths which of them belong together."""

from __future__ import annotations

import functools
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal, get_args
from urllib.parse import quote

from ww_data.audio import source_name
from ww_data.audio.kinds import HEAD_BYTES, is_surely_sound
from ww_data.manifest import Role
from ww_data.storage import Storage

Grouping = Literal["auto", "folder", "prefix", "file"]

_READABLE = re.compile(
    r"\.(wave?|bwf|amb|flac|og[gavx]|opus|mp[1234]|mpga|mpeg|mpa|m4[abprv]|f4[av]|aac|adts|mov|qta?|3ga|3gpp?|3g2|"
    r"web[ma]|mk[av]|aif[fc]?|au|snd|caff?|w64|rf64|bw64)\Z",
    re.IGNORECASE,
)
# Known as audio, but not read: listed with a reason, so that nobody wonders where they went.
_UNREADABLE = re.compile(
    r"\.(wma|amr|awb|ape|wv|shn|sph|e?ac3|dts|tta|tak|ds[fds]|dss|ds2|dvf|msv|dff|spx|ra|rm|voc|vox|gsm|mpc|"
    r"wmv|asf|avi|flv|mpg|vob|m2ts?|mts|pcm|raw)\Z",
    re.IGNORECASE,
)
# Known as something else: not looked into. All other files are, for what sound begins with.
_NO_SOUND = re.compile(
    r"\.(txt|md|rst|html?|xml|json[l5]?|ya?ml|toml|ini|cfg|[ct]sv|xlsx?|docx?|pdf|tex|lab|textgrid|eaf|trn|stm|ctm|rttm|"
    r"srt|vtt|cue|m3u8?|pls|nfo|log|zip|t?gz|bz2|xz|7z|tar|rar|parquet|arrow|npy|npz|h5|mat|pkl|pth?|onnx|mid|midi|"
    r"jpe?g|png|gif|bmp|tiff?|svg|webp|heic|ico|asd|reapeaks|aup3?|pek|cfa|py|sh|js|c|h|m|java|exe|dll|so|db|ds_store)\Z",
    re.IGNORECASE,
)
_TRANSPORT_BYTES = 188  # of MPEG's transport stream, from one "G" to the next
_LOOK_BYTES = _TRANSPORT_BYTES + 1
# Folders that data sets deal their files to: they say nothing about who speaks.
SPLIT_FOLDERS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "eval"), "test"),
}


@dataclass(frozen=True, kw_only=True)
class AudioFile:
    """A file that looks like audio. `name` is its path below the root, with "/" on every system."""

    path: str  # or address
    name: str
    skip_reason: str = ""
    size_bytes: int = 0
    modified_ns: int = 0

    @property
    def parts(self) -> tuple[str, ...]:
        """The folders below the root and the file's name."""
        return tuple(self.name.split("/"))


@dataclass(frozen=True, kw_only=True)
class Recording(AudioFile):
    """What a user brought: an audio file and what it is or, with a `minus`, the noise of a pair, named after its
    clean file."""

    role: Role
    group: str = ""
    hint: str = ""  # the split that it comes with: "train", "val", "test" or ""
    minus: str = ""  # the clean file to subtract
    layout: str = ""

    @property
    def id(self) -> str:
        """The id of its clip."""
        return f"{self.role}/{self.name}"


def find_audio(root: str | os.PathLike[str]) -> list[AudioFile]:
    """All audio files below a folder or an address, those that cannot be read with a reason; without hidden ones.

    Links are followed, but not in circles. Raises OSError where an address cannot be listed.
    """
    text = os.fspath(root)
    if "://" in text and not text.startswith("file://"):
        return list(_list(Storage(text)))
    return list(_walk(Path(text.removeprefix("file://")).absolute()))


def _list(storage: Storage) -> Iterator[AudioFile]:
    for file in storage.files():
        if any(part.startswith(".") for part in file.name.split("/")):
            continue
        if _is_audio(file.name, functools.partial(storage.open, file.name)):
            yield AudioFile(
                path=storage.child(quote(file.name)).uri,
                name=file.name,
                skip_reason=_why_unreadable(file.name),
                size_bytes=file.size_bytes,
                modified_ns=file.modified_ns,
            )


def _walk(root: Path) -> Iterator[AudioFile]:
    seen: set[tuple[int, int]] = set()
    closed: list[Path] = []

    def on_error(error: OSError) -> None:
        closed.append(Path(error.filename))

    for folder, folders, files in os.walk(root, followlinks=True, onerror=on_error):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()  # reached before, over another link
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(folder, name)
            if not name.startswith(".") and _is_audio(name, functools.partial(_open_regular, path)):
                yield _found(root, path)
    for path in closed:
        yield _found(root, path, "folder cannot be opened")


def _found(root: Path, path: Path, reason: str = "") -> AudioFile:
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
    return AudioFile(
        path=source_name(path),
        name=shown,
        skip_reason=reason or _why_unreadable(name),
        size_bytes=status.st_size if status else 0,
        modified_ns=status.st_mtime_ns if status else 0,
    )


def _is_audio(name: str, open_file: Callable[[], Any]) -> bool:
    """By its ending; where nobody knows that, by what it begins with: recorders and messengers have endings of their
    own.
    """
    if _READABLE.search(name) or _UNREADABLE.search(name):
        return True
    if _NO_SOUND.search(name):
        return False
    try:
        with open_file() as file:
            head = file.read(_LOOK_BYTES)
            return (
                is_surely_sound(head[:HEAD_BYTES]) or head[::_TRANSPORT_BYTES] == b"GG"
            )  # a camcorder's film
    except OSError:
        return False


def _open_regular(path: Path) -> BinaryIO:
    if not path.is_file():
        raise OSError(f"{path} is not a regular file")
    return path.open("rb")


def _why_unreadable(name: str) -> str:
    suffix = _UNREADABLE.search(name)
    return f"{suffix[0].lower()} files cannot be read: convert them to WAV or FLAC" if suffix else ""


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
