"""The clips that systems are scored on: test mixtures of a corpus, pairs of files, or noisy files alone."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from cluster.evaluation.scores import ClipFacts
from ww_data import Corpus, StoredMixtures, open_corpus, read_mono
from ww_data.audio import open_audio
from ww_data.scan.files import AudioFile, find_audio, group_names, prefix
from ww_data.scan.pairs import pair_name

CORPUS = "corpus"
_FACTS_OF_MIXTURES = ["id", "snr_db", "speaker", "noise_id"]


class EvaluationError(ValueError):
    """An evaluation that cannot be done as asked."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip(ClipFacts):
    """A clip, and where it lies. key: the name that files of other programs are found by.

    corpus_uri: of a stored mixture. noisy_path, clean_path: of a pair; without the latter, noisy alone.
    text_path: what is said, as a text file beside the clean one.
    """

    key: str
    num_samples: int
    corpus_uri: str = ""
    noisy_path: str = ""
    clean_path: str = ""
    text_path: str = ""

    @property
    def has_clean(self) -> bool:
        return bool(self.corpus_uri or self.clean_path)

    def read(self) -> tuple[np.ndarray, np.ndarray | None]:
        """(noisy_T, clean_T) float32, None for no clean side. Raises AudioError or CorpusError."""
        if self.corpus_uri:
            noisy_T, clean_T = _mixtures(self.corpus_uri)[self.key]
            return np.asarray(noisy_T, np.float32), np.asarray(clean_T, np.float32)
        noisy_T = read_mono(self.noisy_path, self.sample_rate)
        if not self.clean_path:
            return noisy_T, None
        clean_T = read_mono(self.clean_path, self.sample_rate)
        num_samples = min(len(noisy_T), len(clean_T))
        return noisy_T[:num_samples], clean_T[:num_samples]


@functools.lru_cache(maxsize=2)
def _mixtures(corpus_uri: str) -> StoredMixtures:
    return open_corpus(corpus_uri).mixtures("test")


def corpus_clips(corpus: Corpus, limit: int | None) -> list[Clip]:
    """The stored test mixtures. Raises EvaluationError if there are none."""
    import pyarrow.parquet as pq

    mixtures = corpus.mixtures("test")
    chosen = set(choose_mixtures(mixtures, limit))
    num_samples = round(corpus.segment_s * corpus.sample_rate)
    return [
        Clip(
            clip_id=row["id"],
            key=row["id"],
            dataset=CORPUS,
            speaker=row["speaker"],
            noise=noise_kind(row["noise_id"]),
            noise_id=row["noise_id"],
            sample_rate=corpus.sample_rate,
            duration_s=corpus.segment_s,
            input_snr_db=round(row["snr_db"], 3),
            num_samples=num_samples,
            corpus_uri=corpus.storage.uri,  # with its options, without which nothing is found
        )
        for row in pq.read_table(mixtures.path, columns=_FACTS_OF_MIXTURES).to_pylist()
        if row["id"] in chosen
    ]


def choose_mixtures(mixtures: StoredMixtures, limit: int | None) -> list[str]:
    """Ids of the mixtures to score: all, or the first `limit` of them in turn from each SNR."""
    ids = mixtures.ids
    if not ids:
        raise EvaluationError(
            f"{mixtures.path} holds no mixtures; prepare the corpus with num_test_mixtures > 0"
        )
    if limit is None or limit >= len(ids):
        return ids
    num_before: dict[float, int] = {}
    turns = []
    for place, snr_db in enumerate(mixtures.snrs_db):
        turns.append((num_before.get(snr_db, 0), place))
        num_before[snr_db] = num_before.get(snr_db, 0) + 1
    return [ids[place] for _, place in sorted(turns)[:limit]]


def noise_kind(noise_id: str) -> str:
    """The folder or the file-name prefix of a noise: "noise/test/fan__1.wav" and "noise/fan/1.wav" are both a fan."""
    folders = [part for part in noise_id.split("/")[:-1] if part.lower() not in _PLAIN_FOLDERS]
    head = prefix(noise_id.rpartition("/")[2])
    return folders[-1] if folders else head


_PLAIN_FOLDERS = {
    "noise",
    "noises",
    "noisy",
    "train",
    "training",
    "val",
    "dev",
    "test",
    "testing",
    "eval",
    "wav",
}


