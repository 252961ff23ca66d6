"""Scores of all clips by all systems, with Ray Data: models in batches by length, on GPUs where there are some,
measures on CPUs.

What a task needs comes with it, and each gives the same whenever it runs: a process or a node that dies costs its clips
once more, nothing else.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
import pickle
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray.util.annotations import RayDeprecationWarning

from cluster.errors import one_line
from cluster.evaluation.clips import Clip, EvaluationError
from cluster.evaluation.inference import enhance_clips, stream_clip
from cluster.evaluation.scores import CLEAN, NOISY, STREAM, Heard, Score, facts_of
from ww_data import read_mono
from ww_data.parallel import Progress
from ww_data.storage import first_line
from ww_models.measures.clip import measure_clip
from ww_models.measures.words import Recogniser, words_of
from ww_models.perceptual import is_silent
from ww_models.quality import snr_db
from ww_models.streaming.onnx_engine import OnnxEngine

_MAX_RETRIES = 3  # of a task whose process died; Ray Data's own default is for ever
HARM_MEASURES = ("pesq", "si_sdr_db")
_SILENT_DBFS = -120.0

Item = tuple[int, Heard]  # a clip's place, and what the systems are given


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """What tasks share. models, engines: references to a Denoiser, and to (graph, spec) of an engine, by system.

    files: of systems that are files, the path of each clip. recogniser: "module:callable", or "".
    """

    clips: tuple[Clip, ...]
    measures: tuple[str, ...]
    models: Mapping[str, ray.ObjectRef]
    engines: Mapping[str, ray.ObjectRef]
    files: Mapping[str, Mapping[str, str]]
    recogniser: str

    @property
    def num_rows(self) -> int:
        """Of a clip."""
        return 1 + len(self.models) + len(self.engines) + len(self.files)


def score_clips(
    work: Work, num_harm_clips: int, batch_s: float, cpus: float, gpus: float, progress: Progress | None
) -> list[Score]:
    """All scores, in the order of clips and systems; then those of clean sound that models were given."""
    noisy: list[Item] = [(index, "noisy") for index in range(len(work.clips))]
    with_clean = [index for index, clip in enumerate(work.clips) if clip.has_clean]
    step = max(1, math.ceil(len(with_clean) / max(1, num_harm_clips)))
    harm: list[Item] = (
        [(index, "clean") for index in with_clean[::step][:num_harm_clips]] if work.models else []
    )
    batches = [{"items": batch} for batch in _batches(work.clips, [*noisy, *harm], batch_s)]
    dataset: ray.data.Dataset = ray.data.from_items(
        [{"batch": pickle.dumps(batch)} for batch in batches], override_num_blocks=len(batches)
    )
    gpus = gpus if work.models else 0.0
    estimates, scoring = (functools.partial(_told, task, work) for task in (_estimates, _scores))
    with warnings.catch_warnings():
        # It warns of `max_retries`, for which it has no other parameter yet, and retries for ever without it.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        dataset = dataset.flat_map(
            estimates, num_cpus=0.0 if gpus else cpus, num_gpus=gpus or None, max_retries=_MAX_RETRIES
        ).flat_map(scoring, num_cpus=cpus, max_retries=_MAX_RETRIES)
    found: list[Score] = []
    clips_done = 0
    for row in _rows(dataset):
        if "error" in row:
            raise EvaluationError(pickle.loads(row["error"]))
        scores = pickle.loads(row["scores"])
        found += scores
        clips_done += scores[0].heard == NOISY
        if progress:
            progress(clips_done, len(work.clips), "")
    clips = {clip.clip_id: place for place, clip in enumerate(work.clips)}
    systems = {name: place for place, name in enumerate(_names(work))}
    return sorted(
        found, key=lambda score: (score.heard == CLEAN, clips[score.clip_id], systems[score.system])
    )


def _rows(dataset: ray.data.Dataset) -> Iterator[dict[str, Any]]:
    try:
        yield from dataset.iter_rows()
    except ray.exceptions.RayError as error:
        raise EvaluationError(
            f"a process that scored ended {_MAX_RETRIES + 1} times, out of memory perhaps ({first_line(error)}): free "
            "memory, or leave the longest clips out"
        ) from error


def _told(
    task: Callable[..., Iterator[dict[str, Any]]], work: Work, row: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """What is wrong with somebody's files comes back as a message, not as Ray's traceback."""
    if "error" in row:
        yield row
        return
    try:
        yield from task(row, work=work)
    except (ValueError, OSError) as error:  # AudioError and EvaluationError are ValueErrors
        yield {"error": pickle.dumps(one_line(error))}


def load_recogniser(name: str) -> Recogniser:
    """The callable that "module:callable" names. Raises EvaluationError, one line."""
    module, _, attribute = name.partition(":")
    try:
        recogniser = functools.reduce(getattr, attribute.split("."), importlib.import_module(module))
    except Exception as error:  # whatever a module of somebody does while it is imported
        raise EvaluationError(
            f"--recogniser {name}: cannot be imported ({error}); give module:callable, which takes (samples (T,), "
            "sample rate) and returns words"
        ) from error
    if not callable(recogniser):
        raise EvaluationError(f"--recogniser {name}: is no callable; give module:callable")
    return recogniser


def _names(work: Work) -> list[str]:
    """Of systems, in the order in which they are shown: a stream beside its model."""
    names = [NOISY]
    for name in work.models:
        names += [name, *([name + STREAM] if name in work.engines else [])]
    return [*names, *work.files]


def _batches(clips: Sequence[Clip], items: Iterable[Item], batch_s: float) -> list[list[Item]]:
    """Items of about one length together, up to so many seconds in each batch, or one that is longer."""
    batches: list[list[Item]] = []
    filled_s = math.inf
    for index, heard in sorted(items, key=lambda item: (clips[item[0]].duration_s, item[1], item[0])):
        if filled_s + clips[index].duration_s > batch_s:
            batches.append([])
            filled_s = 0.0
        batches[-1].append((index, heard))
        filled_s += clips[index].duration_s
    return batches[::-1]  # the longest first: at the end no core waits for them


def _estimates(row: dict[str, Any], *, work: Work) -> Iterator[dict[str, Any]]:
    """For each item of a batch the signals of its clip and of all systems; runs in Ray's processes."""
    torch.set_num_threads(1)
    items: list[Item] = pickle.loads(row["batch"])["items"]
    sounds = [work.clips[index].read() for index, _ in items]
    given = [
        ((clean_T if heard == CLEAN else noisy_T), work.clips[index].sample_rate)
        for (index, heard), (noisy_T, clean_T) in zip(items, sounds, strict=True)
    ]
    whole = {name: enhance_clips(_model(ref), given) for name, ref in work.models.items()}  # type: ignore[arg-type]
    for place, (index, heard) in enumerate(items):
        clip = work.clips[index]
        given_T, rate = given[place]
        estimates: dict[str, np.ndarray] = {} if heard == CLEAN else {NOISY: given_T}  # type: ignore[dict-item]
        for name in work.models:
            estimates[name] = whole[name][place]
            if name in work.engines and heard == NOISY:
                estimates[name + STREAM] = stream_clip(_engine(work.engines[name]), given_T, rate)  # type: ignore[arg-type]
        if heard == NOISY:
            estimates |= {name: _read_file(paths[clip.clip_id], clip) for name, paths in work.files.items()}
        yield {"clip": pickle.dumps((index, heard, *sounds[place], estimates), protocol=5)}


