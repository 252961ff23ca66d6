"""Files by name below one folder: a path of this machine, or an address such as s3://bucket/corpus.

Files and folders appear whole or not at all: written under a temporary name, then renamed. Addresses are those of
`pyarrow.fs` (s3://, gs://, hdfs://, abfs://; options behind a `?`, as in
`s3://bucket/corpus?endpoint_override=http://host:port`); all others are fsspec's.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.fs as pafs

_COPY_BYTES = 1 << 22
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_MAX_STEM_BYTES = 200
# name:secret@, where a secret may hold / and @. A name alone is no key (abfs://container@account/corpus), nor is a
# port, which buckets have not.
_KEYS = re.compile(r"[^/]*://[^/@?]*:(?!\d+/).*@|(?:s3|gc?s)\w*://[^/@?]*:.*@", re.IGNORECASE)
# Query parameters that are keys.
_SECRET = re.compile(r"([?&](?:\w*(?:secret|token|password|key)\w*|sig)=)[^&]+", re.IGNORECASE)
_ARROW_SCHEMES = ("s3", "gs", "gcs", "hdfs", "viewfs", "abfs", "abfss")  # all others are fsspec's
_URI_CHARACTERS = ":/?&=%+,;~!$'()*@"  # what is left as it is: spaces, umlauts and the like are quoted


class StorageError(OSError):
    """An address that cannot be used. One line: which, and what is wrong with it."""


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """A file below a storage's folder. `name` is its path from there, with "/" on every system."""

    name: str
    size_bytes: int
    modified_ns: int


