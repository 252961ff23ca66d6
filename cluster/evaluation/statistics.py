"""How sure a mean is: bootstrap over speakers, paired over systems, and what many comparisons do to it.

The bootstrap draws speakers with replacement, each with all of its clips (Efron 1979; the percentile method; clusters
as in Davison and Hinkley 1997, 3.8): clips of one speaker are alike, and other speakers are what a listener will hear.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

_MAX_DRAWN_AT_ONCE = 4_000_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mean:
    """mean: over the clips that count, NaN if there is none; low, high: its interval.

    num_defined: clips that count; num_undefined: those left out, as some system has no value there.
    """

    mean: float
    low: float
    high: float
    num_defined: int
    num_undefined: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean difference over pairs and the ends of its confidence interval; all NaN without pairs."""

    mean: float
    low: float
    high: float
    num_pairs: int


def resampled_means(
    values_SK: np.ndarray, clusters: Sequence[str], *, num_resamples: int, seed: int
) -> np.ndarray:
    """(S, R): the mean of each row of values over the clips of each draw of clusters; one draw for all rows.

    values_SK: finite, a column per clip; clusters: whose each clip is. Of one cluster alone, clips are drawn instead.
    """
    names, cluster_K = np.unique(np.asarray(clusters), return_inverse=True)
    num_clusters = len(names)
    if num_clusters == 1:
        num_clusters = values_SK.shape[1]
        cluster_K = np.arange(num_clusters)
    count_C = np.bincount(cluster_K, minlength=num_clusters).astype(float)
    sum_SC = np.stack([np.bincount(cluster_K, row, num_clusters) for row in values_SK])
    rng = np.random.default_rng(seed)
    at_once = max(1, _MAX_DRAWN_AT_ONCE // num_clusters)
    means = []
    for start in range(0, num_resamples, at_once):
        size = min(at_once, num_resamples - start)
        drawn_RC = rng.multinomial(num_clusters, np.full(num_clusters, 1 / num_clusters), size=size)
        means.append((sum_SC @ drawn_RC.T) / (drawn_RC @ count_C))
    return np.concatenate(means, axis=1)


def ends(drawn_R: np.ndarray, confidence: float) -> tuple[float, float]:
    """The middle `confidence` of resampled means."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn_R, [tail, 1 - tail])
    return float(low), float(high)


def paired_interval(
    before: np.ndarray,
    after: np.ndarray,
    *,
    num_resamples: int,
    confidence: float,
    seed: int,
    clusters: Sequence[str] | None = None,
) -> Interval:
    """The mean of after - before over the pairs where both are finite, with its bootstrap interval.

    before, after: (N,), the same clip at the same place; clusters: whose each pair is, None for pairs that have nothing
    in common. Equal seeds give equal intervals.
    """
    with np.errstate(invalid="ignore"):
        differences = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    finite = np.isfinite(differences)
    num_pairs = int(finite.sum())
    if num_pairs == 0:
        return Interval(mean=float("nan"), low=float("nan"), high=float("nan"), num_pairs=0)
    names = np.arange(len(finite)).astype(str) if clusters is None else np.asarray(clusters)
    differences = differences[finite]
    drawn_R = resampled_means(differences[None], list(names[finite]), num_resamples=num_resamples, seed=seed)[
        0
    ]
    low, high = ends(drawn_R, confidence)
    return Interval(mean=float(differences.mean()), low=low, high=high, num_pairs=num_pairs)


def p_value(difference: float, drawn_R: np.ndarray) -> float:
    """How often a difference as large comes of drawing alone, either way: the bootstrap moved to where there is none.

    At least 1 / (R + 1): what was never seen in R draws is no more than rare.
    """
    # A difference that is rounding is none.
    is_as_large = np.abs(drawn_R - difference) >= abs(difference) - 1e-12
    return float((1 + is_as_large.sum()) / (len(drawn_R) + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values of a family of tests, each raised for how many there are (Holm 1979); in the order that they came."""
    order = np.argsort(p_values, kind="stable")
    corrected = np.empty(len(order))
    largest = 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - place) * p_values[index]))
        corrected[index] = largest
    return [float(value) for value in corrected]
