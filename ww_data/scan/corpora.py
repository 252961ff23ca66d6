"""What the files of a folder are: clean speech, noise or room impulse responses, of whom, and for which split.

Known data sets and sets of pairs are recognised by their files (`layouts.py`, `pairs.py`); anything else is a plain
folder that holds what its user says.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote

from ww_data.manifest import ROLES, CorpusError, Role
from ww_data.scan.files import Found, Grouping, find_audio, given_splits, group_names
from ww_data.scan.layouts import DATA_SETS, Fit, Layout
from ww_data.scan.pairs import EXPECTED, find_pairs

_ROLES: dict[str, tuple[Role, ...]] = {
    "folder": ROLES,
    "pairs": ("speech", "noise"),
    **{layout.name: layout.roles for layout in DATA_SETS},
}
_EXPECTED = {"pairs": EXPECTED, **{layout.name: layout.expected for layout in DATA_SETS}}
LAYOUTS = tuple(_ROLES)
# A folder is taken for a data set if at least this part of its audio files fit.
_ENOUGH = 0.9


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A sound to be read. `name` is the path of its file below the root, of the clean one where there is a `minus`."""

    path: str  # or address
    name: str
    role: Role
    group: str = ""
    hint: str = ""  # the split that it comes with: "train", "val", "test" or ""
    skip_reason: str = ""
    minus: str = ""  # the clean file to subtract
    layout: str = ""
    size_bytes: int = 0
    modified_ns: int = 0

    @property
    def id(self) -> str:
        """The id of its clip."""
        return f"{self.role}/{self.name}"


