"""From folders of speech, noise and room responses to a manifest. Each file is read once, also over several scans."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from ww_data.apart import apart
from ww_data.manifest import ROLES, Clip, CorpusError, Manifest, Role, clips_to_table, table_to_clips
from ww_data.parallel import Executor, ProcessEndedError, Progress, on_threads
from ww_data.scan.corpora import find_recordings
from ww_data.scan.files import Grouping, Recording
from ww_data.scan.inspection import NOT_REACHED, clip_of, inspect, inspect_all, unreadable
from ww_data.scan.known import with_own_names
from ww_data.scan.moved import Place, find_moved, place
from ww_data.scan.splits import Dealer
from ww_data.storage import Storage

Folders = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

_CHUNK_FILES = 64
# Few files still make enough chunks for all cores.
_MIN_CHUNKS = 16
_JOURNAL_PREFIX = "scan-"
# What reading a file tells, and nothing else does.
_MEASURED = (
    *("sample_rate", "num_frames", "num_channels", "seconds", "level_dbfs", "peak", "offset"),
    *("content_hash", "sample_hash"),
)


def scan_corpus(
    speech_dirs: Folders = (),
    noise_dirs: Folders = (),
    *,
    rir_dirs: Folders = (),
    corpus_dirs: Folders = (),
    layout: str = "auto",
    splits: Literal["given", "dealt"] = "given",
    speaker_from: Grouping = "auto",
    recording_from: Grouping = "file",
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    seed: int = 0,
    progress: Progress | None = None,
    executor: Executor = on_threads,
    known: Manifest | None = None,
    journal: Storage | None = None,
) -> Manifest:
    """Read every audio file below the folders (or addresses) once and deal speakers and recordings to the splits.

    Of `speech_dirs`, `noise_dirs` and `rir_dirs` only that role is taken; `corpus_dirs` are known data sets or sets
    of pairs, of which everything is. `layout` is one of LAYOUTS or "auto": recognise each folder by its files.

    In plain folders, `speaker_from` and `recording_from` say what makes a group that must stay in one split: "folder"
    (the first sub-folder), "prefix" (the file name up to `__`, `_` or `-`), "file", or "auto" (the folder, if there
    are sub-folders, else the prefix). `splits="given"` keeps the train, val and test parts that data come with, and
    deals only what they leave open; "dealt" deals everything.

    `known` is the manifest of an earlier run: its files are not read again unless their size or time changed, and
    its groups keep their splits if `seed` is the same. `journal` holds what an interrupted scan had read. `executor`
    does the reading; `progress(done, total, what)` counts files.

    Raises CorpusError for a folder that cannot be used, no usable audio, or too few speakers or recordings.
    """
    _check(val_fraction, test_fraction, splits)
    recordings: list[Recording] = []
    grouping: dict[Role, Grouping] = {"speech": speaker_from, "noise": recording_from, "rir": "auto"}
    roots: list[tuple[Role | None, str]] = []
    of_role: tuple[Role | None, ...] = (*ROLES, None)
    for role, folders in zip(of_role, (speech_dirs, noise_dirs, rir_dirs, corpus_dirs), strict=True):
        listed = [folders] if isinstance(folders, (str, os.PathLike)) else folders
        roots += [(role, os.fspath(root)) for root in listed]
    role_of: dict[str, tuple[Role, str]] = {}
    for role, root in roots:
        found = find_recordings(root, role, layout=layout, grouping=grouping)
        recordings += found
        _check_roles(found, root.partition("?")[0], role_of)
    moved = find_moved(recordings, known.clips if known else ())
    recordings = with_own_names(recordings, known, moved)
    recordings.sort(key=lambda recording: (ROLES.index(recording.role), recording.name))
    for needed in ("speech", "noise"):
        if not any(recording.role == needed for recording in recordings):
            below = [root.partition("?")[0] for role, root in roots if role in (needed, None)]
            where = f" below {', '.join(below)}" if below else f": give folders of {needed}"
            raise CorpusError(f"no audio file was found for {needed}{where}")
    clips = _join_pairs(_read(recordings, known.clips if known else (), moved, journal, executor, progress))
    dealer = Dealer(
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        seed=seed,
        hints={recording.id: recording.hint for recording in recordings} if splits == "given" else {},
        known=known,
    )
    return Manifest(clips=tuple(dealer.deal(clips)), seed=seed, notes=dealer.notes(clips))


def _check(val_fraction: float, test_fraction: float, splits: str) -> None:
    if not (val_fraction > 0 and test_fraction > 0 and val_fraction + test_fraction < 1):
        raise CorpusError(
            f"val_fraction is {val_fraction} and test_fraction {test_fraction}: "
            "expected each above 0 and their sum below 1"
        )
    if splits not in ("given", "dealt"):
        raise CorpusError(f"splits is {splits!r}: expected 'given' or 'dealt'")


def _check_roles(recordings: Iterable[Recording], root: str, role_of: dict[str, tuple[Role, str]]) -> None:
    """No file may be of two roles; `role_of` tells that of each path so far, and below which root it was found."""
    for recording in recordings:
        if recording.skip_reason:
            continue
        now = recording.role
        role, other = role_of.setdefault(recording.path, (now, root))
        if role != now:
            what = f"{recording.path}: is {role} below {other} and {now} below {root}"
            if other == root:
                what = f"{root}: was given for {role} and for {now}"
            raise CorpusError(f"{what}: give each a folder of its own")


def _read(
    recordings: Sequence[Recording],
    known: Sequence[Clip],
    moved: Mapping[Place, Clip],
    journal: Storage | None,
    executor: Executor,
    progress: Progress | None,
) -> list[Clip]:
    """The clips of all recordings, in their order."""
    known = [clip for clip in known if _is_measured(clip)]
    seen = {_identity(clip): clip for clip in (*_journaled(journal), *known)}
    clips: dict[str, Clip] = {}
    to_read: list[Recording] = []
    for recording in recordings:
        clip = clip_of(recording)
        if before := seen.get(_identity(clip)) or moved.get(place(recording)):
            clip = replace(clip, **{name: getattr(before, name) for name in _MEASURED})
        if clip.content_hash or clip.skip_reason:
            clips[clip.id] = clip
        else:
            to_read.append(recording)
    if progress and clips:
        progress(len(clips), len(recordings), "files that need not be read")
    for chunk in _inspected(to_read, executor):
        if journal:
            _write_journal(journal, chunk)
        for clip in chunk:
            clips[clip.id] = _checked(clip)
            if progress:
                progress(len(clips), len(recordings), f"reading {clip.id}")
    return [clips[recording.id] for recording in recordings]


def _inspected(recordings: Sequence[Recording], executor: Executor) -> Iterator[Sequence[Clip]]:
    """Their clips, some at a time. Where a file ends the process that reads it, the rest is read once more, apart."""
    waiting = {recording.id: recording for recording in recordings}
    try:
        for clips in executor(inspect_all, _chunks(recordings)):
            for clip in clips:
                del waiting[clip.id]
            yield clips
    except ProcessEndedError:
        yield from executor(partial(apart, inspect, unreadable), _chunks(list(waiting.values())))


def _chunks(recordings: Sequence[Recording]) -> list[tuple[Recording, ...]]:
    size = max(1, min(_CHUNK_FILES, len(recordings) // _MIN_CHUNKS))
    return [tuple(recordings[start : start + size]) for start in range(0, len(recordings), size)]


def _checked(clip: Clip) -> Clip:
    """A file that was not found is gone, or lies where another node cannot see it: then a CorpusError."""
    _, not_reached, node = clip.skip_reason.partition(NOT_REACHED)
    if not not_reached:
        return clip
    if all("://" not in path and Path(path).exists() for path in (clip.path, clip.minus) if path):
        raise CorpusError(f"{clip.path}{not_reached}{node}: all nodes must see the folders")
    return replace(clip, skip_reason="was removed while the folders were read")


def _identity(clip: Clip) -> tuple[str, str, str, int, int]:
    """What a file is known by: another size or time means that it has to be read again."""
    return clip.role, clip.path, clip.minus, clip.size_bytes, clip.modified_ns


def _is_measured(clip: Clip) -> bool:
    """An earlier version did not note the peaks."""
    return bool(clip.content_hash) and (clip.peak > 0 or clip.role == "rir")


def _write_journal(journal: Storage, clips: Sequence[Clip]) -> None:
    names = json.dumps([_identity(clip) for clip in clips]).encode()
    name = f"{_JOURNAL_PREFIX}{hashlib.blake2b(names, digest_size=16).hexdigest()}.parquet"
    with journal.writing(name) as path:
        pq.write_table(clips_to_table(clips), path)


def _journaled(journal: Storage | None) -> Iterator[Clip]:
    """What earlier runs had read; a file of another version of this program counts for nothing."""
    for file in journal.files() if journal else ():
        if file.name.startswith(_JOURNAL_PREFIX) and file.name.endswith(".parquet"):
            try:
                with journal.open(file.name) as source:  # type: ignore[union-attr]
                    yield from (clip for clip in table_to_clips(pq.read_table(source)) if _is_measured(clip))
            except (pa.ArrowException, TypeError):
                continue


def _join_pairs(clips: Sequence[Clip]) -> list[Clip]:
    """Both sides of a pair get one peak and one offset, so that one gain serves both; a noisy file of no use takes its
    clean one along."""
    noise_of = {clip.minus: clip for clip in clips if clip.minus}
    clean_of = {clip.path: clip for clip in clips if clip.path in noise_of and clip.role == "speech"}
    result = []
    for clip in clips:
        if clip.role == "speech" and not clip.skip_reason and (noise := noise_of.get(clip.path)):
            if not noise.skip_reason:
                clip = replace(clip, peak=noise.peak, offset=max(clip.offset, noise.offset))
            elif not noise.num_frames:
                clip = replace(clip, skip_reason=f"its noisy file cannot be used ({noise.skip_reason})")
        elif clip.minus and not clip.skip_reason and (clean := clean_of.get(clip.minus)):
            clip = replace(clip, offset=max(clip.offset, clean.offset))
        result.append(clip)
    return result
