"""Which speaker (or noise recording) goes to which split: seeded, disjoint, blind to the order of files."""

from __future__ import annotations

from collections.abc import Mapping

from ww_data.keyed import keyed_order

SPLITS = ("train", "val", "test")

# A group may overfill what a held-out split still lacks by this factor: small corpora have no group that fits
# exactly.
_SLACK = 1.25


def assign_splits(
    group_seconds: Mapping[str, float], *, val_fraction: float, test_fraction: float, seed: int
) -> dict[str, str]:
    """The split of each group, so that "val" and "test" hold about their fraction of the seconds.

    Groups are visited in the order of a seeded hash of their names: it depends on no file system, and a group
    that is added later moves few of the others. Each split gets at least one group; fewer than three groups
    are a ValueError.
    """
    if len(group_seconds) < len(SPLITS):
        raise ValueError(f"{len(group_seconds)} groups cannot fill {len(SPLITS)} splits")
    waiting = sorted(group_seconds, key=lambda name: keyed_order(seed, name))
    total = sum(group_seconds.values())
    split_of: dict[str, str] = {}
    for split, fraction, num_reserved in (("test", test_fraction, 2), ("val", val_fraction, 1)):
        lacking = fraction * total
        chosen: list[str] = []
        for name in waiting:
            enough_left = len(waiting) - len(chosen) > num_reserved
            if enough_left and group_seconds[name] <= _SLACK * lacking:
                chosen.append(name)
                lacking -= group_seconds[name]
        chosen = chosen or [min(waiting, key=lambda name: group_seconds[name])]
        split_of.update(dict.fromkeys(chosen, split))
        waiting = [name for name in waiting if name not in split_of]
    return split_of | dict.fromkeys(waiting, "train")
