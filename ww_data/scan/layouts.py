"""Known data sets, each by the names of its folders and files alone.

A rule looks at one path, from the root's own name down to the file's, and says what the file is, or None. What lies
between or above the telling parts does not matter, so a root may be given a level too high or too low.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from ww_data.manifest import Role
from ww_data.scan.files import SPLIT_FOLDERS, prefix

Parts = tuple[str, ...]

# Noises of the DNS-Challenge: pieces of a sound of Freesound, and clips of AudioSet.
_FREESOUND = re.compile(r"(.*freesound.*_\d+)_\d+\.", re.IGNORECASE)
_AUDIOSET = re.compile(r"[\w-]{11}\.\w+")


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What a file is: its role, the group that must stay in one split, and the split it was given, if any."""

    role: Role
    group: str
    hint: str = ""
    skip_reason: str = ""


@dataclass(frozen=True)
class Layout:
    """A data set: what `roles` it holds, what files are `expected`, and how to tell.

    `is_there` looks at all paths at once, where single ones say too little; `is_told_by_folders` means that it is
    enough, whatever else lies beside. `without` names folders of a data set that belong to another.
    """

    name: str
    roles: tuple[Role, ...]
    expected: str
    rule: Callable[[Parts], Fit | None]
    is_there: Callable[[Sequence[Parts]], bool] = lambda paths: True
    is_told_by_folders: bool = False
    without: Callable[[Sequence[Parts]], Collection[Parts]] = lambda paths: ()


def hint_of(folder: str) -> str:
    """The split in a folder's name, such as "dev-clean" or "testset": "train", "val", "test" or ""."""
    for word in re.findall("[a-z]+", folder.lower()):
        if split := SPLIT_FOLDERS.get(word.removesuffix("set")):
            return split
    return ""


def _librispeech(parts: Parts) -> Fit | None:
    """<subset>/<speaker>/<chapter>/<speaker>-<chapter>-<number>.flac; LibriTTS has "_" instead of "-"."""
    name = re.match(r"(\d+)[-_](\d+)[-_]\d+", parts[-1])
    if not name or parts[-3:-1] != name.groups():
        return None
    hints = [hint for part in parts[:-3] if (hint := hint_of(part))]
    return Fit(role="speech", group=name[1], hint=hints[-1] if hints else "")


def _vctk(parts: Parts) -> Fit | None:
    """wav48/p225/p225_001.wav, or wav48_silence_trimmed/p225/p225_001_mic1.flac."""
    name = re.match(r"([ps]\d+)_\d+(_mic\d)?\.", parts[-1])
    return Fit(role="speech", group=name[1]) if name and parts[-2:-1] == (name[1],) else None


def _noise_named(pattern: str) -> Callable[[Parts], Fit | None]:
    """A rule for noise by the file's name alone; the pattern's group is the recording."""

    def rule(parts: Parts) -> Fit | None:
        name = re.fullmatch(pattern, parts[-1])
        return Fit(role="noise", group=name[1]) if name else None

    return rule


_esc50 = _noise_named(r"[1-5]-(\d+)-[A-Z]-\d+\.\w+")  # <fold>-<recording>-<take>-<class>.wav
_urbansound8k = _noise_named(r"(\d+)-\d-\d+-\d+\.\w+")  # <recording>-<class>-<occurrence>-<slice>.wav


def _musan(parts: Parts) -> Fit | None:
    """speech/librivox/speech-librivox-0000.wav, noise/..., music/...; it does not say who speaks."""
    name = re.fullmatch(r"(speech|noise|music)-([\w-]+)-\d+\.\w+", parts[-1])
    if not name or parts[-3:-1] != name.groups():
        return None
    return Fit(role="speech" if name[1] == "speech" else "noise", group=parts[-1])


def _rirs_noises(parts: Parts) -> Fit | None:
    """simulated_rirs/<size>/Room001/, real_rirs_isotropic_noises/ and pointsource_noises/ of SLR28 (and SLR26)."""
    name, folders = parts[-1], parts[:-1]
    if any(folder.startswith("pointsource_noises") for folder in folders):
        return Fit(role="noise", group=name)
    if any(folder.startswith("real_rirs") for folder in folders):
        if re.match(r"[A-Za-z0-9]+_type\d+_noise", name):
            return Fit(role="noise", group=name)
        return Fit(role="rir", group="_".join(name.split(".")[0].split("_")[:4]))
    if any(folder.startswith("simulated_rirs") for folder in folders) and re.match(r"Room\d+", parts[-2]):
        return Fit(role="rir", group="/".join(parts[-3:-1]))
    return None


def _ms_snsd(parts: Parts) -> Fit | None:
    """clean_train/clnsp1.wav, noise_train/AirConditioner_1.wav, ...; it does not say who speaks."""
    for depth, folder in enumerate(parts[:-1]):
        if found := re.fullmatch("(clean|noise)_(train|test)", folder):
            role: Role = "speech" if found[1] == "clean" else "noise"
            return Fit(role=role, group="/".join(parts[depth:]), hint=found[2])
    return None


