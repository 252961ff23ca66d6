"""Whole folders to and from a run's storage, which may be a folder of this machine or an address such as s3://."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

import pyarrow.fs as pafs

from ww_data import Storage


def send_folder(folder: Path, storage: Storage, name: str) -> None:
    """Copies all files of a folder of this machine to the folder `name` of a storage; each appears whole.

    On this machine they are on the disk itself when it returns, not only in the system's cache.
    """
    for source in sorted(path for path in folder.rglob("*") if path.is_file()):
        with storage.writing(f"{name}/{source.relative_to(folder).as_posix()}") as path:
            shutil.copyfile(source, path)
            if storage.is_local:
                with path.open("rb") as written:
                    os.fsync(written.fileno())


def fetch_folder(storage: Storage, name: str, folder: Path) -> None:
    """Copies the folder `name` of a storage, if there is one, to a folder of this machine."""
    source, filesystem = storage.for_arrow(name)
    if filesystem.get_file_info(source).type != pafs.FileType.NotFound:
        folder.mkdir(parents=True, exist_ok=True)
        pafs.copy_files(source, str(folder), source_filesystem=filesystem)


def replace_folder(folder: Path, storage: Storage, name: str) -> None:
    """Copies a folder of this machine to the place of another.

    On this machine it appears whole. At an address, which knows no renaming, its files are replaced one by one.
    """
    if not storage.is_local:
        send_folder(folder, storage, name)
        return
    new = storage.path(f".{name}")
    shutil.rmtree(new, ignore_errors=True)  # of a process that was killed at this
    send_folder(folder, storage, new.name)
    put_in_place(new, storage.path(name))


def put_in_place(new: Path, folder: Path) -> None:
    """Renames a folder to the place of another, which goes only once the new one is there."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)  # of a process that was killed at this
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


class WorkingCopy:
    """The folder `name` of a storage as a folder of this machine, `path`, whose files grow.

    It is that folder itself or, of one at an address, a copy: `send` makes the folder there equal to it.
    fetch: whether the copy starts with what is there.
    """

    def __init__(self, storage: Storage, name: str, *, fetch: bool = True) -> None:
        self._storage, self._name = storage, name
        self._sent: dict[str, tuple[int, int]] = {}  # name -> (size, time of change)
        if storage.is_local:
            self.path = storage.path(name)
            self.path.mkdir(parents=True, exist_ok=True)
            return
        self.path = Path(tempfile.mkdtemp(prefix="ww-copy-"))
        if fetch:
            fetch_folder(storage, name, self.path)
            self._sent = self._files()

    def send(self) -> None:
        """Copies what has changed since the last time to where the folder lies."""
        if self._storage.is_local:
            return
        files = self._files()
        for name, state in files.items():
            # Whoever else writes here may just have removed it.
            if self._sent.get(name) != state and (self.path / name).is_file():
                with self._storage.writing(f"{self._name}/{name}") as target:
                    shutil.copyfile(self.path / name, target)
        for name in self._sent.keys() - files.keys():
            self._storage.delete(f"{self._name}/{name}")
        self._sent = files

    def close(self) -> None:
        """Sends the rest and removes the copy."""
        try:
            self.send()
        finally:
            if not self._storage.is_local:
                shutil.rmtree(self.path, ignore_errors=True)

    def _files(self) -> dict[str, tuple[int, int]]:
        files = {}
        for path in self.path.rglob("*"):
            with contextlib.suppress(FileNotFoundError):
                if path.is_file():
                    about = path.stat()
                    files[path.relative_to(self.path).as_posix()] = (about.st_size, about.st_mtime_ns)
        return files
