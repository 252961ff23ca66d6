"""Dealing clips to train, val and test: no speaker, recording, room or sound in two of them.

Splits that a data set comes with (hints) and those of an earlier manifest are kept; the rest is dealt, by a seed. What
would be in two splits stays in the held-out one and is left out elsewhere, with the reason.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from ww_data.manifest import GROUP_WORDS, ROLES, SPLITS, Clip, CorpusError, Manifest
from ww_data.randomness import keyed_order
from ww_data.scan.duplicates import STAYS, leave_out_copies, leave_out_noises
from ww_data.scan.known import find_known, kept_splits, with_known_groups

_OPTION = {"speech": "speaker_from", "noise": "recording_from"}
# A group may overfill what a held-out split still lacks by this factor: small corpora have no group that fits exactly.
_SLACK = 1.25


@dataclass(frozen=True, kw_only=True)
class Dealer:
    """What decides the splits: fractions of the seconds, a seed, hints by clip id, and an earlier manifest.

    Hints that leave nothing of a role for train do not count, nor does `known` if it has another seed.
    """

    val_fraction: float
    test_fraction: float
    seed: int
    hints: Mapping[str, str]
    known: Manifest | None = None

    def deal(self, clips: Sequence[Clip]) -> list[Clip]:
        """The clips in order, each with its split or the reason why it is left out; CorpusError for too few groups."""
        hints = _useful_hints(clips, self.hints)
        known = self._known()
        found = find_known(clips, known)
        dealt = with_known_groups(clips, found)
        known_splits: dict[str, dict[str, str]] = {role: {} for role in ROLES}
        for clip in known:
            known_splits[clip.role][clip.speaker] = clip.split
        labels = _labels(dealt, hints) | known_splits["speech"]
        dealt, stand_ins = leave_out_copies(dealt, hints, found, labels, self._known_copies())
        # What is in use already was dealt under the same rules, perhaps with fewer hints.
        new_hints = {name: hint for name, hint in hints.items() if name not in found}
        for role in ROLES:
            fixed, joined = known_splits[role], stand_ins if role == "speech" else {}
            if role == "noise":
                fixed = _splits_of_partners(dealt) | fixed
                dealt = leave_out_noises(dealt, hints, found, fixed)
            dealt = self._deal_role(dealt, role, hints, new_hints, fixed, joined)
        return dealt

    def notes(self, clips: Sequence[Clip]) -> tuple[str, ...]:
        """What to tell of the splits: hints that were of no use, and known ones that would be others if dealt anew."""
        notes = [_useless_hints(clips, self.hints, role) for role in ROLES]
        found = find_known(clips, self._known())
        if found:
            with contextlib.suppress(CorpusError):
                notes.append(kept_splits(found, replace(self, known=None).deal(clips)))
        return tuple(filter(None, notes))

    def _known(self) -> list[Clip]:
        """The clips that keep their splits."""
        if not self.known or self.known.seed != self.seed:
            return []
        return [clip for clip in self.known.clips if clip.split]

    def _known_copies(self) -> set[tuple[str, str]]:
        """Id and sound of each clip that was left out for another with that sound."""
        used = {clip.content_hash for clip in self._known()}
        clips = self.known.clips if self.known and used else ()
        return {
            (clip.id, clip.content_hash) for clip in clips if not clip.split and clip.content_hash in used
        }

    def _deal_role(
        self,
        clips: Sequence[Clip],
        role: str,
        hints: Mapping[str, str],
        new_hints: Mapping[str, str],
        fixed: Mapping[str, str],
        stand_ins: Mapping[str, str],
    ) -> list[Clip]:
        held_out = _of_joined(_held_out_groups(clips, role, hints), stand_ins)
        fixed = {**held_out, **_of_joined(fixed, stand_ins)}
        clips = [_without_conflict(clip, role, new_hints, held_out, fixed, stand_ins) for clip in clips]
        group_of = {clip.speaker: stand_ins.get(clip.speaker, clip.speaker) for clip in _usable(clips, role)}
        group_seconds: defaultdict[str, float] = defaultdict(float)
        for clip in _usable(clips, role):
            group_seconds[group_of[clip.speaker]] += clip.seconds
        fixed = {group: split for group, split in fixed.items() if group in group_seconds}
        num_free, empty = len(group_seconds) - len(fixed), splits_without_groups(fixed)
        if num_free >= len(empty):
            split_of = assign_splits(
                group_seconds,
                val_fraction=self.val_fraction,
                test_fraction=self.test_fraction,
                seed=self.seed,
                fixed=fixed,
                closed=set(held_out.values()),
            )
        elif role == "rir":  # optional, and only training draws many
            split_of = {group: fixed.get(group, "train") for group in group_seconds}
        else:
            raise CorpusError(_too_few(clips, role, sorted(group_seconds.keys() - fixed.keys()), empty))
        dealt = {clip.id: split_of[group_of[clip.speaker]] for clip in _usable(clips, role)}
        return [replace(clip, split=dealt.get(clip.id, clip.split)) for clip in clips]


def _usable(clips: Sequence[Clip], role: str) -> list[Clip]:
    return [clip for clip in clips if clip.role == role and not clip.skip_reason]


def _useful_hints(clips: Sequence[Clip], hints: Mapping[str, str]) -> dict[str, str]:
    """The hints of those roles that have something left for train."""
    useful: dict[str, str] = {}
    for role in ROLES:
        groups = {clip.speaker for clip in _usable(clips, role)}
        if groups - _held_out_groups(clips, role, hints).keys():
            useful |= {clip.id: hints.get(clip.id, "") for clip in clips if clip.role == role}
    return useful


def _useless_hints(clips: Sequence[Clip], hints: Mapping[str, str], role: str) -> str:
    """A note on splits that a data set comes with and that do not count; "" if there are none."""
    of_role = [clip for clip in _usable(clips, role) if hints.get(clip.id)]
    if not of_role or of_role[0].id in _useful_hints(clips, hints):
        return ""
    splits = sorted({hints[clip.id] for clip in of_role}, key=SPLITS.index)
    return (
        f"{role}: its own splits ({', '.join(splits)}) leave nothing to train on, so all of it was dealt anew: give "
        "the part for training, too, if those splits are to stay"
    )


def _held_out_groups(clips: Sequence[Clip], role: str, hints: Mapping[str, str]) -> dict[str, str]:
    """The groups with a hint for val or test; test, if they have both."""
    held_out: dict[str, str] = {}
    for clip in _usable(clips, role):
        if (hint := hints.get(clip.id, "")) in ("val", "test"):
            held_out[clip.speaker] = max(held_out.get(clip.speaker, ""), hint, key=STAYS.__getitem__)
    return held_out


def _labels(clips: Sequence[Clip], hints: Mapping[str, str]) -> dict[str, str]:
    """The splits that speakers come with; train, if nothing of them is held out."""
    of_train = {clip.speaker: "train" for clip in clips if hints.get(clip.id) == "train"}
    return of_train | _held_out_groups(clips, "speech", hints)


def _of_joined(splits: Mapping[str, str], stand_ins: Mapping[str, str]) -> dict[str, str]:
    """The split of each group and of those that are dealt with it: the one held out most, where they have several."""
    joined: dict[str, str] = {}
    for speaker, split in splits.items():
        first = stand_ins.get(speaker, speaker)
        joined[first] = max(joined.get(first, ""), split, key=STAYS.__getitem__)
    return joined


def _without_conflict(
    clip: Clip,
    role: str,
    hints: Mapping[str, str],
    held_out: Mapping[str, str],
    fixed: Mapping[str, str],
    stand_ins: Mapping[str, str],
) -> Clip:
    """A clip whose own hint is another split than its group's is left out, so that no held-out set is changed."""
    hint, first = hints.get(clip.id, ""), stand_ins.get(clip.speaker, clip.speaker)
    if clip.role != role or clip.skip_reason or not hint or first not in held_out:
        return clip
    split, group = fixed[first], GROUP_WORDS[role].removesuffix("s")
    if hint == split:
        return clip
    reason = f"its {group} is in another split ({clip.speaker} is in {split}, not {hint})"
    return replace(clip, skip_reason=reason)


