"""What an evaluation finds: scores of single clips, summaries per system and bucket, comparisons, the whole report."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import numpy as np

from cluster.evaluation.listening.analysis import ListeningSummary
from cluster.evaluation.statistics import Interval, Mean
from ww_models.perceptual import pesq_note

NOISY = "noisy"
CLEAN = "clean"
STREAM = " (stream)"  # what the name of a model's stream ends with
Heard = Literal["noisy", "clean"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How much is scored and how sure the answer is made.

    num_clips: how many clips, of a corpus' mixtures evenly from all SNRs; None for all.
    batch_s, gpu_batch_s: seconds of sound in a task, without and with a GPU.
    cpus_per_task: CPUs that Ray sets aside for a task; where less is free, that.
    num_resamples, confidence, seed: of the bootstrap.
    num_harm_clips: clean sides that are sent through each model, to see what it does to them.
    timing_s: how long each form of a model is timed, three times over; 0 for no timing of streams.
    num_examples: clips to listen to; num_extremes: best and worst clips of the best system
    to list, see and hear.
    """

    num_clips: int | None = None
    batch_s: float = 16.0
    gpu_batch_s: float = 320.0
    cpus_per_task: float = 1.0
    num_resamples: int = 2000
    confidence: float = 0.95
    seed: int = 0
    num_harm_clips: int = 40
    timing_s: float = 0.5
    num_examples: int = 2
    num_extremes: int = 10

    def __post_init__(self) -> None:
        least = {
            "num_resamples": 100,
            "num_examples": 0,
            "num_extremes": 0,
            "num_harm_clips": 0,
            "timing_s": 0,
        }
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                raise ValueError(f"{name} must be at least {minimum}; got {getattr(self, name)}")
        if self.num_clips is not None and self.num_clips < 1:
            raise ValueError(f"num_clips must be at least 1, or None for all; got {self.num_clips}")
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence must lie between 0 and 1, e.g. 0.95; got {self.confidence}")
        for name in ("cpus_per_task", "batch_s", "gpu_batch_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive; got {getattr(self, name)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipFacts:
    """Which clip it is.

    dataset: "corpus", or the name of the pairs. noise: its kind, "" if nothing tells.
    input_snr_db: as mixed, or of the two sides; NaN without a clean one. input_level_dbfs: RMS of the noisy side.
    """

    clip_id: str
    dataset: str
    speaker: str
    noise: str
    noise_id: str
    sample_rate: int
    duration_s: float
    input_snr_db: float = math.nan
    input_level_dbfs: float = math.nan


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score(ClipFacts):
    """The scores of one clip as one system returns it.

    heard: what the system was given: the noisy side, or the clean one, to see what it does to that.
    values: by measure, NaN where undefined. stream_difference: of a stream, how far it is from the whole clip at most.
    """

    system: str
    heard: Heard = "noisy"
    values: dict[str, float]
    stream_difference: float = math.nan


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """Scores of one system over all clips (bucket "") or those of one bucket.

    means, improvements: by measure; improvements over the noisy sound, empty for that itself.
    """

    bucket: str
    num_clips: int
    means: dict[str, Mean]
    improvements: dict[str, Interval]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """latency_ms: how far ahead the model listens, None for the whole clip.

    real_time_factor: seconds of computing per second of audio, whole clips on one thread. sample_rate: Hz, that it
    works at. bundle_id: "" of a checkpoint that is no bundle.
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
class Harm:
    """What a system does to what needs nothing done: clean speech and silence.

    pesq, si_sdr_db: means over clean clips in; NaN where not defined. silence_dbfs: level out for digital silence in,
    -120 or more.
    """

    pesq: float
    si_sdr_db: float
    num_clips: int
    silence_dbfs: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds of computing per second of sound of streams on ONNX Runtime, one thread, by precision (fp32, int8).

    alone: of one stream; batch_16: of each of 16 that share steps. None where a precision does not run.
    """

    alone: dict[str, float | None]
    batch_16: dict[str, float | None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spread:
    """One measure over trainings that differ in their seed: the mean of each, and their standard deviation."""

    means: tuple[float, ...]
    deviation: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class SystemResult:
    """One system's results.

    by: summaries of buckets by what they go by (snr, noise, speaker, level, dataset).
    model: None for noisy, and for files that another program made; harm, cost: None for these and for streams.
    seeds, spread: of several trainings that count as one system; model is then the first of them. members: names of
    those, in the scores; best and worst are the first one's, whose sound is heard.
    best, worst: by SI-SDR improvement, extreme first.
    stream_difference: of a stream, how far it is from the whole clip at most, full scale 1; else NaN.
    """

    name: str
    model: ModelFacts | None
    overall: Summary
    by: dict[str, tuple[Summary, ...]]
    best: tuple[Score, ...]
    worst: tuple[Score, ...]
    harm: Harm | None = None
    cost: Cost | None = None
    seeds: tuple[ModelFacts, ...] = ()
    spread: dict[str, Spread] = dataclasses.field(default_factory=dict)
    stream_difference: float = math.nan
    members: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two systems by one measure, clip by clip: the mean of a - b.

    p, p_holm: of no difference, alone and as one of all comparisons by this measure.
    """

    measure: str
    a: str
    b: str
    difference: Interval
    p: float
    p_holm: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Leader:
    """The best system by one measure; behind: the others' p-values of being as good, Holm-corrected among them."""

    measure: str
    best: str
    behind: dict[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Undefined:
    """Clips for which a system has no value of a measure. They count for no system, by this measure."""

    measure: str
    system: str
    clips: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example(ClipFacts):
    """A clip to see and hear; signals: name -> (T,) float32, "noisy" first, then systems, then "clean".

    start_s: where in the clip they begin.
    """

    signals: dict[str, np.ndarray]
    start_s: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """Everything that `write_report` shows. systems: "noisy" first, then the others in their order.

    measures: names of those that were measured, in the order of the table. manifest_hash: of the corpus, or "".
    scores: of noisy sound; harm_scores: of clean sound, which each model was given too. extremes: sound of the clips
    that are listed as best and worst of the best system. listening: what people said of these systems.
    """

    sources: dict[str, str]
    manifest_hash: str
    measures: tuple[str, ...]
    num_clips: int
    num_speakers: int
    audio_s: float
    sample_rates: tuple[int, ...]
    config: EvaluationConfig
    systems: tuple[SystemResult, ...]
    comparisons: tuple[Comparison, ...]
    leaders: tuple[Leader, ...]
    undefined: tuple[Undefined, ...]
    scores: tuple[Score, ...]
    harm_scores: tuple[Score, ...]
    examples: tuple[Example, ...]
    machine: str
    created_at: str
    duration_s: float
    extremes: tuple[Example, ...] = ()
    listening: ListeningSummary | None = None

    @property
    def notes(self) -> list[str]:
        """What was converted to be scored, and what the intervals cannot say, a line each."""
        rates = ", ".join(f"{rate}" for rate in self.sample_rates)
        lines = [
            f"{result.name} works at {result.model.sample_rate} Hz: clips of {rates} Hz are converted to it, and what "
            "it makes of them back"
            for result in self.systems
            if result.model is not None and {result.model.sample_rate} != set(self.sample_rates)
        ]
        lines += filter(None, (pesq_note(rate) for rate in self.sample_rates if "pesq" in self.measures))
        if self.num_speakers == 1:
            lines.append("all clips are of one speaker: intervals are over clips, and say nothing of others")
        elif self.num_speakers < 10:
            lines.append(
                f"the clips are of {self.num_speakers} speakers: intervals over so few are narrower than true"
            )
        return lines

    def system(self, name: str) -> SystemResult:
        return next(result for result in self.systems if result.name == name)


def facts_of(clip: ClipFacts) -> dict[str, Any]:
    """The facts alone, of whatever else a clip carries."""
    return {field.name: getattr(clip, field.name) for field in dataclasses.fields(ClipFacts)}
