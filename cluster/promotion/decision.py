"""Which of a report's models may come into force: the best within bounds, if it is better than the one in force."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cluster.evaluation.scores import NOISY, STREAM
from cluster.evaluation.statistics import Interval, paired_interval
from ww_models.quality import MEASURES


class NotPromotedError(ValueError):
    """Why no model of a report comes into force; one line."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bounds:
    """by: the measure that decides. max_real_time_factor: seconds of computing per second of sound, of one stream on
    one thread; min_clean_pesq: PESQ of what it makes of clean speech. None: no bound.
    """

    by: str = "pesq"
    max_real_time_factor: float | None = None
    min_clean_pesq: float | None = None

    def __post_init__(self) -> None:
        if self.by not in MEASURES:
            raise ValueError(f"unknown measure {self.by!r}; choose one of {', '.join(MEASURES)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """A model of a report. score: mean of the deciding measure; beyond: the bounds that it does not keep."""

    name: str
    bundle_id: str
    path: Path
    score: float
    beyond: tuple[str, ...]


def candidates(report: Mapping[str, Any], bounds: Bounds) -> list[Candidate]:
    """The bundles of a report (`evaluation.files.read_report`), those that keep the bounds first, then the best."""
    if bounds.by not in report["measures"]:
        raise NotPromotedError(
            f"the report has no {MEASURES[bounds.by].title}; it measures {', '.join(report['measures'])}"
        )
    found = []
    for system in report["systems"]:
        model = system["model"]
        # Streams are rows of a model's that is there already; files and checkpoints are no bundles.
        if system["name"] == NOISY or system["name"].endswith(STREAM) or not model or not model["bundle_id"]:
            continue
        score = system["overall"]["means"][bounds.by]["mean"]
        found.append(
            Candidate(
                name=system["name"],
                bundle_id=model["bundle_id"],
                path=Path(model["path"]),
                score=math.nan if score is None else score,
                beyond=tuple(_beyond(system, bounds)),
            )
        )
    sign = 1 if MEASURES[bounds.by].higher_is_better else -1
    found = [candidate for candidate in found if not math.isnan(candidate.score)]
    return sorted(found, key=lambda candidate: (bool(candidate.beyond), -sign * candidate.score))


def _beyond(system: Mapping[str, Any], bounds: Bounds) -> list[str]:
    reasons = []
    if bounds.max_real_time_factor is not None:
        costs = (system["cost"] or {"alone": {}})["alone"].values()
        timed = [factor for factor in costs if factor is not None]
        if not timed:
            reasons.append("its streams were not timed")
        elif min(timed) > bounds.max_real_time_factor:
            reasons.append(
                f"it takes {min(timed):.3f} s per second of sound, more than {bounds.max_real_time_factor:g}"
            )
    if bounds.min_clean_pesq is not None:
        pesq = (system["harm"] or {}).get("pesq")
        if pesq is None:
            reasons.append("what it does to clean speech was not measured")
        elif pesq < bounds.min_clean_pesq:
            reasons.append(
                f"clean speech comes out with a PESQ of {pesq:.2f}, less than {bounds.min_clean_pesq:g}"
            )
    return reasons


def against(
    report: Mapping[str, Any], candidate: Candidate, incumbent_id: str, measure: str
) -> Interval | None:
    """By how much it is above the model in force, clip by clip, over speakers; None if the report lacks that model."""
    incumbents = [
        system["name"]
        for system in report["systems"]
        if (model := system["model"]) and model["bundle_id"] == incumbent_id
        if not system["name"].endswith(STREAM)
    ]
    if not incumbents:
        return None
    values = {
        (score["system"], score["dataset"], score["clip_id"]): score
        for score in report["scores"]
        if score["system"] in (incumbents[0], candidate.name)
    }
    clips = [key[1:] for key in values if key[0] == candidate.name]
    before, after = (
        np.array([_number(values.get((name, *clip), {}).get(measure)) for clip in clips])
        for name in (incumbents[0], candidate.name)
    )
    config = report["config"]
    return paired_interval(
        before,
        after,
        num_resamples=config["num_resamples"],
        confidence=config["confidence"],
        seed=config["seed"],
        clusters=[values[candidate.name, *clip]["speaker"] for clip in clips],
    )


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def refusals(candidate: Candidate, incumbent_id: str | None, change: Interval | None, by: str) -> list[str]:
    """Why it should not come into force; none if it should."""
    reasons = list(candidate.beyond)
    if incumbent_id is None:
        return reasons
    measure = MEASURES[by]
    if candidate.bundle_id == incumbent_id:
        return [*reasons, "it is in force already"]
    if change is None:
        return [
            *reasons,
            f"the report does not measure the model in force ({incumbent_id}) on the same clips: evaluate both at once",
        ]
    is_better = change.low > 0 if measure.higher_is_better else change.high < 0
    if not is_better:
        digits = measure.digits + 1
        reasons.append(
            f"it is not surely better than the model in force: {measure.title} {change.mean:+.{digits}f} "
            f"({change.low:+.{digits}f} to {change.high:+.{digits}f})"
        )
    return reasons


def evidence(
    report: Mapping[str, Any],
    candidate: Candidate,
    bounds: Bounds,
    incumbent_id: str | None,
    change: Interval | None,
) -> dict[str, Any]:
    """What speaks for it, as the store keeps it."""
    systems = {system["name"]: system for system in report["systems"]}
    system = systems[candidate.name]
    kept = ("sources", "manifest_hash", "num_clips", "num_speakers", "machine", "created_at")
    return {
        "report": {name: report[name] for name in kept},
        "bounds": dataclasses.asdict(bounds),
        "noisy": _means(systems[NOISY]),
        "enhanced": _means(system),
        "harm": system["harm"],
        "cost": system["cost"],
        "against": None
        if change is None
        else {"bundle_id": incumbent_id, **{name: _plain(value) for name, value in vars(change).items()}},
    }


def _means(system: Mapping[str, Any]) -> dict[str, float | None]:
    return {name: mean["mean"] for name, mean in system["overall"]["means"].items()}


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