def _dns(parts: Parts) -> Fit | None:
    """clean[_fullband]/..., noise[_fullband]/..., impulse_responses/...; read speech names its reader."""
    for depth, folder in enumerate(parts[:-1]):
        below = parts[depth + 1 :]
        if "testset" in folder or "test_set" in folder:
            reason = "belongs to the challenge's test set: give that folder by itself"
            return Fit(role="speech", group="", skip_reason=reason)
        if folder in ("clean", "clean_fullband"):
            return Fit(role="speech", group=_dns_speaker(below))
        if folder in ("noise", "noise_fullband"):
            source = _FREESOUND.match(below[-1])
            return Fit(role="noise", group=source[1] if source else "/".join(below))
        if folder.startswith("impulse_responses"):
            return _rirs_noises(parts) or Fit(role="rir", group="/".join(parts[depth:-1]))
    reader = _dns_reader(parts[-1])
    return Fit(role="speech", group=reader) if reader else None


def _dns_reader(name: str) -> str:
    found = re.search(r"reader_\d+", name)
    return found[0] if found else ""


def _dns_speaker(below: Parts) -> str:
    """The reader in a file's name, a speaker of VCTK, or else the set and its first folder: too large is safe."""
    vctk = _vctk(below)
    return _dns_reader(below[-1]) or (vctk.group if vctk else "/".join(below[:-1][:2]) or prefix(below[-1]))


def _is_dns(paths: Sequence[Parts]) -> bool:
    """Clean speech beside noise; a folder of the full band; or names throughout that only this data set has."""
    if _clean_beside_noise(paths, with_noisy=False):
        return True
    if any(part in ("clean_fullband", "noise_fullband") for parts in paths for part in parts[:-1]):
        return True
    if sum(bool(_dns_reader(parts[-1])) for parts in paths) > 0.9 * len(paths):
        return True
    noises = [parts[-1] for parts in paths if "noise" in parts[:-1]]
    num_freesound = sum(bool(_FREESOUND.match(name)) for name in noises)
    num_audioset = sum(bool(_AUDIOSET.fullmatch(name)) for name in noises)
    return num_freesound > 0 and num_freesound + num_audioset > 0.9 * len(paths)


def _clean_beside_noise(paths: Sequence[Parts], *, with_noisy: bool) -> set[Parts]:
    """The folders that hold clean speech and noise and, if so, the noisy speech that was made of them."""
    folders = {parts[:depth] for parts in paths for depth in range(1, len(parts))}
    found = {folder[:-1] for folder in folders if folder[-1] in ("clean", "clean_fullband")}
    found &= {folder[:-1] for folder in folders if folder[-1] in ("noise", "noise_fullband")}
    return {above for above in found if ((*above, "noisy") in folders) == with_noisy}


def _made_of_dns(paths: Sequence[Parts]) -> set[Parts]:
    """Mixtures that were made of the data set and lie with it: their clean sides are pieces of its speech."""
    return _clean_beside_noise(paths, with_noisy=True) if _is_dns(paths) else set()


def _is_ms_snsd(paths: Sequence[Parts]) -> bool:
    folders = {folder for parts in paths for folder in parts[:-1]}
    return {"clean_train", "noise_train"} <= folders or {"clean_test", "noise_test"} <= folders


DATA_SETS = (
    Layout(
        "ms-snsd",
        ("speech", "noise"),
        "the folders clean_train and noise_train (and clean_test, noise_test)",
        _ms_snsd,
        is_there=_is_ms_snsd,
        is_told_by_folders=True,
    ),
    Layout(
        "dns",
        ("speech", "noise", "rir"),
        "the folders clean and noise (or clean_fullband, noise_fullband), impulse_responses beside them",
        _dns,
        is_there=_is_dns,
        without=_made_of_dns,
    ),
    Layout(
        "rir",
        ("rir", "noise"),
        "the folders simulated_rirs/<size>/RoomNNN, real_rirs_isotropic_noises or pointsource_noises",
        _rirs_noises,
    ),
    Layout("librispeech", ("speech",), "files such as train-clean-100/19/198/19-198-0000.flac", _librispeech),
    Layout(
        "vctk",
        ("speech",),
        "files such as wav48_silence_trimmed/p225/p225_001_mic1.flac or wav48/p225/p225_001.wav",
        _vctk,
    ),
    Layout("esc50", ("noise",), "files such as audio/1-100032-A-0.wav", _esc50),
    Layout("urbansound8k", ("noise",), "files such as audio/fold1/101415-3-0-2.wav", _urbansound8k),
    Layout(
        "musan",
        ("speech", "noise"),
        "files such as speech/librivox/speech-librivox-0000.wav or noise/free-sound/noise-free-sound-0000.wav",
        _musan,
    ),
)
