"""Recorded pairs: a folder with "clean" in its name and a twin with "noisy" beside it, with the same names in them.

At any depth: clean_testset_wav and noisy_testset_wav, train/clean and train/noisy. The noise is noisy - clean.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace

from ww_data.scan.files import AudioFile, Grouping, Recording, group_names
from ww_data.scan.layouts import hint_of

EXPECTED = "a folder clean and a folder noisy (or clean_trainset and noisy_trainset, ...) with the same names in them"
_CLEAN = re.compile(r"(?<![a-z])clean(?![a-z])", re.IGNORECASE)
# The file names of a DNS-Challenge test set share nothing but this.
_FILE_ID = re.compile(r"(?:^|_)fileid_(\d+)$")


def find_pairs(files: Sequence[AudioFile], speaker_from: Grouping) -> list[Recording]:
    """Speech and noise of all pairs in the order of their clean names; with a reason, what has no twin."""
    folders = {
        tuple(part.lower() for part in file.parts[:depth])
        for file in files
        for depth in range(len(file.parts))
    }
    clean: dict[tuple[str, ...], AudioFile] = {}
    noisy: dict[tuple[str, ...], AudioFile] = {}
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
    found = []
    for key in keys:
        hint = next((hint for part in reversed(key[:-1]) if (hint := hint_of(part))), "")
        speaker = "/".join(key) if _FILE_ID.search(key[-1]) else speakers[key]
        if key in clean:
            reason = "" if key in noisy else "has no noisy file of its name"
            about = {**vars(clean[key]), "skip_reason": reason}
            found.append(Recording(**about, role="speech", group=speaker, hint=hint))
        if key in noisy:
            found.append(_noise(noisy[key], clean.get(key), hint))
    return found


def _noise(noisy: AudioFile, clean: AudioFile | None, hint: str) -> Recording:
    """The noise of a pair, noisy - clean."""
    noise = Recording(**vars(noisy), role="noise", group=noisy.name, hint=hint)
    if clean is None:
        return replace(noise, skip_reason="has no clean file of its name")
    # A number that changes with the size or the time of either file.
    state = (noisy.size_bytes, noisy.modified_ns, clean.size_bytes, clean.modified_ns)
    return replace(
        noise,
        name=clean.name,
        group=clean.name,
        minus=clean.path,
        size_bytes=noisy.size_bytes + clean.size_bytes,
        modified_ns=int.from_bytes(hashlib.blake2b(repr(state).encode(), digest_size=7).digest()),
    )


def pair_name(name: str) -> str:
    """What the names of a pair's two files, below their folders, have in common: the path without its ending, or the
    number after `fileid_`."""
    folder, slash, last = name.rpartition("/")
    stem = _stem(last)
    return stem if _FILE_ID.search(stem) else f"{folder}{slash}{stem}"


def _stem(name: str) -> str:
    """What the two names of a pair have in common."""
    stem = name.rpartition(".")[0]
    file_id = _FILE_ID.search(stem)
    return f"fileid_{file_id[1]}" if file_id else stem