def _scores(row: dict[str, Any], *, work: Work) -> Iterator[dict[str, Any]]:
    """The scores of one clip by all systems; runs in Ray's processes, on one core each."""
    torch.set_num_threads(1)
    index, heard, noisy_T, clean_T, estimates = pickle.loads(row["clip"])
    clip = work.clips[index]
    facts = facts_of(clip) | _measured_facts(clip, noisy_T, clean_T)
    recogniser = load_recogniser(work.recogniser) if work.recogniser and heard == NOISY else None
    said = _said(clip, clean_T, recogniser)
    measures = HARM_MEASURES if heard == CLEAN else work.measures
    scores = []
    for system, estimate_T in estimates.items():
        values = measure_clip(
            clean_T, estimate_T, clip.sample_rate, measures, recogniser=recogniser, said=said
        )
        is_stream = system.endswith(STREAM) and system.removesuffix(STREAM) in work.engines
        difference = (
            np.abs(estimate_T - estimates[system.removesuffix(STREAM)]).max() if is_stream else math.nan
        )
        scores.append(
            Score(**facts, system=system, heard=heard, values=values, stream_difference=float(difference))
        )
    yield {"scores": pickle.dumps(scores)}


def _measured_facts(clip: Clip, noisy_T: np.ndarray, clean_T: np.ndarray | None) -> dict[str, float]:
    """The level of the noisy side; its SNR where nobody has said it."""
    noisy = noisy_T.astype(np.float64)
    snr = clip.input_snr_db
    if clean_T is not None and math.isnan(snr) and not is_silent(clean_T.astype(np.float64)):
        snr = float(snr_db(clean_T.astype(np.float64), noisy))
    return {"input_snr_db": snr, "input_level_dbfs": level_dbfs(noisy)}


def level_dbfs(x_T: np.ndarray) -> float:
    """RMS in dB of full scale, -120 or more; NaN for samples that are not finite."""
    rms = float(np.sqrt(np.mean(np.square(x_T, dtype=np.float64)))) if x_T.size else 0.0
    return max(_SILENT_DBFS, 20 * math.log10(rms)) if rms > 0 else _SILENT_DBFS if rms == 0 else math.nan


def _said(clip: Clip, clean_T: np.ndarray | None, recogniser: Recogniser | None) -> list[str]:
    """The text of a clip or, without one, what the recogniser hears in its clean side."""
    if recogniser is None:
        return []
    if clip.text_path:
        return words_of(Path(clip.text_path).read_text(encoding="utf-8"))
    if clean_T is None or is_silent(clean_T.astype(np.float64)):
        return []
    return words_of(recogniser(clean_T, clip.sample_rate))


def _read_file(path: str, clip: Clip) -> np.ndarray:
    """What another program made of a clip; what it wrote beyond the clip's end is left away."""
    estimate_T = read_mono(path, clip.sample_rate)[: clip.num_samples]
    if len(estimate_T) < clip.num_samples:
        raise EvaluationError(
            f"{path} ends after {len(estimate_T)} of {clip.num_samples} samples; write it whole"
        )
    return estimate_T


@functools.lru_cache(maxsize=8)
def _model(ref: ray.ObjectRef) -> Any:
    model = ray.get(ref)
    return model.to("cuda") if torch.cuda.is_available() and ray.get_gpu_ids() else model


@functools.lru_cache(maxsize=8)
def _engine(ref: ray.ObjectRef) -> OnnxEngine:
    return OnnxEngine(*ray.get(ref))
