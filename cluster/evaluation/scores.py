"""What an evaluation finds: scores of single mixtures, summaries per system and SNR, the whole report."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from cluster.evaluation.statistics import Interval, Mean, mean_of_defined, paired_interval
from ww_models.perceptual import pesq_note
from ww_models.quality import MEASURES, Quality

NOISY = "noisy"
CLEAN = "clean"


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How much is scored and how sure the answer is made.

    num_mixtures: how many of the test mixtures, taken evenly from all SNRs; None for all.
    batch_size: mixtures that one task scores; smaller spreads better over cores, larger has less overhead.
    cpus_per_task: CPUs that Ray sets aside for a task; where less is free, that.
    num_resamples, confidence, seed: of the bootstrap intervals.
    num_examples: mixtures to listen to; num_extremes: best and worst mixtures to list.
    """

    num_mixtures: int | None = None
    batch_size: int = 4
    cpus_per_task: float = 1.0
    num_resamples: int = 2000
    confidence: float = 0.95
    seed: int = 0
    num_examples: int = 2
    num_extremes: int = 5

    def __post_init__(self) -> None:
        least = {"batch_size": 1, "num_resamples": 100, "num_examples": 0, "num_extremes": 0}
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                raise ValueError(f"{name} must be at least {minimum}; got {getattr(self, name)}")
        if self.num_mixtures is not None and self.num_mixtures < 1:
            raise ValueError(f"num_mixtures must be at least 1, or None for all; got {self.num_mixtures}")
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence must lie between 0 and 1, e.g. 0.95; got {self.confidence}")
        if not self.cpus_per_task > 0:
            raise ValueError(f"cpus_per_task must be positive; got {self.cpus_per_task}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixtureFacts:
    """Which stored mixture it is. mixture_snr_db: as mixed."""

    mixture_id: str
    mixture_snr_db: float
    speaker: str
    noise_id: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score(Quality, MixtureFacts):
    """The scores of one mixture as one system returns it, NaN where undefined."""

    system: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """Scores of one system over all mixtures (snr_db None) or over those mixed at one SNR.

    means, improvements: by measure; improvements over the unprocessed mixtures, empty for those themselves.
    """

    snr_db: float | None
    num_mixtures: int
    means: dict[str, Mean]
    improvements: dict[str, Interval]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """latency_ms: how far ahead the model listens, None for the whole clip.

    real_time_factor: seconds of computing per second of audio, on one thread. sample_rate: Hz, that it works at.
    """

    bundle_id: str
    path: str
    architecture: str
    num_parameters: int
    macs_per_second: float
    latency_ms: float | None
    real_time_factor: float
    sample_rate: int
    same_corpus: bool | None  # trained on this corpus' training split; None if the bundle does not say


@dataclasses.dataclass(frozen=True, kw_only=True)
class SystemResult:
    """One system's results; model is None for "noisy". best, worst: by SI-SDR improvement, extreme first."""

    name: str
    model: ModelFacts | None
    overall: Summary
    by_snr: tuple[Summary, ...]
    best: tuple[Score, ...]
    worst: tuple[Score, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example(MixtureFacts):
    """A mixture to see and hear; signals: name -> (T,) float32, "noisy" first, then systems, then "clean"."""

    sample_rate: int
    signals: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """Everything that `write_report` shows. systems: "noisy" first, then the bundles in their order."""

    corpus_uri: str
    manifest_hash: str
    sample_rate: int
    num_mixtures: int
    clip_s: float
    config: EvaluationConfig
    systems: tuple[SystemResult, ...]
    scores: tuple[Score, ...]
    examples: tuple[Example, ...]
    machine: str
    created_at: str
    duration_s: float

    @property
    def notes(self) -> list[str]:
        """What was converted to be scored, a line each."""
        lines = [
            f"{result.name} works at {result.model.sample_rate} Hz: the mixtures of {self.sample_rate} Hz are "
            "converted to it, and what it makes of them back"
            for result in self.systems
            if result.model is not None and result.model.sample_rate != self.sample_rate
        ]
        return [*lines, *filter(None, [pesq_note(self.sample_rate)])]

    def system(self, name: str) -> SystemResult:
        return next(result for result in self.systems if result.name == name)


def summarize(
    name: str, scores: Sequence[Score], model: ModelFacts | None, config: EvaluationConfig
) -> SystemResult:
    """One system's results out of the scores of all."""
    noisy = {score.mixture_id: score for score in scores if score.system == NOISY}
    own = [score for score in scores if score.system == name]
    interval = functools.partial(
        paired_interval, num_resamples=config.num_resamples, confidence=config.confidence, seed=config.seed
    )

    def summary(chosen: list[Score], snr_db: float | None) -> Summary:
        means, improvements = {}, {}
        for measure in MEASURES:
            values = np.array([getattr(score, measure) for score in chosen])
            means[measure] = mean_of_defined(values)
            if name != NOISY:
                before = np.array([getattr(noisy[score.mixture_id], measure) for score in chosen])
                improvements[measure] = interval(before, values)
        return Summary(snr_db=snr_db, num_mixtures=len(chosen), means=means, improvements=improvements)

    ranked = _ranked(scores, name) if name != NOISY else []
    return SystemResult(
        name=name,
        model=model,
        overall=summary(own, None),
        by_snr=tuple(
            summary([score for score in own if score.mixture_snr_db == snr_db], snr_db)
            for snr_db in sorted({score.mixture_snr_db for score in own})
        ),
        best=tuple(ranked[::-1][: config.num_extremes]),
        worst=tuple(ranked[: config.num_extremes]),
    )


def choose_examples(scores: Sequence[Score], system: str, num_examples: int) -> list[Score]:
    """Typical mixtures, not flattering ones: at some SNRs, from the lowest, the one of median improvement."""
    ranked = _ranked(scores, system)
    snrs_db = sorted({score.mixture_snr_db for score in ranked})
    chosen = []
    for snr_db in snrs_db[:: max(1, len(snrs_db) // max(1, num_examples))][:num_examples]:
        at_snr = [score for score in ranked if score.mixture_snr_db == snr_db]
        chosen.append(at_snr[len(at_snr) // 2])
    return chosen


def _ranked(scores: Sequence[Score], system: str) -> list[Score]:
    """A system's scores by SI-SDR improvement, least first, without those that have none."""
    noisy_db = {score.mixture_id: score.si_sdr_db for score in scores if score.system == NOISY}

    def gain_db(score: Score) -> float:
        return score.si_sdr_db - noisy_db[score.mixture_id]

    own = (score for score in scores if score.system == system)
    return sorted((score for score in own if np.isfinite(gain_db(score))), key=gain_db)