def _splits_of_partners(clips: Sequence[Clip]) -> dict[str, str]:
    """The split of each pair's noise: that of its speaker, wherever that speaker has a clip in use."""
    speaker_of = {clip.id: clip.speaker for clip in clips if clip.role == "speech"}
    split_of = {clip.speaker: clip.split for clip in clips if clip.role == "speech" and clip.split}
    splits = {}
    for clip in clips:
        if clip.minus and (split := split_of.get(speaker_of.get(f"speech/{clip.name}", ""))):
            splits[clip.speaker] = split
    return splits


def _too_few(clips: Sequence[Clip], role: str, groups: Sequence[str], empty: Sequence[str]) -> str:
    what = GROUP_WORDS[role]
    of_role = [clip for clip in clips if clip.role == role]
    skipped = [clip for clip in of_role if clip.skip_reason]
    needed = f"{len(empty)} {what} are needed, one for each split"
    if len(empty) < len(SPLITS):
        needed = f"{len(empty)} more {what} are needed, for {' and '.join(empty)}"
    text = f"{role}: {needed}, but {len(groups)} were found"
    text += f" ({', '.join(groups)})" if groups else ""
    text += f" in {len(of_role) - len(skipped)} usable files"
    if skipped:
        text += f" ({len(skipped)} left out, the first, {skipped[0].id}: {skipped[0].skip_reason})"
    return f"{text}: add {what} or say how they are told apart ({_OPTION[role]}: folder, prefix or file)"