def find_entries(
    root: str | os.PathLike[str],
    role: Role | None,
    *,
    layout: str = "auto",
    grouping: Mapping[Role, Grouping],
) -> list[Entry]:
    """The entries below a folder or an address, of one role or, for a data set that is given as such, of all (None).

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
    for name, read in _readers(Path(unquote(shown)).absolute().name, grouping).items():
        if wanted not in ("auto", name):
            continue
        entries = read(usable, wanted == name)
        if entries is not None:
            return _with_the_rest(entries, files, name, role, shown)
        if wanted == name:
            raise CorpusError(f"{shown}: has not the layout {name}: expected {_EXPECTED[name]}")
    if role is None:
        raise CorpusError(
            f"{shown}: is none of the known data sets ({', '.join(LAYOUTS[1:])}): "
            "use --speech and --noise for plain folders, or force its --layout"
        )
    return _plain(files, role, grouping[role])


def _list(root: str | os.PathLike[str], shown: str, role: Role | None) -> list[Found]:
    if "://" not in shown and not Path(root).is_dir():
        raise CorpusError(f"{shown}: is not a folder of {role or 'audio'} that can be read: check the path")
    try:
        files = find_audio(root)
    except OSError as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CorpusError(f"{shown}: cannot be listed ({first_line}): check the address") from error
    if not files and "://" in shown:
        raise CorpusError(f"{shown}: cannot be listed, or holds no audio files: check the address")
    if not files and role is None:
        raise CorpusError(f"{shown}: holds no audio files: check the path")
    return files


Reader = Callable[[Sequence[Found], bool], list[Entry] | None]


def _readers(root_name: str, grouping: Mapping[Role, Grouping]) -> dict[str, Reader]:
    """How to read each layout but "folder", in the order of asking: None, where the files have it not.

    A speaker's folders may lie in the folders of a pair, so pairs are asked for before what goes by speakers.
    """

    def data_set(layout: Layout) -> Reader:
        return lambda files, is_forced: _data_set(files, root_name, layout, is_forced)

    first, rest = DATA_SETS[:2], DATA_SETS[2:]
    return {
        **{layout.name: data_set(layout) for layout in first},
        "pairs": lambda files, is_forced: _pairs(files, grouping["speech"], is_forced),
        **{layout.name: data_set(layout) for layout in rest},
    }


def _data_set(files: Sequence[Found], root_name: str, layout: Layout, is_forced: bool) -> list[Entry] | None:
    paths = [(root_name, *file.parts) for file in files]
    fits = [layout.rule(parts) for parts in paths]
    if elsewhere := layout.without(paths):
        other = Fit(
            role=layout.roles[0], group="", skip_reason="lies beside noisy speech: give its folder by itself"
        )
        fits = [
            other if any(parts[:depth] in elsewhere for depth in range(1, len(parts))) else fit
            for fit, parts in zip(fits, paths, strict=True)
        ]
    num_fits = sum(fit is not None and not fit.skip_reason for fit in fits)
    is_enough = layout.is_told_by_folders or sum(fit is not None for fit in fits) >= _ENOUGH * len(files)
    is_there = num_fits > 0 and (is_forced or (is_enough and layout.is_there(paths)))
    if not is_there:
        return None
    entries = [_entry(file, fit) for file, fit in zip(files, fits, strict=True) if fit]
    return _without_second_microphones(entries) if layout.name == "vctk" else entries


def _entry(file: Found, fit: Fit) -> Entry:
    return Entry(
        path=file.location,
        name=file.name,
        role=fit.role,
        group=fit.group,
        hint=fit.hint,
        skip_reason=fit.skip_reason,
        size_bytes=file.size_bytes,
        modified_ns=file.modified_ns,
    )


def _without_second_microphones(entries: Sequence[Entry]) -> list[Entry]:
    names = {entry.name for entry in entries}
    return [
        replace(entry, skip_reason="is the same sentence from the second microphone")
        if "_mic2." in entry.name and entry.name.replace("_mic2.", "_mic1.") in names
        else entry
        for entry in entries
    ]


def _pairs(files: Sequence[Found], speaker_from: Grouping, is_forced: bool) -> list[Entry] | None:
    pairs = find_pairs(files, speaker_from)
    num_files = 2 * sum(pair.clean is not None and pair.noisy is not None for pair in pairs)
    if num_files == 0 or (not is_forced and 2 * num_files < len(files)):
        return None
    entries = []
    for pair in pairs:
        clean, noisy = pair.clean, pair.noisy
        if clean:
            speech = _entry(clean, Fit(role="speech", group=pair.speaker, hint=pair.hint))
            entries.append(speech if noisy else replace(speech, skip_reason="has no noisy file of its name"))
        if noisy:
            name = clean.name if clean else noisy.name
            noise = replace(_entry(noisy, Fit(role="noise", group=name, hint=pair.hint)), name=name)
            if clean:
                noise = replace(
                    noise,
                    minus=clean.location,
                    size_bytes=noisy.size_bytes + clean.size_bytes,
                    modified_ns=_state_of_both(noisy, clean),
                )
            entries.append(noise if clean else replace(noise, skip_reason="has no clean file of its name"))
    return entries


def _state_of_both(noisy: Found, clean: Found) -> int:
    """A number that changes with the size or the time of either file."""
    state = (noisy.size_bytes, noisy.modified_ns, clean.size_bytes, clean.modified_ns)
    return int.from_bytes(hashlib.blake2b(repr(state).encode(), digest_size=7).digest())


def _with_the_rest(
    entries: Sequence[Entry], files: Sequence[Found], layout: str, role: Role | None, shown: str
) -> list[Entry]:
    """The entries of the role in question, and with a reason those files that are none of any role."""
    kept = [entry for entry in entries if role is None or entry.role == role]
    if not any(not entry.skip_reason for entry in kept):
        raise CorpusError(
            f"{shown}: has the layout {layout}, in which no {role or 'usable file'} was found: "
            "check the path or force --layout folder"
        )
    taken = {entry.path for entry in entries} | {entry.minus for entry in entries}
    for file in files:
        if file.location not in taken:
            reason = file.skip_reason or f"does not belong to the layout {layout}"
            kept.append(_entry(file, Fit(role=role or _ROLES[layout][0], group="", skip_reason=reason)))
    return [replace(entry, layout=layout) for entry in kept]


def _plain(files: Sequence[Found], role: Role, grouping: Grouping) -> list[Entry]:
    """A folder that its user says holds one role alone."""
    usable = [file for file in files if not file.skip_reason]
    names = [file.name for file in usable]
    layout = "rir" if role == "rir" else "folder"
    entries = [
        _entry(file, Fit(role=role, group="", skip_reason=file.skip_reason))
        for file in files
        if file.skip_reason
    ]
    for file, group, hint in zip(usable, group_names(names, grouping), given_splits(names), strict=True):
        entries.append(_entry(file, Fit(role=role, group=group, hint=hint)))
    return [replace(entry, layout=layout) for entry in entries]
