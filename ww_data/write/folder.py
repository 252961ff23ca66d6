"""The folder that a corpus is written to: what lies there already, and that nobody else writes to it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from ww_data.corpus.corpus import CORPUS_FILE, Corpus, DamagedCorpusError, read_corpus_file
from ww_data.manifest import CorpusError, Manifest
from ww_data.storage import Storage, StorageError, held_alone
from ww_data.write.parts import PROGRESS_FOLDER

_LOCK_FILE = ".lock"


def open_storage(out_uri: str | os.PathLike[str]) -> Storage:
    try:
        return Storage(out_uri)
    except StorageError as error:
        raise CorpusError(str(error)) from error


def corpus_there(storage: Storage) -> Corpus | None:
    """The corpus that a storage holds; None where there is nothing yet, or what an interrupted run left.

    Raises CorpusError for a folder that holds anything else.
    """
    if storage.is_local and storage.path().exists() and not storage.path().is_dir():
        raise CorpusError(f"{storage}: is not a folder: choose another name")
    names = [file.name for file in storage.files() if file.name != _LOCK_FILE]
    if CORPUS_FILE in names:
        try:
            corpus = read_corpus_file(storage.uri)
            corpus.manifest()
        except (DamagedCorpusError, OSError):
            return None  # written anew, from the files that are whole
        return corpus
    if names and not any(name.startswith(f"{PROGRESS_FOLDER}/") for name in names):
        raise CorpusError(f"{storage}: is not an empty folder ({names[0]}): choose another one or remove it")
    return None


def known_manifest(out_uri: str | os.PathLike[str]) -> Manifest | None:
    """The manifest of the corpus that is there; None if there is none that can be read. Raises like `corpus_there`."""
    corpus = corpus_there(open_storage(out_uri))
    return None if corpus is None else corpus.manifest()


def checked_folder(storage: Storage, settings: dict[str, Any]) -> Corpus | None:
    """The corpus that is there, if a corpus of these settings may be written; raises like `corpus_there`, too."""
    try:
        storage.check_writable()
    except StorageError as error:
        raise CorpusError(str(error)) from error
    before = corpus_there(storage)
    if before is not None and not before.high_pass_hz:  # of an earlier version: it grows as it was begun
        settings = {name: value for name, value in settings.items() if name != "high_pass_hz"}
    if before is not None and before.settings != settings:
        raise CorpusError(
            f"{storage}: holds a corpus of other settings ({_differences(before.settings, settings)}): "
            "choose another folder or remove it"
        )
    return before


def _differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {before.get(name)}, now {now[name]}" for name in now if before.get(name) != now[name]
    )


def lost_files(corpus: Corpus) -> set[str]:
    """Files of a corpus that are gone or have another size."""
    there = {file.name: file.size_bytes for file in corpus.storage.files()}
    return {name for name, about in corpus.files.items() if there.get(name) != about["bytes"]}


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


@contextmanager
def alone(storage: Storage) -> Iterator[None]:
    """Two runs must not write into one folder of this machine at the same time."""
    if not storage.is_local or (storage.path().exists() and not storage.path().is_dir()):
        yield
        return
    is_new = not storage.path().exists()
    with ExitStack() as held:
        if is_new:
            held.callback(_remove_if_empty, storage.path())  # nothing came of it
        try:
            storage.path().mkdir(parents=True, exist_ok=True)
            held.enter_context(held_alone(storage.path(_LOCK_FILE)))
        except BlockingIOError:
            raise CorpusError(f"{storage}: another run is writing there: wait for it") from None
        except OSError as error:
            raise CorpusError(
                f"{storage}: cannot be written ({error.strerror}): choose another folder"
            ) from error
        yield
