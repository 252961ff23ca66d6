"""How good a denoiser is: the corpus' stored test mixtures, scored with and without it, all over the cluster.

The test split's speakers and noises are in no other split. Every mixture is scored as it is ("noisy") and
after each bundle, so that improvements are paired: the same clip before and after.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import platform
import re
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from cluster.enhancement import enhance_audio, measure_real_time_factor, torch_threads
from cluster.evaluation.scores import (
    CLEAN,
    NOISY,
    EvaluationConfig,
    EvaluationReport,
    Example,
    MixtureFacts,
    ModelFacts,
    Score,
    choose_examples,
    summarize,
)
from ww_data import Corpus, StoredMixtures, open_corpus
from ww_data.parallel import Progress
from ww_models import BundleInfo, Denoiser, load_bundle, read_bundle_info, score_clip


class EvaluationError(ValueError):
    """An evaluation that cannot be done as asked."""


def evaluate(
    bundles: Sequence[str | os.PathLike[str]],
    corpus_uri: str,
    config: EvaluationConfig | None = None,
    progress: Progress | None = None,
) -> EvaluationReport:
    """Scores the unprocessed test mixtures and every bundle's estimate of them. Expects a connected Ray.

    progress: called with (mixtures done, mixtures in all, "") as they come in.
    Raises CorpusError, BundleError or EvaluationError, each one line.
    """
    started = time.monotonic()
    config = config or EvaluationConfig()
    named, models, corpus, chosen = check_evaluation(bundles, corpus_uri, config)
    mixtures = corpus.mixtures("test")
    cpus = _cpus_for_a_task(config.cpus_per_task)
    model_refs = {name: ray.put(model) for name, model in models.items()}
    scores = _score_mixtures(corpus, chosen, model_refs, config, cpus, progress)
    measure_speed = ray.remote(num_cpus=cpus)(_measure_speed)
    # One by one, so that nothing else runs beside them.
    speeds = {name: ray.get(measure_speed.remote(ref)) for name, ref in model_refs.items()}
    facts = {name: _describe(path, info, speeds[name][0], corpus) for name, (path, info) in named.items()}
    return EvaluationReport(
        corpus_uri=str(corpus.storage),
        manifest_hash=corpus.manifest_hash,
        sample_rate=corpus.sample_rate,
        num_mixtures=len(chosen),
        clip_s=corpus.segment_s,
        config=config,
        systems=tuple(summarize(name, scores, facts.get(name), config) for name in (NOISY, *models)),
        scores=tuple(scores),
        examples=_make_examples(mixtures, corpus.sample_rate, scores, models, config.num_examples),
        machine=next(iter(speeds.values()))[1],
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        duration_s=time.monotonic() - started,
    )


def check_evaluation(
    bundles: Sequence[str | os.PathLike[str]], corpus_uri: str, config: EvaluationConfig
) -> tuple[dict[str, tuple[str, BundleInfo]], dict[str, Denoiser], Corpus, list[str]]:
    """What there is to evaluate: bundles and models by name, the corpus, ids of mixtures. Raises like `evaluate`."""
    named = _name_bundles(bundles)
    models = {name: load_bundle(path) for name, (path, _) in named.items()}
    corpus = open_corpus(corpus_uri)
    return named, models, corpus, choose_mixtures(corpus.mixtures("test"), config.num_mixtures)


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


def _name_bundles(bundles: Sequence[str | os.PathLike[str]]) -> dict[str, tuple[str, BundleInfo]]:
    """Folder and config of each bundle, in their order, under the name that the report calls it by."""
    if not bundles:
        raise EvaluationError("no bundle given; name at least one bundle folder")
    named: dict[str, tuple[str, BundleInfo]] = {}
    for bundle in bundles:
        info = read_bundle_info(bundle)
        folder = Path(bundle).resolve()
        name = folder.parent.name if folder.name == "bundle" else folder.name  # runs/NAME/bundle
        if name in named or name in {NOISY, CLEAN}:
            name = f"{name}-{info.id[-6:]}"
        if name in named:
            raise EvaluationError(f"{bundle} is given twice; name each bundle once")
        named[name] = (str(bundle), info)
    return named


def _cpus_for_a_task(wanted: float) -> float:
    free = ray.available_resources().get("CPU", 0.0)
    if free < 0.01:
        total = ray.cluster_resources().get("CPU", 0.0)
        raise EvaluationError(
            f"scoring needs a CPU, but none of the cluster's {total:g} is free; free one, or add nodes"
        )
    return min(wanted, free)


def _score_mixtures(
    corpus: Corpus,
    chosen: list[str],
    model_refs: Mapping[str, ray.ObjectRef],
    config: EvaluationConfig,
    cpus: float,
    progress: Progress | None,
) -> list[Score]:
    """All scores, ordered by mixture as chosen, then by system."""
    score_batch = functools.partial(
        _score_batch, chosen=frozenset(chosen), model_refs=dict(model_refs), sample_rate=corpus.sample_rate
    )
    path, filesystem = corpus.storage.for_arrow(corpus.mixtures_name("test"))
    dataset = ray.data.read_parquet(
        path,
        filesystem=filesystem,
        columns=["id", "noisy", "clean", "snr_db", "speaker", "noise_id"],
        num_cpus=cpus,
        override_num_blocks=-(-len(chosen) // config.batch_size),
    ).map_batches(score_batch, batch_size=config.batch_size, batch_format="numpy", num_cpus=cpus)
    scores: list[Score] = []
    for row in dataset.iter_rows():
        scores.append(Score(**row))
        if progress:
            progress(len(scores) // (1 + len(model_refs)), len(chosen), "")
    mixtures = {mixture_id: place for place, mixture_id in enumerate(chosen)}
    systems = {name: place for place, name in enumerate((NOISY, *model_refs))}
    return sorted(scores, key=lambda score: (mixtures[score.mixture_id], systems[score.system]))


def _score_batch(
    batch: dict[str, np.ndarray],
    *,
    chosen: frozenset[str],
    model_refs: dict[str, ray.ObjectRef],
    sample_rate: int,
) -> dict[str, np.ndarray]:
    """Columns of Score for a batch of mixtures: runs in Ray's processes, on one core each."""
    torch.set_num_threads(1)
    scores = []
    for row, mixture_id in enumerate(batch["id"]):
        if mixture_id not in chosen:
            continue
        noisy_T, clean_T = (np.asarray(batch[name][row], dtype=np.float32) for name in (NOISY, CLEAN))
        facts: dict[str, Any] = {name: str(batch[name][row]) for name in ("speaker", "noise_id")}
        facts |= {"mixture_id": str(mixture_id), "mixture_snr_db": round(float(batch["snr_db"][row]), 3)}
        for system in (NOISY, *model_refs):
            estimate_T = noisy_T
            if system != NOISY:
                estimate_T = enhance_audio(_fetch(model_refs[system]), noisy_T[:, None], sample_rate)[:, 0]
            quality = dataclasses.asdict(score_clip(clean_T, estimate_T, sample_rate))
            scores.append(Score(**facts, system=system, **quality))
    names = [field.name for field in dataclasses.fields(Score)]
    return {name: np.array([getattr(score, name) for score in scores]) for name in names}


