"""How good denoisers are: clips scored as they are and after each system, all over the cluster.

The test split's speakers and noises are in no other split of a corpus. Every clip is scored as it is ("noisy") and
after each system, so that differences are paired: the same clip before and after.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import ray

from cluster.evaluation.clips import Clip, EvaluationError, corpus_clips, files_for, noisy_clips, paired_clips
from cluster.evaluation.cost import measure_models
from cluster.evaluation.excerpts import CUT_S, Sounds
from cluster.evaluation.listening.analysis import ListeningSummary, summarise_files
from cluster.evaluation.listening.source import report_identity
from cluster.evaluation.scores import (
    CLEAN,
    NOISY,
    STREAM,
    Cost,
    EvaluationConfig,
    EvaluationReport,
    Harm,
    ModelFacts,
    Score,
    SystemResult,
)
from cluster.evaluation.scoring import HARM_MEASURES, Work, load_recogniser, score_clips
from cluster.evaluation.summaries import (
    ScoreTable,
    buckets,
    choose_examples,
    compare,
    everything,
    ranked,
    spread_of,
    summarize,
)
from cluster.evaluation.systems import ModelSystem, load_systems, streams_of
from cluster.evaluation.verdict import best_system
from ww_data import open_corpus
from ww_data.parallel import Progress
from ww_models.measures.clip import STANDARD, WITHOUT_CLEAN
from ww_models.measures.dnsmos import require_dnsmos
from ww_models.quality import MEASURES


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """What is compared, and on what.

    data: a corpus, whose test mixtures are taken. pairs: (noisy folder, clean folder) by name. noisy: a folder without
    clean sides. bundles: folders, or checkpoint files of facebook's denoiser. groups: trainings of one model that
    differ in their seed, by the name of what they are together. systems: folders of files that another program made.
    stream: whether models that run in steps are scored as streams, too. recogniser: "module:callable" that hears words.
    listening: files of answers about an earlier report of the same bundles on the same recordings.
    """

    bundles: tuple[str, ...] = ()
    data: str = ""
    pairs: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    noisy: str = ""
    groups: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    systems: Mapping[str, str] = dataclasses.field(default_factory=dict)
    stream: bool = False
    dnsmos: bool = False
    recogniser: str = ""
    listening: tuple[str, ...] = ()

    @property
    def sources(self) -> dict[str, str]:
        """Where clips come from, by name."""
        pairs = {name: f"{noisy}:{clean}" for name, (noisy, clean) in self.pairs.items()}
        corpus, noisy = {"corpus": self.data}, {"noisy files": self.noisy}
        return {**(corpus if self.data else {}), **pairs, **(noisy if self.noisy else {})}

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of what is measured, in the order of the table."""
        wanted = {*(() if self.noisy else STANDARD), *(WITHOUT_CLEAN if self.dnsmos else ())}
        wanted |= {"wer"} if self.recogniser else set()
        return tuple(name for name in MEASURES if name in wanted)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """A request that was looked at: everything is there, loaded, and fits."""

    request: EvaluationRequest
    clips: tuple[Clip, ...]
    models: tuple[ModelSystem, ...]
    files: dict[str, dict[str, str]]
    manifest_hash: str
    listening: ListeningSummary | None = None


def plan_evaluation(request: EvaluationRequest, config: EvaluationConfig) -> Plan:
    """Raises EvaluationError, CorpusError, BundleError, AudioError or ListeningError, each one line."""
    _check_request(request)
    if request.dnsmos:
        require_dnsmos()
    if request.recogniser:
        load_recogniser(request.recogniser)
    models = load_systems(request.bundles, request.groups, tuple(request.systems))
    clips: list[Clip] = []
    manifest_hash = ""
    if request.data:
        corpus = open_corpus(request.data)
        manifest_hash = corpus.manifest_hash
        clips += corpus_clips(corpus, config.num_clips)
    for name, (noisy_dir, clean_dir) in request.pairs.items():
        clips += paired_clips(name, noisy_dir, clean_dir, config.num_clips)
    if request.noisy:
        clips += noisy_clips(request.noisy, config.num_clips)
    files = {name: files_for(name, folder, clips) for name, folder in request.systems.items()}
    return Plan(
        request=request,
        clips=tuple(clips),
        models=tuple(models),
        files=files,
        manifest_hash=manifest_hash,
        listening=_heard(request, models, manifest_hash, config) if request.listening else None,
    )


