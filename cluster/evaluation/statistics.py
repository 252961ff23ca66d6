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


def widened(drawn_SR: np.ndarray, mean_S: np.ndarray, num_drawn: int) -> np.ndarray:
    """Resampled means as far from the mean as those of few speakers are: drawing from C of them spreads by
    sqrt((C - 1) / C) of what it should, and their spread is itself uncertain, for which Student's t stands.

    num_drawn: C, of speakers or, of one speaker, of clips. NaN for one: it says nothing of others.
    """
    if num_drawn < 2:
        return np.full_like(drawn_SR, np.nan)
    from scipy.stats import norm, t

    factor = np.sqrt(num_drawn / (num_drawn - 1)) * t.ppf(0.975, num_drawn - 1) / norm.ppf(0.975)
    return mean_S[:, None] + factor * (drawn_SR - mean_S[:, None])


def num_drawn(clusters: Sequence[str]) -> int:
    """How many speakers there are to draw from; of one speaker, how many clips."""
    num_speakers = len(set(clusters))
    return num_speakers if num_speakers > 1 else len(clusters)


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
    chosen = [str(name) for name in names[finite]]
    drawn_SR = resampled_means(differences[None], chosen, num_resamples=num_resamples, seed=seed)
    mean = differences.mean()
    low, high = ends(widened(drawn_SR, np.array([mean]), num_drawn(chosen))[0], confidence)
    return Interval(mean=float(mean), low=low, high=high, num_pairs=num_pairs)


def p_value(difference: float, drawn_R: np.ndarray, num_speakers: int) -> float:
    """How often a difference as large comes of drawing alone, either way: the bootstrap moved to where there is none.

    At least 1 / (R + 1): what was never seen in R draws is no more than rare; and at least how often as many coins as
    there are speakers fall on one side.
    """
    if np.isnan(drawn_R).any():
        return 1.0
    # A difference that is rounding is none.
    is_as_large = np.abs(drawn_R - difference) >= abs(difference) - 1e-12
    return float(max((1 + is_as_large.sum()) / (len(drawn_R) + 1), 2.0 ** (1 - num_speakers)))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values of a family of tests, each raised for how many there are (Holm 1979); in the order that they came."""
    order = np.argsort(p_values, kind="stable")
    corrected = np.empty(len(order))
    largest = 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - place) * p_values[index]))
        corrected[index] = largest
    return [float(value) for value in corrected]