@functools.lru_cache(maxsize=8)
def _fetch(ref: ray.ObjectRef) -> Any:
    return ray.get(ref)


def _measure_speed(model: Denoiser) -> tuple[float, str]:
    """(real-time factor on one thread, the machine it was measured on)."""
    torch.set_num_threads(1)
    return measure_real_time_factor(model), f"{_cpu_name()}, torch {torch.__version__}"


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    named = re.search(r"^model name\s*: (.+)$", cpuinfo.read_text() if cpuinfo.exists() else "", re.MULTILINE)
    return named[1].strip() if named else platform.machine()


def _describe(path: str, info: BundleInfo, real_time_factor: float, corpus: Corpus) -> ModelFacts:
    trained_on = info.data.get("manifest_hash")
    return ModelFacts(
        bundle_id=info.id,
        path=path,
        architecture=info.architecture,
        num_parameters=info.num_parameters,
        macs_per_second=info.macs_per_second,
        latency_ms=info.latency_ms,
        real_time_factor=real_time_factor,
        sample_rate=info.sample_rate,
        same_corpus=None if trained_on is None else trained_on == corpus.manifest_hash,
    )


def _make_examples(
    mixtures: StoredMixtures,
    rate: int,
    scores: Sequence[Score],
    models: Mapping[str, Denoiser],
    num_examples: int,
) -> tuple[Example, ...]:
    examples = []
    for score in choose_examples(scores, next(iter(models)), num_examples):
        noisy_T, clean_T = mixtures[score.mixture_id]
        with torch_threads(1):
            wet = {name: enhance_audio(model, noisy_T[:, None], rate)[:, 0] for name, model in models.items()}
        facts = {field.name: getattr(score, field.name) for field in dataclasses.fields(MixtureFacts)}
        signals = {NOISY: noisy_T, **wet, CLEAN: clean_T}
        examples.append(Example(**facts, sample_rate=rate, signals=signals))
    return tuple(examples)
