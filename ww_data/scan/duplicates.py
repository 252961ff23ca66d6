"""Several clips with the same samples: one stays, or, of the clean sides of recorded pairs, all in one split."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from ww_data.manifest import SPLITS, Clip

# Which of several copies of a sound stays.
STAYS = {"": 0, "train": 1, "val": 2, "test": 3}


def leave_out_copies(
    clips: Sequence[Clip],
    hints: Mapping[str, str],
    known: Mapping[str, Clip],
    labels: Mapping[str, str],
    known_copies: Collection[tuple[str, str]] = (),
) -> tuple[list[Clip], dict[str, str]]:
    """Keep one of several copies: the one in use before, else the held-out one, then the first.

    Clean sides of pairs stay beside it, for the sake of their noises, unless their speakers belong to different
    splits: `labels` says which. `known_copies`, by id and sound, stay left out, whatever splits they would agree on
    now. The second result says for speakers that have a sound in common which one to deal in their place. The noises
    of pairs are left for `leave_out_noises`.
    """
    recorded = {f"speech/{clip.name}" for clip in clips if clip.minus and not clip.skip_reason}

    def rank(clip: Clip) -> tuple[bool, int]:
        return _is_as_before(clip, known), STAYS[hints.get(clip.id, "")]

    kept: dict[str, Clip] = {}
    for clip in clips:
        if not clip.skip_reason and rank(clip) > rank(kept.setdefault(clip.content_hash, clip)):
            kept[clip.content_hash] = clip
    speakers = _Joined(labels)
    result = []
    for clip in clips:
        other = kept.get(clip.content_hash, clip)
        if not clip.skip_reason and other is not clip and not (clip.minus and other.minus):
            is_twin = clip.id in recorded and other.id in recorded and other.role == clip.role
            may_join = is_twin and (clip.id, clip.content_hash) not in known_copies
            if not (may_join and speakers.join(clip.speaker, other.speaker)):
                clip = _left_out(clip, other, hints)
        result.append(clip)
    return result, {speaker: speakers.first(speaker) for speaker in sorted(speakers.above)}


def leave_out_noises(
    clips: Sequence[Clip], hints: Mapping[str, str], known: Mapping[str, Clip], splits: Mapping[str, str]
) -> list[Clip]:
    """Keep one of several pairs' noises with the same samples; `splits` are those of their speech, by recording.

    It is the one in use before, else one in a split that has no noise yet, else the held-out one, then the first.
    """
    copies: defaultdict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        if clip.minus and not clip.skip_reason:
            copies[clip.content_hash].append(clip)
    kept: dict[str, Clip] = {}
    num_noises: Counter[str] = Counter()
    for content, same in sorted(copies.items(), key=lambda item: len(item[1])):

        def rank(clip: Clip) -> tuple[bool, bool, int]:
            split = splits.get(clip.speaker, "")
            return _is_as_before(clip, known), split in SPLITS and not num_noises[split], STAYS[split]

        kept[content] = max(same, key=rank)
        num_noises[splits.get(kept[content].speaker, "")] += 1
    return [
        _left_out(clip, other, hints)
        if clip.minus and not clip.skip_reason and (other := kept[clip.content_hash]) is not clip
        else clip
        for clip in clips
    ]


class _Joined:
    """Groups that must be in one split with each other. `above` leads from each to another one of the same split."""

    def __init__(self, labels: Mapping[str, str]) -> None:
        self.above: dict[str, str] = {}
        self._labels = dict(labels)

    def first(self, group: str) -> str:
        while (above := self.above.get(group, group)) != group:
            group = above
        return group

    def join(self, one: str, other: str) -> bool:
        """False, and nothing done, if they belong to different splits."""
        first, second = sorted((self.first(one), self.first(other)))
        label, other_label = self._labels.get(first, ""), self._labels.get(second, "")
        if label and other_label and label != other_label:
            return False
        if first != second:
            self.above |= {first: first, second: first}
            self._labels[first] = label or other_label
        return True


def _is_as_before(clip: Clip, known: Mapping[str, Clip]) -> bool:
    before = known.get(clip.id)
    return before is not None and before.content_hash == clip.content_hash


def _left_out(clip: Clip, other: Clip, hints: Mapping[str, str]) -> Clip:
    split = hints.get(other.id, "")
    where = f", which is in {split}" if split and split != hints.get(clip.id, "") else ""
    return replace(clip, skip_reason=f"same sound as another file ({other.id}{where})")
