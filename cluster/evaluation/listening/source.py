"""Where the sounds come from: the examples of a report that jobs.evaluate wrote, and which of them are heard."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ww_data import AudioError, read_audio
from ww_data.dsp import FloatArray

REPORT_FORMAT, REPORT_FORMAT_VERSION = "wave-wizard-evaluation", 2
NOISY, CLEAN, CORPUS = (
    "noisy",
    "clean",
    "corpus",
)  # what report.json calls the input, the reference and one source
STREAM = " (stream)"  # what names of streams end with
BUCKET_DB = 2.5  # SNRs as near as that count as one when clips are chosen


class ListeningError(ValueError):
    """A listening test, or its analysis, that cannot be done as asked; one line."""


@dataclass(frozen=True, kw_only=True)
class ReportClip:
    """A mixture of the report that can be heard. audio: {name: file}, "noisy" and "clean" among them."""

    mixture_id: str
    snr_db: float
    audio: Mapping[str, Path]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A report as the test sees it. systems: "noisy" and the bundles, without the reference."""

    folder: Path
    identity: str
    sample_rate: int
    systems: tuple[str, ...]
    clips: tuple[ReportClip, ...]


def report_identity(
    manifest_hash: str, sources: Mapping[str, str], bundle_ids: Mapping[str, str | None]
) -> str:
    """What answers remember of a report: a hash of the recordings and of what was compared on them.

    sources: of the report; a corpus is known by its manifest's hash and may lie anywhere. bundle_ids: {system: bundle's
    id, None for "noisy" and files of other programs}. A report of the same bundles on the same corpus has the same
    identity, however many examples it shows; a bundle that was trained anew under its old name gives another one.
    """
    others = sorted((name, place) for name, place in sources.items() if name != CORPUS)
    content = [manifest_hash, others, sorted(bundle_ids.items())]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def open_source(folder: str | os.PathLike[str]) -> Source:
    """Reads a report's folder. Raises ListeningError if it is none, or damaged, or has nothing to hear."""
    path = Path(folder) / "report.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        what = f"cannot be read ({error.strerror}); --report is a folder that jobs.evaluate wrote"
        raise ListeningError(f"{path}: {what}") from None
    except ValueError as error:
        raise _damaged(path, f"it is not JSON, {error}") from None
    kind = (content.get("format"), content.get("format_version")) if isinstance(content, dict) else None
    if kind != (REPORT_FORMAT, REPORT_FORMAT_VERSION):
        expected = f"expected format {REPORT_FORMAT}, version {REPORT_FORMAT_VERSION}"
        raise ListeningError(f"{path}: no report of this version of jobs.evaluate; {expected}")
    try:
        # A stream sounds as its model does: the report has no sound of it.
        models = {
            str(system["name"]): system["model"]
            for system in content["systems"]
            if not str(system["name"]).endswith(STREAM)
        }
        bundle_ids = {name: model and str(model["bundle_id"]) for name, model in models.items()}
        rates = sorted({int(example["sample_rate"]) for example in content["examples"]})
        clips = tuple(_clip(example, path, [*models, CLEAN]) for example in content["examples"])
        identity = report_identity(str(content["manifest_hash"]), dict(content["sources"]), bundle_ids)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, ListeningError):
            raise
        raise _damaged(path, f"{type(error).__name__}: {error}") from None
    if not clips:
        raise ListeningError(f"{path}: it holds no examples to hear; {how_to_get_more()}")
    if len({clip.mixture_id for clip in clips}) < len(clips):
        raise _damaged(path, "a mixture is among its examples twice")
    if len(rates) > 1:
        came = ", ".join(map(str, rates))
        raise ListeningError(
            f"{path}: its examples are of {came} Hz; evaluate each rate in a report of its own"
        )
    return Source(
        folder=Path(folder), identity=identity, sample_rate=rates[0], systems=tuple(models), clips=clips
    )


def _clip(example: Mapping[str, Any], path: Path, names: Sequence[str]) -> ReportClip:
    mixture_id, audio = str(example["clip_id"]), dict(example["audio"])
    if CLEAN not in audio:
        raise ListeningError(
            f"{path}: its clips have no clean sides, which a listening test needs for reference"
        )
    if example["input_snr_db"] is None:
        raise ListeningError(f"{path}: example {mixture_id} has no SNR; evaluate clips that have one")
    if set(audio) != set(names):
        came = f"the sounds {', '.join(sorted(audio))}; expected {', '.join(sorted(names))}"
        raise _damaged(path, f"example {mixture_id} has {came}")
    folder = path.parent.resolve()
    files = {name: (folder / file).resolve() for name, file in audio.items()}
    for name, file in files.items():
        if not file.is_relative_to(folder):
            raise _damaged(path, f"{audio[name]} lies outside the report's folder")
    return ReportClip(mixture_id=mixture_id, snr_db=float(example["input_snr_db"]), audio=files)


def _damaged(path: Path, why: str) -> ListeningError:
    return ListeningError(f"{path}: damaged ({why}); write the report anew with jobs.evaluate")


def how_to_get_more(num_clips: int = 12) -> str:
    """The advice for a report with too few examples."""
    return f"python -m jobs.evaluate ... --examples {num_clips} writes a report with more"


def read_clip(clip: ReportClip, sample_rate: int) -> dict[str, FloatArray]:
    """The sounds of a clip by name, (T,) each. Raises ListeningError unless all are mono, of one rate and length."""
    signals = {}
    for name, file in clip.audio.items():
        try:
            signal_TC, rate = read_audio(file)
        except (AudioError, OSError) as error:
            raise ListeningError(f"{error}; write the report anew with jobs.evaluate") from error
        if rate != sample_rate or signal_TC.shape[1] != 1:
            came = f"{rate} Hz, {signal_TC.shape[1]} channels; expected {sample_rate} Hz, mono"
            raise ListeningError(f"{file}: {came}; write the report anew with jobs.evaluate")
        signals[name] = signal_TC[:, 0]
    lengths = {name: len(signal_T) for name, signal_T in signals.items()}
    if len(set(lengths.values())) > 1:
        came = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ListeningError(
            f"the sounds of {clip.mixture_id} differ in length ({came} samples): write the report anew"
        )
    return signals


def choose_clips(clips: Sequence[ReportClip], num_clips: int, seed: int) -> list[ReportClip]:
    """`num_clips` of them (all, if there are fewer), in turn from each SNR; the seed decides, no score does."""
    rng = np.random.default_rng(seed)
    buckets: dict[int, list[ReportClip]] = {}
    for place in rng.permutation(len(clips)):
        clip = clips[place]
        buckets.setdefault(int(np.floor(clip.snr_db / BUCKET_DB)), []).append(clip)
    turns = [(turn, clip) for bucket in buckets.values() for turn, clip in enumerate(bucket)]
    # Sorting is stable and buckets stand in random order: no SNR is first whenever the turns do not come out even.
    return [clip for _, clip in sorted(turns, key=lambda turn: turn[0])][:num_clips]
