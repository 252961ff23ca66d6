"""Recorded pairs: a noisy and a clean folder with the same names in them, as VoiceBank-DEMAND ships them.

Any folder with the word "clean" in its name that has a twin with "noisy" in the same place makes pairs, at any depth:
clean_testset_wav and noisy_testset_wav, train/clean and train/noisy. The noise of a pair is noisy - clean.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ww_data.scan.files import Found, Grouping, group_names
from ww_data.scan.layouts import hint_of

EXPECTED = "a folder clean and a folder noisy (or clean_trainset and noisy_trainset, ...) with the same names in them"
_CLEAN = re.compile(r"(?<![a-z])clean(?![a-z])", re.IGNORECASE)
# The file names of a DNS-Challenge test set share nothing but this.
_FILE_ID = re.compile(r"(?:^|_)fileid_(\d+)$")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A clean and a noisy file; None for one that is not there."""

    clean: Found | None
    noisy: Found | None
    speaker: str
    hint: str  # split that the names of its folders say, or ""


def find_pairs(files: Sequence[Found], speaker_from: Grouping) -> list[Pair]:
    """All pairs among files, and what lies in such folders without a partner; in the order of the clean names."""
    folders = {
        tuple(part.lower() for part in file.parts[:depth])
        for file in files
        for depth in range(len(file.parts))
    }
    clean: dict[tuple[str, ...], Found] = {}
    noisy: dict[tuple[str, ...], Found] = {}
    rests: dict[tuple[str, ...], str] = {}
    for file in files:
        for depth, folder in enumerate(file.parts[:-1]):
            above = tuple(part.lower() for part in file.parts[:depth])
            as_clean = re.sub(r"(?<![a-z])noisy(?![a-z])", "clean", folder.lower())
            as_noisy = _CLEAN.sub("noisy", folder.lower())
            if as_clean != as_noisy and {(*above, as_clean), (*above, as_noisy)} <= folders:
                rest = file.parts[depth + 1 :]
                key = (*above, as_clean, *rest[:-1], _stem(rest[-1]))
                (noisy if folder.lower() == as_noisy else clean).setdefault(key, file)
                rests.setdefault(key, "/".join(rest))
                break
    keys = sorted(clean.keys() | noisy.keys())
    speakers = dict(zip(keys, group_names([rests[key] for key in keys], speaker_from), strict=True))
    return [
        Pair(
            clean=clean.get(key),
            noisy=noisy.get(key),
            speaker="/".join(key) if _FILE_ID.search(key[-1]) else speakers[key],
            hint=next((hint for part in reversed(key[:-1]) if (hint := hint_of(part))), ""),
        )
        for key in keys
    ]


def _stem(name: str) -> str:
    """What the two names of a pair have in common."""
    stem = name.rpartition(".")[0]
    file_id = _FILE_ID.search(stem)
    return f"fileid_{file_id[1]}" if file_id else stem
