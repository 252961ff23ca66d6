"""What an earlier manifest says of the clips of a new scan: their names, their groups, their splits.

A file is known by its path, or where it was moved to (`moved`); a clip by its id or by its sound.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from ww_data.manifest import GROUP_WORDS, ROLES, Clip, CorpusError, Manifest
from ww_data.scan.files import Recording
from ww_data.scan.moved import NUMBER, Place, place


def with_own_names(
    recordings: Iterable[Recording], known: Manifest | None, moved: Mapping[Place, Clip]
) -> list[Recording]:
    """Each file once, and none with the name of another; both sides of a pair have the same name.

    What is known keeps its name. Others of one name get numbers in the order of their paths.
    """
    files: defaultdict[str, dict[str, Recording]] = defaultdict(dict)  # by the clean path, then by role
    for recording in recordings:
        unit = files[recording.minus or recording.path]
        other = unit.setdefault(recording.role, recording)
        if len(recording.name) > len(other.name):  # below two of the folders: the outer one
            unit[recording.role] = recording
    names = _known_names(files, known, moved)
    taken: set[str] = set()
    result = []
    for path, unit in sorted(files.items(), key=lambda item: (item[0] not in names, item[0])):
        first = names.get(path) or next(iter(unit.values())).name
        name, number = first, 1
        while any(f"{role}/{name}" in taken for role in unit):
            number += 1
            name = f"{NUMBER.sub('', first) if path in names else first}#{number}"
        for role, recording in unit.items():
            taken.add(f"{role}/{name}")
            group = name if recording.group == recording.name else recording.group
            result.append(replace(recording, name=name, group=group))
    return result


def _known_names(
    files: Mapping[str, Mapping[str, Recording]], known: Manifest | None, moved: Mapping[Place, Clip]
) -> dict[str, str]:
    """The name that each known file had, by its path now."""
    by_path = {clip.minus or clip.path: clip.name for clip in (known.clips if known else ())}
    names: dict[str, str] = {}
    for path, unit in files.items():
        if path in by_path:
            names[path] = by_path[path]
        elif clip := next(filter(None, (moved.get(place(item)) for item in unit.values())), None):
            names[path] = clip.name
    return names


def find_known(clips: Sequence[Clip], known: Sequence[Clip]) -> dict[str, Clip]:
    """The known clip that each clip was, by its id now: the same sound under its id, then under any, then its id."""
    by_id = {clip.id: clip for clip in known}
    usable = [clip for clip in clips if not clip.skip_reason]
    same = [clip for clip in usable if clip.id in by_id and by_id[clip.id].content_hash == clip.content_hash]
    found = {clip.id: by_id[clip.id] for clip in same}
    waiting: defaultdict[tuple[str, str], list[Clip]] = defaultdict(list)
    for before in sorted(known, key=lambda clip: clip.id, reverse=True):
        if before.id not in found:
            waiting[before.role, before.content_hash].append(before)
    for clip in usable:
        if clip.id not in found and (twins := waiting.get((clip.role, clip.content_hash))):
            found[clip.id] = twins.pop()
    matched = {before.id for before in found.values()}
    for clip in usable:
        if clip.id not in found and clip.id in by_id and clip.id not in matched:
            found[clip.id] = by_id[clip.id]
    return found


def with_known_groups(clips: Sequence[Clip], found: Mapping[str, Clip]) -> list[Clip]:
    """The clips with the groups that they had before; new ones of a group that was renamed go with it.

    Raises CorpusError if files are grouped in another way than before: then a speaker could come to be in two splits.
    """
    names: dict[tuple[str, str], str] = {}
    for role in ROLES:
        now: defaultdict[str, set[str]] = defaultdict(set)
        then: defaultdict[str, set[str]] = defaultdict(set)
        of_role = [clip for clip in clips if clip.role == role and clip.id in found]
        for clip in of_role:
            before = found[clip.id].speaker
            now[clip.speaker].add(before)
            then[before].add(clip.speaker)
        moved = [clip for clip in of_role if found[clip.id].speaker != clip.speaker]
        changed = [
            clip for clip in moved if len(now[clip.speaker]) > 1 or len(then[found[clip.id].speaker]) > 1
        ]
        if changed:
            raise CorpusError(_regrouped(changed, found))
        names |= {(role, group): next(iter(before)) for group, before in now.items()}
    return [replace(clip, speaker=names.get((clip.role, clip.speaker), clip.speaker)) for clip in clips]


def _regrouped(changed: Sequence[Clip], found: Mapping[str, Clip]) -> str:
    clip = changed[0]
    what = GROUP_WORDS[clip.role]
    return (
        f"{len(changed)} files of the corpus that is there would come to other {what}, such as {clip.id} "
        f"({clip.speaker}, was {found[clip.id].speaker}): use the same options and folders as before (new ones beside "
        "them, not above them), or another --out"
    )


def kept_splits(found: Mapping[str, Clip], fresh: Sequence[Clip]) -> str:
    """A note on the known clips that would be in another split if all were dealt anew; "" if there are none."""
    moved = [clip for clip in fresh if clip.split and clip.id in found and found[clip.id].split != clip.split]
    if not moved:
        return ""
    clip = moved[0]
    return (
        f"kept the splits of the corpus that is there: dealt anew, {len(moved)} of its files would be in another, such "
        f"as {clip.id} (in {found[clip.id].split}, not {clip.split})"
    )