def _heard(
    request: EvaluationRequest, models: Sequence[ModelSystem], manifest_hash: str, config: EvaluationConfig
) -> ListeningSummary:
    """What people said of what is compared. Before all is scored, so that answers of others are refused at once."""
    ids: dict[str, str | None] = {NOISY: None, **dict.fromkeys(request.systems)}
    for system in models:
        ids.setdefault(system.group or system.name, system.info.id if system.info else "")
    return summarise_files(
        request.listening,
        report=report_identity(manifest_hash, request.sources, ids),
        num_resamples=config.num_resamples,
        confidence=config.confidence,
        seed=config.seed,
    )


def _check_request(request: EvaluationRequest) -> None:
    if not (request.bundles or request.groups or request.systems):
        raise EvaluationError("no bundle given; name at least one bundle folder, group or system")
    if not (request.data or request.pairs or request.noisy):
        raise EvaluationError(
            "nothing to score on; give a corpus (--data), pairs (--pairs) or noisy files (--noisy)"
        )
    if request.noisy and (request.data or request.pairs):
        raise EvaluationError("--noisy has no clean sides: score it by itself, without --data and --pairs")
    if request.noisy and not request.dnsmos:
        raise EvaluationError(
            "--noisy has no clean sides, which all measures but DNSMOS need; add --dnsmos, or give --pairs"
        )
    if request.noisy and request.recogniser:
        raise EvaluationError(
            "--recogniser needs clean sides to know what was said; give --pairs instead of --noisy"
        )


def evaluate(
    request: EvaluationRequest,
    config: EvaluationConfig | None = None,
    progress: Progress | None = None,
    plan: Plan | None = None,
) -> EvaluationReport:
    """Scores the unprocessed clips and what every system makes of them. Expects a connected Ray.

    progress: called with (clips done, clips in all, "") as they come in. plan: of this request, where there is one.
    Raises what `plan_evaluation` does.
    """
    started = time.monotonic()
    config = config or EvaluationConfig()
    plan = plan or plan_evaluation(request, config)
    models = {system.name: system.model for system in plan.models}
    cpus, gpus = _shares(config.cpus_per_task)
    references = {name: ray.put(model) for name, model in models.items()}
    engines = streams_of(plan.models) if request.stream else {}
    work = Work(
        clips=plan.clips,
        measures=request.measures,
        models=references,
        engines={name: ray.put((engine.graph, engine.spec)) for name, engine in engines.items()},
        files=plan.files,
        recogniser=request.recogniser,
    )
    batch_s = config.gpu_batch_s if gpus else config.batch_s
    scores = score_clips(work, config.num_harm_clips, batch_s, cpus, gpus, progress)
    # Afterwards, so that nothing of this evaluation runs beside it, and in one process, on one machine.
    on_one_machine = ray.remote(num_cpus=cpus)(_measure_models)
    factors, silences, costs, machine = ray.get(on_one_machine.remote(references, config.timing_s))
    facts = {system.name: system.describe(factors[system.name], plan.manifest_hash) for system in plan.models}
    report = _report(plan, config, scores, facts, silences, costs, machine)
    report = dataclasses.replace(report, **_sounds(plan, report, references, cpus))
    return dataclasses.replace(report, duration_s=time.monotonic() - started)


def _measure_models(references: dict[str, ray.ObjectRef], timing_s: float) -> Any:
    return measure_models({name: ray.get(ref) for name, ref in references.items()}, timing_s)


def _shares(wanted: float) -> tuple[float, float]:
    """CPUs of a task, and GPUs of one that runs models: 0 where there is none free."""
    free = ray.available_resources()
    if free.get("CPU", 0.0) < 0.01:
        total = ray.cluster_resources().get("CPU", 0.0)
        raise EvaluationError(
            f"scoring needs a CPU, but none of the cluster's {total:g} is free; free one, or add nodes"
        )
    return min(wanted, free["CPU"]), 1.0 if free.get("GPU", 0.0) >= 1 else 0.0


