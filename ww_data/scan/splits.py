"""Which speaker (or noise recording) goes to which split: seeded, disjoint, blind to the order of files."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ww_data.randomness import keyed_order

SPLITS = ("train", "val", "test")

# A group may overfill what a held-out split still lacks by this factor: small corpora have no group that fits
# exactly.
_SLACK = 1.25


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

    Groups are visited in the order of a seeded hash of their names: it depends on no file system, and a group
    that is added later moves few of the others. `fixed` says the split of some groups beforehand; a split in
    `closed` that has such a group takes no others, and the fractions are of what is in the open ones. Each split
    gets at least one group; a ValueError says that there are too few.
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
