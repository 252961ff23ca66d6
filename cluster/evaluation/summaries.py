"""From single scores to what a person decides by: means, buckets, differences, and how sure each is.

By each measure only those clips count for which all systems have a value: so no mean is of other clips than the one
beside it, and a clip without a value shifts none. They are listed.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from cluster.evaluation.scores import (
    NOISY,
    STREAM,
    ClipFacts,
    Comparison,
    EvaluationConfig,
    Leader,
    Score,
    Spread,
    Summary,
    Undefined,
)
from cluster.evaluation.statistics import (
    Interval,
    Mean,
    ends,
    holm,
    num_drawn,
    p_value,
    resampled_means,
    widened,
)
from ww_models.quality import MEASURES

_MAX_LEVELS = 12  # of SNRs as mixed, that are buckets of their own
MAX_OWN_SPEAKERS = 30
SNR_STEP_DB, LEVEL_STEP_DB = 5, 10
_NAN = float("nan")


@dataclasses.dataclass(frozen=True, eq=False)
class ScoreTable:
    """Scores as arrays: values[measure] is (systems, clips), NaN where undefined."""

    clips: tuple[ClipFacts, ...]
    systems: tuple[str, ...]
    values: dict[str, np.ndarray]

    @classmethod
    def of(cls, scores: Sequence[Score], groups: Mapping[str, Sequence[str]] | None = None) -> ScoreTable:
        """groups: members by the name of their group, which takes their place: its values are means over them."""
        groups = groups or {}
        by_system: dict[str, dict[str, Score]] = {}
        for score in scores:
            by_system.setdefault(score.system, {})[score.clip_id] = score
        first = next(iter(by_system.values()))
        measures = next(iter(first.values())).values
        values = {
            measure: {
                name: np.array([rows[clip_id].values[measure] for clip_id in first])
                for name, rows in by_system.items()
            }
            for measure in measures
        }
        members = {member: group for group, names in groups.items() for member in names}
        systems = tuple(dict.fromkeys(members.get(name, name) for name in by_system))

        def row(measure: str, system: str) -> np.ndarray:
            if system in groups:
                return np.mean([values[measure][member] for member in groups[system]], axis=0)
            return values[measure][system]

        table = {measure: np.stack([row(measure, system) for system in systems]) for measure in values}
        return cls(clips=tuple(first.values()), systems=systems, values=table)

    def counts(self, measure: str) -> np.ndarray:
        """(clips,) bool: where all systems have a value that have any."""
        defined = np.isfinite(self.values[measure])
        return defined[defined.any(axis=1)].all(axis=0) & defined.any(axis=0)

    def undefined(self) -> tuple[Undefined, ...]:
        found = []
        for measure, values in self.values.items():
            for system, row in zip(self.systems, values, strict=True):
                if names := tuple(self.clips[place].clip_id for place in np.flatnonzero(~np.isfinite(row))):
                    found.append(Undefined(measure=measure, system=system, clips=names))
        return tuple(found)


@dataclasses.dataclass(frozen=True, eq=False)
class _Drawn:
    """Of one measure over some clips: means of all systems, and resampled ones, (systems, R)."""

    num_clips: int
    num_left_out: int
    num_drawn: int
    mean_S: np.ndarray
    resampled_SR: np.ndarray

    def difference(self, a: int, b: int, confidence: float) -> Interval:
        """The mean of a - b."""
        mean = float(self.mean_S[a] - self.mean_S[b])
        if not math.isfinite(mean):
            return Interval(mean=_NAN, low=_NAN, high=_NAN, num_pairs=0)
        low, high = ends(self.resampled_SR[a] - self.resampled_SR[b], confidence)
        return Interval(mean=mean, low=low, high=high, num_pairs=self.num_clips)

    def mean(self, system: int, confidence: float) -> Mean:
        mean = float(self.mean_S[system])
        low, high = ends(self.resampled_SR[system], confidence) if math.isfinite(mean) else (_NAN, _NAN)
        num_defined = self.num_clips if math.isfinite(mean) else 0
        num_undefined = self.num_left_out + self.num_clips - num_defined
        return Mean(mean=mean, low=low, high=high, num_defined=num_defined, num_undefined=num_undefined)


def _draw(table: ScoreTable, measure: str, chosen: np.ndarray, config: EvaluationConfig) -> _Drawn:
    """chosen: (clips,) bool, a bucket."""
    counts = table.counts(measure) & chosen
    num_clips = int(counts.sum())
    num_systems = len(table.systems)
    mean_S = np.full(num_systems, _NAN)
    resampled_SR = np.full((num_systems, config.num_resamples), _NAN)
    values = table.values[measure][:, counts]
    has_any = np.isfinite(values).all(axis=1)
    speakers = [clip.speaker for clip, is_in in zip(table.clips, counts, strict=True) if is_in]
    if num_clips and has_any.any():
        mean_S[has_any] = values[has_any].mean(axis=1)
        drawn_SR = resampled_means(
            values[has_any], speakers, num_resamples=config.num_resamples, seed=config.seed
        )
        resampled_SR[has_any] = widened(drawn_SR, mean_S[has_any], num_drawn(speakers))
    return _Drawn(num_clips, int(chosen.sum()) - num_clips, num_drawn(speakers), mean_S, resampled_SR)


def summarize(
    table: ScoreTable, chosen: np.ndarray, bucket: str, config: EvaluationConfig
) -> dict[str, Summary]:
    """The summary of each system over the clips that are `chosen`, (clips,) bool."""
    drawn = {measure: _draw(table, measure, chosen, config) for measure in table.values}
    noisy = table.systems.index(NOISY)
    return {
        system: Summary(
            bucket=bucket,
            num_clips=int(chosen.sum()),
            means={measure: each.mean(place, config.confidence) for measure, each in drawn.items()},
            improvements={}
            if place == noisy
            else {
                measure: each.difference(place, noisy, config.confidence) for measure, each in drawn.items()
            },
        )
        for place, system in enumerate(table.systems)
    }


def everything(table: ScoreTable) -> np.ndarray:
    return np.ones(len(table.clips), dtype=bool)


def buckets(table: ScoreTable) -> dict[str, dict[str, np.ndarray]]:
    """Which clips, (clips,) bool, by what they go by, then by the name of the bucket, in order.

    Not by speaker where each of many clips has its own (the DNS Challenge's): that would be the scores once more.
    """
    ways: dict[str, list[tuple[float | str, str]]] = {
        "snr": _snr_buckets([clip.input_snr_db for clip in table.clips]),
        "noise": [(clip.noise, clip.noise) for clip in table.clips],
        "speaker": [(clip.speaker, clip.speaker) for clip in table.clips],
        "level": [_bin(clip.input_level_dbfs, LEVEL_STEP_DB, "dBFS") for clip in table.clips],
        "dataset": [(clip.dataset, clip.dataset) for clip in table.clips],
    }
    found: dict[str, dict[str, np.ndarray]] = {}
    if len({clip.speaker for clip in table.clips}) == len(table.clips) > MAX_OWN_SPEAKERS:
        del ways["speaker"]
    for way, keys in ways.items():
        names = [name for _, name in sorted(set(keys), key=lambda key: (str(type(key[0])), key[0])) if name]
        found[way] = {name: np.array([key[1] == name for key in keys]) for name in names}
    return found


def _snr_buckets(snrs_db: Sequence[float]) -> list[tuple[float | str, str]]:
    levels = {snr_db for snr_db in snrs_db if math.isfinite(snr_db)}
    if len(levels) <= _MAX_LEVELS and all(
        snr_db == round(snr_db, 1) for snr_db in levels
    ):  # as mixed, not measured
        return [(snr, f"{_number(snr)} dB") if math.isfinite(snr) else ("", "") for snr in snrs_db]
    return [_bin(snr_db, SNR_STEP_DB, "dB") for snr_db in snrs_db]


def _bin(value: float, step: int, unit: str) -> tuple[float | str, str]:
    """(what to sort by, "−5 to 0 dB"): the low end belongs to it."""
    if not math.isfinite(value):
        return "", ""
    low = math.floor(value / step) * step
    return float(low), f"{_number(low)} to {_number(low + step)} {unit}"


def _number(value: float) -> str:
    return f"{value:g}".replace("-", "−")


def compare(table: ScoreTable, config: EvaluationConfig) -> tuple[list[Comparison], list[Leader]]:
    """All pairs of systems by each measure, without the noisy sound and streams; and the best, with what is behind."""
    rivals = [
        place
        for place, name in enumerate(table.systems)
        if name != NOISY and not name.endswith(STREAM)  # a stream is no rival of its model
    ]
    comparisons: list[Comparison] = []
    leaders: list[Leader] = []
    for measure in table.values:
        drawn = _draw(table, measure, everything(table), config)
        defined = [place for place in rivals if math.isfinite(drawn.mean_S[place])]
        if not defined:
            continue

        def p_of(a: int, b: int, drawn: _Drawn = drawn) -> float:
            return p_value(
                float(drawn.mean_S[a] - drawn.mean_S[b]),
                drawn.resampled_SR[a] - drawn.resampled_SR[b],
                drawn.num_drawn,
            )

        pairs = list(itertools.combinations(defined, 2))
        p_values = [p_of(*pair) for pair in pairs]
        comparisons += [
            Comparison(
                measure=measure,
                a=table.systems[a],
                b=table.systems[b],
                difference=drawn.difference(a, b, config.confidence),
                p=p,
                p_holm=corrected,
            )
            for (a, b), p, corrected in zip(pairs, p_values, holm(p_values), strict=True)
        ]
        sign = 1 if MEASURES[measure].higher_is_better else -1
        best = max(defined, key=lambda place: sign * drawn.mean_S[place])
        others = [place for place in defined if place != best]
        behind = holm([p_of(place, best) for place in others])
        names = [table.systems[place] for place in others]
        leaders.append(
            Leader(measure=measure, best=table.systems[best], behind=dict(zip(names, behind, strict=True)))
        )
    return comparisons, leaders


def spread_of(scores: Sequence[Score], members: Sequence[str]) -> dict[str, Spread]:
    """Each training's mean by measure, over clips for which all of them have a value, and the deviation of those."""
    table = ScoreTable.of([score for score in scores if score.system in members])
    found = {}
    for measure, values in table.values.items():
        means = values[:, table.counts(measure)].mean(axis=1) if table.counts(measure).any() else [_NAN]
        deviation = float(np.std(means, ddof=1)) if len(means) > 1 else _NAN
        found[measure] = Spread(means=tuple(float(mean) for mean in means), deviation=deviation)
    return found


def ranked(scores: Sequence[Score], system: str) -> list[Score]:
    """A system's scores by SI-SDR improvement, least first, without those that have none."""
    noisy_db = {
        score.clip_id: score.values.get("si_sdr_db", _NAN) for score in scores if score.system == NOISY
    }

    def gain_db(score: Score) -> float:
        return score.values.get("si_sdr_db", _NAN) - noisy_db[score.clip_id]

    own = (score for score in scores if score.system == system)
    return sorted((score for score in own if math.isfinite(gain_db(score))), key=gain_db)


def choose_examples(scores: Sequence[Score], system: str, num_examples: int) -> list[Score]:
    """Typical clips, not flattering ones: at some SNRs, from the lowest, the one of median improvement."""
    in_order = ranked(scores, system)
    snrs_db = sorted({round(score.input_snr_db) for score in in_order})
    chosen = []
    for snr_db in snrs_db[:: max(1, len(snrs_db) // max(1, num_examples))][:num_examples]:
        at_snr = [score for score in in_order if round(score.input_snr_db) == snr_db]
        chosen.append(at_snr[len(at_snr) // 2])
    return chosen