def _report(
    plan: Plan,
    config: EvaluationConfig,
    all_scores: Sequence[Score],
    facts: Mapping[str, ModelFacts],
    silences: Mapping[str, float],
    costs: Mapping[str, Cost],
    machine: str,
) -> EvaluationReport:
    scores = [score for score in all_scores if score.heard == NOISY]
    harm_scores = [score for score in all_scores if score.heard == CLEAN]
    groups: dict[str, list[str]] = {}
    for system in plan.models:
        for name in (system.name, system.name + STREAM):
            if system.group and any(score.system == name for score in scores):
                groups.setdefault(system.group + name.removeprefix(system.name), []).append(name)
    table = ScoreTable.of(scores, groups)
    overall = summarize(table, everything(table), "", config)
    by = {
        way: [summarize(table, chosen, bucket, config) for bucket, chosen in found.items()]
        for way, found in buckets(table).items()
    }

    def result(name: str) -> SystemResult:
        is_stream, runs = name.endswith(STREAM), groups.get(name, [name])
        members = [run.removesuffix(STREAM) for run in runs]
        own = [facts[member] for member in members if member in facts]
        streamed = [score.stream_difference for score in scores if is_stream and score.system in runs]
        in_order = ranked(scores, runs[0])
        num_extremes = min(config.num_extremes, -(-len(in_order) // 2))  # no clip is both
        return SystemResult(
            name=name,
            model=own[0] if own else None,
            overall=overall[name],
            by={way: tuple(summaries[name] for summaries in found) for way, found in by.items()},
            best=tuple(in_order[::-1][: min(num_extremes, len(in_order) - num_extremes)]),
            worst=tuple(in_order[:num_extremes]),
            harm=_harm(members, harm_scores, silences) if own and not is_stream else None,
            cost=costs.get(members[0]) if own and not is_stream else None,
            seeds=tuple(own) if len(own) > 1 else (),
            spread=spread_of(scores, runs) if len(own) > 1 else {},
            stream_difference=max(streamed, default=float("nan")),
            members=tuple(runs) if len(own) > 1 else (),
        )

    comparisons, leaders = compare(table, config)
    return EvaluationReport(
        sources=plan.request.sources,
        manifest_hash=plan.manifest_hash,
        measures=plan.request.measures,
        num_clips=len(plan.clips),
        num_speakers=len({clip.speaker for clip in plan.clips}),
        audio_s=sum(clip.duration_s for clip in plan.clips),
        sample_rates=tuple(sorted({clip.sample_rate for clip in plan.clips})),
        config=config,
        systems=tuple(result(name) for name in table.systems),
        comparisons=tuple(comparisons),
        leaders=tuple(leaders),
        undefined=table.undefined(),
        scores=tuple(scores),
        harm_scores=tuple(harm_scores),
        examples=(),
        machine=machine,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        duration_s=0.0,
        listening=plan.listening,
    )


def _sounds(
    plan: Plan, report: EvaluationReport, references: Mapping[str, ray.ObjectRef], cpus: float
) -> dict[str, Any]:
    """Fields of a report: typical clips by all systems, and those that the best one improves most and least."""
    models: dict[str, ray.ObjectRef] = {}
    for system in plan.models:
        models.setdefault(system.group or system.name, references[system.name])
    sounds = Sounds(clips={clip.clip_id: clip for clip in plan.clips}, models=models, files=plan.files)
    first = next(result for result in report.systems if result.name != NOISY)
    typical = choose_examples(report.scores, (first.members or (first.name,))[0], report.config.num_examples)
    best = best_system(report)
    return {
        "examples": sounds.examples(typical, [*models, *plan.files], cpus),
        "extremes": sounds.examples([*best.best, *best.worst], [best.name], cpus, CUT_S),
    }


def _harm(members: Sequence[str], harm_scores: Sequence[Score], silences: Mapping[str, float]) -> Harm:
    """Means over clean clips in, of all members."""
    own = [score for score in harm_scores if score.system in members]

    def mean(measure: str) -> float:
        """Over the clips for which every model has a value: one that mutes a clip must not gain by that."""
        lost = {score.clip_id for score in harm_scores if not np.isfinite(score.values[measure])}
        values = [score.values[measure] for score in own if score.clip_id not in lost]
        return float(np.mean(values)) if values else float("nan")

    pesq, si_sdr_db = (mean(measure) for measure in HARM_MEASURES)
    return Harm(
        pesq=pesq,
        si_sdr_db=si_sdr_db,
        num_clips=len({score.clip_id for score in own}),
        silence_dbfs=float(np.mean([silences[member] for member in members])),
    )