def splits_without_groups(split_of: Mapping[str, str]) -> list[str]:
    """The splits that no group is in yet."""
    return [split for split in SPLITS if split not in split_of.values()]


def assign_splits(
    group_seconds: Mapping[str, float],
    *,
    val_fraction: float,
    test_fraction: float,
    seed: int,
    fixed: Mapping[str, str] | None = None,
    closed: Collection[str] = (),
) -> dict[str, str]:
    """The split of each group, so that "val" and "test" hold about their fraction of the seconds.

    Groups are visited in the order of a seeded hash of their names, so that one more group moves few of the others.
    `fixed` says the split of some groups beforehand; a split in `closed` that has such a group takes no others, and the
    fractions are of what is in the open ones. Each split gets a group; a ValueError says that there are too few.
    """
    split_of = {name: split for name, split in (fixed or {}).items() if name in group_seconds}
    waiting = sorted(group_seconds.keys() - split_of.keys(), key=lambda name: keyed_order(seed, name))
    if len(waiting) < len(empty := splits_without_groups(split_of)):
        raise ValueError(f"{len(waiting)} groups cannot fill {len(empty)} splits")
    closed = set(closed) & set(split_of.values())
    total = sum(seconds for name, seconds in group_seconds.items() if split_of.get(name) not in closed)
    for split, fraction in (("test", test_fraction), ("val", val_fraction)):
        if split in closed:
            continue
        empty = splits_without_groups(split_of)
        num_reserved = len([other for other in empty if other != split])
        lacking = fraction * total - sum(group_seconds[name] for name in split_of if split_of[name] == split)
        chosen: list[str] = []
        for name in waiting:
            enough_left = len(waiting) - len(chosen) > num_reserved
            if enough_left and group_seconds[name] <= _SLACK * lacking:
                chosen.append(name)
                lacking -= group_seconds[name]
        if not chosen and split in empty:
            chosen = [min(waiting, key=lambda name: group_seconds[name])]
        split_of.update(dict.fromkeys(chosen, split))
        waiting = [name for name in waiting if name not in split_of]
    return split_of | dict.fromkeys(waiting, "train")