def paired_clips(name: str, noisy_dir: str, clean_dir: str, limit: int | None) -> list[Clip]:
    """Files of two folders that belong together: by the same names, or by the same number after `fileid_`."""
    noisy, clean = (_files(folder, f"--pairs {name}") for folder in (noisy_dir, clean_dir))
    without = sorted(noisy.keys() - clean.keys())
    if without:
        raise EvaluationError(
            f"--pairs {name}: {len(without)} of {len(noisy)} files of {noisy_dir} ({_some(without)}) have none of that "
            f"name in {clean_dir}; take them out, or put their clean sides there"
        )
    keys = _evenly(sorted(noisy), limit)
    speakers = dict(zip(keys, group_names([clean[key].name for key in keys], "auto"), strict=True))
    clips = []
    for key in keys:
        rate, num_samples = _header(noisy[key].path)
        clean_rate, num_clean = _header(clean[key].path)
        if (rate, num_samples) != (clean_rate, num_clean) and (
            rate != clean_rate or abs(num_samples - num_clean) > 0.1 * rate
        ):
            raise EvaluationError(
                f"--pairs {name}: {noisy[key].name} has {num_samples} samples at {rate} Hz, its clean side {num_clean} "
                f"at {clean_rate} Hz; both sides of a pair have one rate and one length"
            )
        text = Path(clean[key].path).with_suffix(".txt")
        clips.append(
            Clip(
                clip_id=f"{name}/{key}",
                key=key,
                dataset=name,
                speaker=f"{name}/{key if key.startswith('fileid_') else speakers[key]}",
                noise=noise_kind(noisy[key].name) if "/" in noisy[key].name else "",
                noise_id="",
                sample_rate=rate,
                duration_s=min(num_samples, num_clean) / rate,
                num_samples=min(num_samples, num_clean),
                noisy_path=noisy[key].path,
                clean_path=clean[key].path,
                text_path=str(text) if text.is_file() else "",
            )
        )
    return clips


def noisy_clips(noisy_dir: str, limit: int | None) -> list[Clip]:
    """Files of which no clean side is known."""
    noisy = _files(noisy_dir, "--noisy")
    keys = _evenly(sorted(noisy), limit)
    speakers = group_names([noisy[key].name for key in keys], "auto")
    clips = []
    for key, speaker in zip(keys, speakers, strict=True):
        rate, num_samples = _header(noisy[key].path)
        clips.append(
            Clip(
                clip_id=key,
                key=key,
                dataset="noisy files",
                speaker=speaker,
                noise="",
                noise_id="",
                sample_rate=rate,
                duration_s=num_samples / rate,
                num_samples=num_samples,
                noisy_path=noisy[key].path,
            )
        )
    return clips


def files_for(system: str, folder: str, clips: Iterable[Clip]) -> dict[str, str]:
    """{clip_id: path}: what another program made of each clip, found by the clip's name.

    Raises EvaluationError, one line, where files are missing, shorter than their clip or of another rate.
    """
    found = _files(folder, f"--system {system}")
    clips = list(clips)
    by_name: dict[str, AudioFile] = {}
    if len({clip.key.rpartition("/")[2] for clip in clips}) == len(
        clips
    ):  # or a name would be that of several
        names = [key.rpartition("/")[2] for key in found]
        by_name = {
            name: file for name, file in zip(names, found.values(), strict=True) if names.count(name) == 1
        }
    paths: dict[str, str] = {}
    missing: list[str] = []
    wrong: list[str] = []
    for clip in clips:
        file = found.get(clip.clip_id) or found.get(clip.key) or by_name.get(clip.key.rpartition("/")[2])
        if file is None:
            missing.append(clip.key)
            continue
        rate, num_samples = _header(file.path)
        if rate != clip.sample_rate:
            wrong.append(f"{file.name} has {rate} Hz, its clip {clip.sample_rate} Hz")
        elif num_samples < clip.num_samples:
            wrong.append(f"{file.name} has {num_samples} samples, its clip {clip.num_samples}")
        paths[clip.clip_id] = file.path
    if missing:
        raise EvaluationError(
            f"--system {system}: {folder} has no file for {len(missing)} of {len(clips)} clips ({_some(missing)}); "
            "each file is named after its clip"
        )
    if wrong:
        raise EvaluationError(
            f"--system {system}: {len(wrong)} of {len(clips)} files of {folder} do not fit their clips "
            f"({_some(wrong, '; ')}); write them whole, at the clips' rate"
        )
    return paths


def _files(folder: str, option: str) -> dict[str, AudioFile]:
    """Audio files by what their names have in common with those of other folders."""
    if "://" not in folder and not Path(folder).is_dir():
        raise EvaluationError(f"{option}: there is no folder {folder}; give one with audio files in it")
    files = list(find_audio(folder))
    if unreadable := [f"{file.name}: {file.skip_reason}" for file in files if file.skip_reason]:
        raise EvaluationError(
            f"{option}: {len(unreadable)} of {len(files)} recordings of {folder} cannot be read "
            f"({_some(unreadable, '; ')}); mend them, or take them out"
        )
    if not files:
        raise EvaluationError(f"{option}: {folder} holds no audio file; give a folder with some in it")
    found: dict[str, AudioFile] = {}
    for file in files:
        key = pair_name(file.name)
        if key in found:
            raise EvaluationError(
                f"{option}: {found[key].name} and {file.name} of {folder} have one name ({key}); take one away"
            )
        found[key] = file
    return found


def _header(path: str) -> tuple[int, int]:
    """Rate in Hz and length in samples."""
    with open_audio(path) as file:
        if file.num_frames is not None:
            return file.sample_rate, file.num_frames
        return file.sample_rate, sum(len(block) for block in file.blocks("float32"))


def _evenly(keys: list[str], limit: int | None) -> list[str]:
    if limit is None or limit >= len(keys):
        return keys
    return [keys[place * len(keys) // limit] for place in range(limit)]


def _some(names: list[str], separator: str = ", ") -> str:
    return separator.join([*names[:3], *(["..."] if len(names) > 3 else [])])
