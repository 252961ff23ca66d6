"""Means that count what is undefined, and paired bootstrap intervals (Efron 1979; percentile method)."""

from __future__ import annotations

import dataclasses

import numpy as np

_MAX_DRAWN_AT_ONCE = 4_000_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mean:
    """mean: over the finite values, NaN if there is none; num_undefined: values that are NaN or infinite."""

    mean: float
    num_defined: int
    num_undefined: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean difference over pairs and the ends of its confidence interval; all NaN without pairs."""

    mean: float
    low: float
    high: float
    num_pairs: int


def mean_of_defined(values: np.ndarray) -> Mean:
    """values: (N,) floats."""
    finite = np.isfinite(values)
    num_defined = int(finite.sum())
    mean = float(values[finite].mean()) if num_defined else float("nan")
    return Mean(mean=mean, num_defined=num_defined, num_undefined=len(values) - num_defined)


def paired_interval(
    before: np.ndarray, after: np.ndarray, *, num_resamples: int, confidence: float, seed: int
) -> Interval:
    """The mean of after - before over the pairs where both are finite, with its bootstrap interval.

    before, after: (N,), the same clip at the same place. Pairs are drawn with replacement, `num_resamples`
    times; the interval holds the middle `confidence` of the means. Equal seeds give equal intervals.
    """
    with np.errstate(invalid="ignore"):
        differences = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    differences = differences[np.isfinite(differences)]
    num_pairs = len(differences)
    if num_pairs == 0:
        return Interval(mean=float("nan"), low=float("nan"), high=float("nan"), num_pairs=0)
    rng = np.random.default_rng(seed)
    per_draw = max(1, _MAX_DRAWN_AT_ONCE // num_pairs)
    means = []
    for start in range(0, num_resamples, per_draw):
        drawn = rng.integers(num_pairs, size=(min(per_draw, num_resamples - start), num_pairs))
        means.append(differences[drawn].mean(axis=1))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return Interval(mean=float(differences.mean()), low=float(low), high=float(high), num_pairs=num_pairs)