class Storage:
    """A folder that every process of a run can reach. It pickles as its address; what fails is an OSError."""

    def __init__(self, uri: str | os.PathLike[str]) -> None:
        """Raises StorageError for an address that no file system is known for."""
        self.uri = os.fspath(uri)
        self.is_local = "://" not in self.uri or self.uri.startswith("file://")
        if self.is_local:
            self.uri = str(Path(self.uri.removeprefix("file://")).absolute())
        self._fs, self._root = _file_system(self.uri, self.is_local)

    def __reduce__(self) -> tuple[Any, ...]:
        return (Storage, (self.uri,))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Storage) and self.uri == other.uri

    def __hash__(self) -> int:
        return hash(self.uri)

    def __str__(self) -> str:
        return self.uri.partition("?")[0]

    def child(self, name: str) -> Storage:
        """The folder `name` below this one."""
        address, question, options = self.uri.partition("?")
        return Storage(f"{address.rstrip('/')}/{name}{question}{options}")

    def address(self, name: str) -> str:
        """What to call a file in a message."""
        return f"{str(self).rstrip('/')}/{name}"

    def for_arrow(self, name: str) -> tuple[str, pafs.FileSystem]:
        """A file as the readers of pyarrow and Ray Data take it: its path and the file system."""
        return self._full(name), self._fs

    def path(self, name: str = "") -> Path:
        """The path of a file, or of the folder. Only for a local storage."""
        if not self.is_local:
            raise StorageError(f"{self.uri}: is not a folder of this machine")
        return Path(self._root, name) if name else Path(self._root)

    def check_writable(self) -> None:
        """Raises StorageError where no file can be written to it, as far as that can be told beforehand."""
        if not self.is_local:
            return
        folder = next(path for path in (self.path(), *self.path().parents) if os.path.lexists(path))
        if not folder.is_dir():
            raise StorageError(f"{self} cannot be written: {folder} is not a folder; choose another place")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise StorageError(
                f"{self} cannot be written: you may not write to {folder}; choose another place"
            )

    def files(self) -> Iterator[StoredFile]:
        """All files in any depth, in the order of their names; none if there is no such folder."""
        selector = pafs.FileSelector(self._root, allow_not_found=True, recursive=True)
        found = [about for about in self._fs.get_file_info(selector) if about.type == pafs.FileType.File]
        for about in sorted(found, key=lambda about: about.path):
            name = about.path.removeprefix(self._root).lstrip("/")
            yield StoredFile(name=name, size_bytes=about.size, modified_ns=about.mtime_ns or 0)

    def size(self, name: str) -> int | None:
        """Bytes of a file; None if there is none of that name."""
        about = self._fs.get_file_info(self._full(name))
        return int(about.size) if about.type == pafs.FileType.File else None

    def open(self, name: str) -> pa.NativeFile:
        """A file to read from, anywhere in it. On this machine it is memory-mapped."""
        if self.is_local and self.size(name):  # an empty file cannot be mapped
            return pa.memory_map(self._full(name))
        return self._fs.open_input_file(self._full(name))

    def read(self, name: str) -> bytes:
        """All bytes of a file."""
        with self._fs.open_input_stream(self._full(name)) as file:
            return bytes(file.read())

    def write(self, name: str, content: bytes) -> None:
        """Writes a file."""
        with self.writing(name) as path:
            path.write_bytes(content)

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """A path of this machine to write to; it becomes the file `name`, whole, if the block ends well."""
        if self.is_local:
            target = self.path(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(target) as temporary:
                yield temporary
            return
        with tempfile.TemporaryDirectory(prefix="wave-wizard-") as folder:
            temporary = Path(folder, "file")
            yield temporary
            # An object store shows an upload only once it is complete.
            with temporary.open("rb") as source, self._fs.open_output_stream(self._full(name)) as upload:
                shutil.copyfileobj(source, upload, _COPY_BYTES)

    def delete(self, name: str) -> None:
        """Removes a file; one that is gone already is no error."""
        if self.size(name) is not None:
            self._fs.delete_file(self._full(name))

    def on_this_machine(self, name: str, sha256: str) -> Path:
        """A path that can be memory-mapped: the file itself or, from afar, a copy that is fetched only once.

        Copies lie in WW_CACHE (default: ~/.cache/wave-wizard). Raises OSError where one has another checksum.
        """
        if self.is_local:
            return self.path(name)
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        copy = folder / f"{sha256[:32]}{Path(name).suffix}"
        with copy.with_suffix(".lock").open("w") as lock:
            # The workers of a node start together: one fetches, the others wait.
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not copy.exists():
                with whole_file(copy) as temporary:
                    with (
                        self._fs.open_input_stream(self._full(name)) as source,
                        temporary.open("wb") as target,
                    ):
                        shutil.copyfileobj(source, target, _COPY_BYTES)
                    if sha256_of(temporary) != sha256:
                        raise OSError(f"{self.address(name)}: has a wrong checksum")
        return copy

    def _full(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"


@contextmanager
def held_alone(path: Path) -> Iterator[None]:
    """Holds a lock file, which is gone afterwards, for the length of the block. BlockingIOError if another holds it.

    Some network file systems know no locks: there nobody is kept out.
    """
    while True:
        with path.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                    continue
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ESTALE):
                    continue  # who held it has removed it between our two calls
                if error.errno not in _NO_LOCKS:
                    raise
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """A path beside `target`, of the same suffix, to write to; it becomes `target` if the block ends well."""
    # A name may have 255 bytes, and this one has more than the target's.
    stem = os.fsdecode(os.fsencode(target.stem)[:_MAX_STEM_BYTES])
    temporary = target.with_name(f".{stem}.{secrets.token_hex(4)}.partial{target.suffix}")
    try:
        yield temporary
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A folder to write to beside `target`, which is empty or missing; it becomes `target` if the block ends well."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.partial-"))
    try:
        partial.chmod(target.parent.stat().st_mode & 0o777)  # mkdtemp closes its folder to everyone else
        yield partial
        partial.replace(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def sha256_of(path: Path) -> str:
    """The checksum of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def cache_folder() -> Path:
    """Where copies of remote files are kept: WW_CACHE, or wave-wizard in the user's cache folder."""
    if chosen := os.environ.get("WW_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wave-wizard"


def _without_secrets(uri: str) -> str:
    """What an error may show of an address."""
    return _SECRET.sub(r"\1...", re.sub(r"://.*@", "://...@", uri))


def _file_system(uri: str, is_local: bool) -> tuple[pafs.FileSystem, str]:
    if is_local:
        return pafs.LocalFileSystem(), uri
    if _KEYS.match(uri) or _SECRET.search(uri):
        raise StorageError(
            f"{_without_secrets(uri)}: keys do not belong in an address, which ends up "
            "in logs and files: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile"
        )
    if uri.partition("://")[0] in _ARROW_SCHEMES:
        try:
            return pafs.FileSystem.from_uri(quote(uri, safe=_URI_CHARACTERS))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise StorageError(f"{uri}: is not an address that can be used ({first_line(error)})") from error
        except OSError as error:
            # For a bucket S3 is asked at once for its region, for hdfs a library is loaded.
            raise StorageError(f"{uri}: cannot be reached ({first_line(error)})") from error
    try:
        import fsspec

        system, root = fsspec.core.url_to_fs(uri)
    except (ImportError, ValueError) as error:
        raise StorageError(f"{uri}: no file system is known for it ({first_line(error)})") from error
    return pafs.PyFileSystem(pafs.FSSpecHandler(system)), root
