"""What the files of a folder are: speech, noise or room responses, of whom, and for which split.

Data sets and pairs are recognised by their files; any other folder holds what its user says.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

from ww_data.manifest import ROLES, CorpusError, Role
from ww_data.scan.files import AudioFile, Grouping, Recording, find_audio, given_splits, group_names
from ww_data.scan.layouts import DATA_SETS, Fit, Layout
from ww_data.scan.pairs import EXPECTED, find_pairs
from ww_data.storage import first_line

_DATA_SETS = {layout.name: layout for layout in DATA_SETS}
_ROLES: dict[str, tuple[Role, ...]] = {"folder": ROLES, "pairs": ("speech", "noise")}
_ROLES |= {name: layout.roles for name, layout in _DATA_SETS.items()}
LAYOUTS = tuple(_ROLES)
# Speakers' folders may lie in the folders of a pair, so pairs are asked for before what goes by speakers.
_ASKED = (*list(_DATA_SETS)[:2], "pairs", *list(_DATA_SETS)[2:])
# A folder is taken for a data set if at least this part of its audio files fit.
_ENOUGH = 0.9


def find_recordings(
    root: str | os.PathLike[str],
    role: Role | None,
    *,
    layout: str = "auto",
    grouping: Mapping[Role, Grouping],
) -> list[Recording]:
    """The recordings below a folder or an address: of one role or (None) all of a data set.

    `layout` is one of LAYOUTS or "auto", which recognises it; a layout that holds nothing of `role` counts as "auto".
    Raises CorpusError for a root that cannot be listed, a layout that does not fit, or one without that role.
    """
    if layout not in ("auto", *LAYOUTS):
        raise CorpusError(f"there is no layout {layout!r}: expected auto, {', '.join(LAYOUTS)}")
    shown = os.fspath(root).partition("?")[0]
    files = _list(root, shown, role)
    usable = [file for file in files if not file.skip_reason]
    wanted = layout
    if role and (role not in _ROLES.get(layout, ()) or (role, layout) == ("rir", "rir")):
        wanted = "auto"  # a plain folder of impulse responses has the layout "rir", too
    root_name = Path(unquote(shown)).absolute().name
    for name in _ASKED:
        if wanted not in ("auto", name):
            continue
        recordings = _read_as(name, usable, root_name, grouping["speech"], wanted == name)
        if recordings is not None:
            return _with_the_rest(recordings, files, name, role, shown)
        if wanted == name:
            expected = EXPECTED if name == "pairs" else _DATA_SETS[name].expected
            raise CorpusError(f"{shown}: has not the layout {name}: expected {expected}")
    if role is None:
        raise CorpusError(
            f"{shown}: is none of the known data sets ({', '.join(LAYOUTS[1:])}): "
            "use --speech and --noise for plain folders, or force its --layout"
        )
    return _plain(files, role, grouping[role])


def _list(root: str | os.PathLike[str], shown: str, role: Role | None) -> list[AudioFile]:
    if "://" not in shown and not Path(root).is_dir():
        raise CorpusError(f"{shown}: is not a folder of {role or 'audio'} that can be read: check the path")
    try:
        files = find_audio(root)
    except OSError as error:
        raise CorpusError(f"{shown}: cannot be listed ({first_line(error)}): check the address") from error
    if not files and "://" in shown:
        raise CorpusError(f"{shown}: cannot be listed, or holds no audio files: check the address")
    if not files and role is None:
        raise CorpusError(f"{shown}: holds no audio files: check the path")
    return files


def _read_as(
    name: str, files: Sequence[AudioFile], root_name: str, speaker_from: Grouping, is_forced: bool
) -> list[Recording] | None:
    """The recordings of files in one layout; None where they have it not."""
    if name == "pairs":
        found = find_pairs(files, speaker_from)
        num_pairs = sum(bool(recording.minus) for recording in found)
        return found if num_pairs > 0 and (is_forced or 4 * num_pairs >= len(files)) else None
    return _data_set(files, root_name, _DATA_SETS[name], is_forced)


def _data_set(
    files: Sequence[AudioFile], root_name: str, layout: Layout, is_forced: bool
) -> list[Recording] | None:
    paths = [(root_name, *file.parts) for file in files]
    fits = [layout.rule(parts) for parts in paths]
    if elsewhere := layout.without(paths):
        reason = "lies beside noisy speech: give its folder by itself"
        other = Fit(role=layout.roles[0], group="", skip_reason=reason)
        fits = [
            other if any(parts[:depth] in elsewhere for depth in range(1, len(parts))) else fit
            for fit, parts in zip(fits, paths, strict=True)
        ]
    num_fits = sum(fit is not None and not fit.skip_reason for fit in fits)
    is_enough = layout.is_told_by_folders or sum(fit is not None for fit in fits) >= _ENOUGH * len(files)
    is_there = num_fits > 0 and (is_forced or (is_enough and layout.is_there(paths)))
    if not is_there:
        return None
    recordings = [_recording(file, fit) for file, fit in zip(files, fits, strict=True) if fit]
    return _without_second_microphones(recordings) if layout.name == "vctk" else recordings


def _recording(file: AudioFile, fit: Fit) -> Recording:
    return Recording(**(vars(file) | vars(fit)))


def _without_second_microphones(recordings: Sequence[Recording]) -> list[Recording]:
    names = {recording.name for recording in recordings}
    result = []
    for recording in recordings:
        if "_mic2." in recording.name and recording.name.replace("_mic2.", "_mic1.") in names:
            recording = replace(recording, skip_reason="is the same sentence from the second microphone")
        result.append(recording)
    return result


def _with_the_rest(
    recordings: Sequence[Recording], files: Sequence[AudioFile], layout: str, role: Role | None, shown: str
) -> list[Recording]:
    """The recordings of the role in question, and with a reason those files that are none of any role."""
    kept = [recording for recording in recordings if role is None or recording.role == role]
    if all(recording.skip_reason for recording in kept):
        raise CorpusError(
            f"{shown}: has the layout {layout}, in which no {role or 'usable file'} was found: "
            "check the path or force --layout folder"
        )
    taken = {recording.path for recording in recordings} | {recording.minus for recording in recordings}
    for file in files:
        if file.path not in taken:
            reason = file.skip_reason or f"does not belong to the layout {layout}"
            kept.append(_recording(file, Fit(role=role or _ROLES[layout][0], group="", skip_reason=reason)))
    return [replace(recording, layout=layout) for recording in kept]


def _plain(files: Sequence[AudioFile], role: Role, grouping: Grouping) -> list[Recording]:
    """A folder that its user says holds one role alone."""
    usable = [file for file in files if not file.skip_reason]
    names = [file.name for file in usable]
    layout = "rir" if role == "rir" else "folder"
    unusable = [file for file in files if file.skip_reason]
    recordings = [Recording(**vars(file), role=role) for file in unusable]
    for file, group, hint in zip(usable, group_names(names, grouping), given_splits(names), strict=True):
        recordings.append(_recording(file, Fit(role=role, group=group, hint=hint)))
    return [replace(recording, layout=layout) for recording in recordings]
