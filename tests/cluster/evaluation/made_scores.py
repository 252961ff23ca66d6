"""Scores and reports that tests make up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from cluster.evaluation.scores import (
    CLEAN,
    NOISY,
    Cost,
    EvaluationConfig,
    EvaluationReport,
    Example,
    Harm,
    ModelFacts,
    Score,
    SystemResult,
    facts_of,
)
from cluster.evaluation.summaries import ScoreTable, buckets, compare, everything, ranked, summarize

MEASURED = ("pesq", "stoi", "snr_db", "si_sdr_db", "lsd_db")
FACTS = ModelFacts(
    bundle_id="gatewave-0123456789ab",
    path="runs/<a>/bundle",
    architecture="gatewave",
    num_parameters=12_345,
    macs_per_second=1e8,
    latency_ms=37.2,
    real_time_factor=0.05,
    sample_rate=16_000,
    same_corpus=True,
)
HARM = Harm(pesq=4.5, si_sdr_db=30.0, num_clips=20, silence_dbfs=-120.0)
COST = Cost(alone={"fp32": 0.0111, "int8": 0.0099}, batch_16={"fp32": 0.0044, "int8": None})


def make_score(number: int, system: str, values: Mapping[str, float], **facts: object) -> Score:
    given = {
        "clip_id": f"test-{number:05}",
        "dataset": "corpus",
        "speaker": f"s&{number % 4}",
        "noise": ("fan", "rain")[number % 2],
        "noise_id": "noise/test/fan__1.wav",
        "sample_rate": 16_000,
        "duration_s": 4.0,
        "input_snr_db": (-5.0, 5.0)[number % 2],
        "input_level_dbfs": -25.0 - number % 3 * 10,
        **facts,
    }
    return Score(system=system, values=dict(values), **given)  # type: ignore[arg-type]


def scores_of(values: Mapping[str, Sequence[float]], speakers: Sequence[str] | None = None) -> list[Score]:
    """SI-SDR by system, a value for each clip."""
    return [
        make_score(
            number,
            system,
            {"si_sdr_db": value},
            **({} if speakers is None else {"speaker": speakers[number]}),
        )
        for number in range(len(next(iter(values.values()))))
        for system, value in ((system, row[number]) for system, row in values.items())
    ]


def make_example(score: Score, names: Sequence[str], seconds: float = 0.5) -> Example:
    """A clip whose every side is the same tone."""
    t = np.arange(round(seconds * score.sample_rate)) / score.sample_rate
    tone_T = (0.1 * np.sin(2 * np.pi * 440 * t)).astype(np.float32)
    facts = facts_of(score) | {"duration_s": seconds}
    return Example(**facts, signals=dict.fromkeys(names, tone_T))


def make_report(
    gain: float = 0.5, *, undefined: bool = False, rival_gain: float | None = None
) -> EvaluationReport:
    """Twenty clips at two SNRs; the model "<a>" adds `gain` to PESQ and ten times that to SI-SDR."""
    rng = np.random.default_rng(0)
    gains = {NOISY: 0.0, "<a>": gain} | ({} if rival_gain is None else {"b": rival_gain})
    scores = []
    for number in range(20):
        level = rng.normal()
        for system, added in gains.items():
            pesq = 1.5 + 0.1 * level + added + 0.01 * rng.normal()
            values = {
                "pesq": math.nan if undefined and number == 3 and system == "<a>" else pesq,
                "stoi": 0.7 + 0.01 * added,
                "snr_db": level,
                "si_sdr_db": level + 10 * added + 0.01 * rng.normal(),
                "lsd_db": 10 - added,
            }
            scores.append(make_score(number, system, values, speaker=f"s&{number % 10}"))
    config = EvaluationConfig(num_resamples=200)
    table = ScoreTable.of(scores)
    overall = summarize(table, everything(table), "", config)
    by = {
        way: [summarize(table, chosen, bucket, config) for bucket, chosen in found.items()]
        for way, found in buckets(table).items()
    }
    systems = tuple(
        SystemResult(
            name=name,
            model=None if name == NOISY else FACTS,
            overall=overall[name],
            by={way: tuple(each[name] for each in found) for way, found in by.items()},
            best=tuple(ranked(scores, name)[::-1][:3]),
            worst=tuple(ranked(scores, name)[:3]),
            harm=None if name == NOISY else HARM,
            cost=None if name == NOISY else COST,
        )
        for name in gains
    )
    comparisons, leaders = compare(table, config)
    best = max(systems[1:], key=lambda system: gains[system.name])
    return EvaluationReport(
        sources={"corpus": "data/mine"},
        manifest_hash="abc123",
        measures=MEASURED,
        num_clips=20,
        num_speakers=10,
        audio_s=80.0,
        sample_rates=(16_000,),
        config=config,
        systems=systems,
        comparisons=tuple(comparisons),
        leaders=tuple(leaders),
        undefined=table.undefined(),
        scores=tuple(scores),
        harm_scores=(),
        examples=(make_example(scores[0], (*gains, CLEAN)),),
        machine="a machine",
        created_at="2030-01-02T03:04:05+00:00",
        duration_s=12.0,
        extremes=tuple(make_example(score, (NOISY, best.name, CLEAN)) for score in (*best.best, *best.worst)),
    )
