"""Dealing clips to train, val and test: no speaker, recording, room or sound in two of them.

Splits that a data set comes with (hints) and those of an earlier manifest are kept; the rest is dealt by
`ww_data.splits`. What would be in two splits stays in the held-out one and is left out elsewhere, with the reason.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ww_data.manifest import GROUP_WORDS, ROLES, Clip, CorpusError, Manifest
from ww_data.splits import SPLITS, assign_splits, splits_without_groups

_OPTION = {"speech": "speaker_from", "noise": "recording_from"}
# Which of several copies of a sound stays.
_STAYS = {"": 0, "train": 1, "val": 2, "test": 3}


@dataclass(frozen=True, kw_only=True)
class Dealer:
    """What decides the splits: fractions of the seconds, a seed, hints by clip id, and an earlier manifest.

    Hints of a role that leave nothing for train are no use and do not count. The splits of `known` do not count if
    it was dealt with another seed.
    """

    val_fraction: float
    test_fraction: float
    seed: int
    hints: Mapping[str, str]
    known: Manifest | None = None

    def deal(self, clips: Sequence[Clip]) -> list[Clip]:
        """The clips in their order, each with its split or the reason why it is left out.

        Raises CorpusError if there are too few groups of speech or of noise.
        """
        hints = _useful_hints(clips, self.hints)
        known: list[Clip] = []
        if self.known and self.known.seed == self.seed:
            known = [clip for clip in self.known.clips if clip.split]
        in_use = {clip.id: clip for clip in known}
        dealt = leave_out_copies(clips, hints, in_use)
        # What is in use already was dealt under the same rules, perhaps with fewer hints.
        new_hints = {name: hint for name, hint in hints.items() if name not in in_use}
        for role in ROLES:
            fixed = {clip.speaker: clip.split for clip in known if clip.role == role}
            if role == "noise":
                fixed |= _splits_of_partners(dealt)
            dealt = self._deal_role(dealt, role, hints, new_hints, fixed)
        return dealt

    def _deal_role(
        self,
        clips: Sequence[Clip],
        role: str,
        hints: Mapping[str, str],
        new_hints: Mapping[str, str],
        fixed: Mapping[str, str],
    ) -> list[Clip]:
        held_out = _held_out_groups(clips, role, hints)
        fixed = {**held_out, **fixed}
        clips = [_without_conflict(clip, role, new_hints, held_out, fixed) for clip in clips]
        group_seconds: defaultdict[str, float] = defaultdict(float)
        for clip in clips:
            if clip.role == role and not clip.skip_reason:
                group_seconds[clip.speaker] += clip.seconds
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
        return [
            replace(clip, split=split_of[clip.speaker])
            if clip.role == role and not clip.skip_reason
            else clip
            for clip in clips
        ]


def leave_out_copies(
    clips: Sequence[Clip], hints: Mapping[str, str], known: Mapping[str, Clip]
) -> list[Clip]:
    """Keep one of several clips with the same samples: the one in use before, else the held-out one, then the first."""

    def rank(clip: Clip) -> tuple[bool, int]:
        before = known.get(clip.id)
        return before is not None and before.content_hash == clip.content_hash, _STAYS[hints.get(clip.id, "")]

    kept: dict[str, Clip] = {}
    for clip in clips:
        if not clip.skip_reason and rank(clip) > rank(kept.setdefault(clip.content_hash, clip)):
            kept[clip.content_hash] = clip
    result = []
    for clip in clips:
        if not clip.skip_reason and (other := kept[clip.content_hash]) is not clip:
            split = hints.get(other.id, "")
            where = f", which is in {split}" if split and split != hints.get(clip.id, "") else ""
            clip = replace(clip, skip_reason=f"same sound as another file ({other.id}{where})")
        result.append(clip)
    return result


def _useful_hints(clips: Sequence[Clip], hints: Mapping[str, str]) -> dict[str, str]:
    """The hints of those roles that have something left for train."""
    useful: dict[str, str] = {}
    for role in ROLES:
        groups = {clip.speaker for clip in clips if clip.role == role and not clip.skip_reason}
        if groups - _held_out_groups(clips, role, hints).keys():
            useful |= {clip.id: hints.get(clip.id, "") for clip in clips if clip.role == role}
    return useful


def _held_out_groups(clips: Sequence[Clip], role: str, hints: Mapping[str, str]) -> dict[str, str]:
    """The groups with a hint for val or test; test, if they have both."""
    held_out: dict[str, str] = {}
    for clip in clips:
        hint = hints.get(clip.id, "")
        if clip.role == role and not clip.skip_reason and hint in ("val", "test"):
            held_out[clip.speaker] = max(held_out.get(clip.speaker, ""), hint, key=_STAYS.__getitem__)
    return held_out


def _without_conflict(
    clip: Clip, role: str, hints: Mapping[str, str], held_out: Mapping[str, str], fixed: Mapping[str, str]
) -> Clip:
    """A clip whose own hint is another split than its group's is left out, so that no held-out set is changed."""
    hint = hints.get(clip.id, "")
    if clip.role != role or clip.skip_reason or not hint or clip.speaker not in held_out:
        return clip
    split = fixed[clip.speaker]
    if hint == split:
        return clip
    group = GROUP_WORDS[role].removesuffix("s")
    return replace(
        clip, skip_reason=f"its {group} is in another split ({clip.speaker} is in {split}, not {hint})"
    )


def _splits_of_partners(clips: Sequence[Clip]) -> dict[str, str]:
    """The split of each pair's noise: that of its speaker, wherever that speaker has a clip in use."""
    speaker_of = {clip.id: clip.speaker for clip in clips if clip.role == "speech"}
    split_of = {clip.speaker: clip.split for clip in clips if clip.role == "speech" and clip.split}
    splits = {}
    for clip in clips:
        partner = f"speech/{clip.id.removeprefix('noise/')}"
        if clip.minus and (split := split_of.get(speaker_of.get(partner, ""))):
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
