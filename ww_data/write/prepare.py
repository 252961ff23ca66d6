"""Preparing a corpus in one call: scan the folders, write what is new."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

from ww_data.corpus.corpus import Corpus
from ww_data.manifest import Manifest
from ww_data.parallel import Executor, Progress, on_threads
from ww_data.scan.scan import scan_corpus
from ww_data.write.corpus import checked_settings, write_corpus, write_corpus_alone
from ww_data.write.folder import alone, checked_folder, known_manifest, open_storage
from ww_data.write.parts import PROGRESS_FOLDER


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A corpus, the manifest with the notes of its scan, and how many of its files were not there before."""

    corpus: Corpus
    manifest: Manifest
    num_new_files: int


def _silent(title: str) -> AbstractContextManager[None]:
    return nullcontext()


def prepare_corpus(
    out_uri: str | os.PathLike[str],
    settings: dict[str, Any],
    *,
    named_by_content: bool = False,
    drop_missing: bool = False,
    executor: Executor = on_threads,
    progress: Callable[[str], AbstractContextManager[Progress | None]] = _silent,
    **scan_options: Any,
) -> Prepared:
    """Scans folders (`scan_options` are those of `scan_corpus`) and writes what is new to a folder or address.

    `settings` are those of `write_corpus`; `progress` makes a context with a `Progress` for each of the two steps. With
    `named_by_content` a hash of all sounds and settings ends the folder's name. Raises CorpusError, one line.
    """
    known, journal = None, None
    write: Callable[..., Corpus] = write_corpus
    with ExitStack() as held:
        if not named_by_content:
            storage, seed = open_storage(out_uri), scan_options.get("seed", 0)
            checked_folder(storage, checked_settings(**settings, seed=seed))  # now, not after hours
            # What is read here decides the splits: another run must not change it before they are written.
            held.enter_context(alone(storage))
            known, journal, write = (
                known_manifest(out_uri),
                storage.child(PROGRESS_FOLDER),
                write_corpus_alone,
            )
        with progress("reading files") as report:
            manifest = scan_corpus(
                known=known, journal=journal, executor=executor, progress=report, **scan_options
            )
        if named_by_content:
            content = f"{manifest.hash} {manifest.seed} {sorted(settings.items())}"
            out_uri = f"{os.fspath(out_uri)}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"
        there = {file.name for file in open_storage(out_uri).files()}
        with progress("writing corpus") as report:
            corpus = write(
                manifest, out_uri, drop_missing=drop_missing, executor=executor, progress=report, **settings
            )
    return Prepared(corpus=corpus, manifest=manifest, num_new_files=len(corpus.files.keys() - there))
