"""Whether a run that is under way is worth going on with, told by the curves of all runs.

Pure functions of curves, which the runs' folders keep: a sweep that was cut decides as one that was not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Curve = Sequence[tuple[float, float]]  # (how far the run was, in steps or seconds; its objective), in order

REDUCTION = 3  # of ASHA: at each rung the best third goes on
_NUM_RUNGS = 3
_LEAST_PEERS = 3  # of the median rule


def rungs(length: float) -> list[float]:
    """How far runs of a length are when they are compared: 1/27, 1/9 and 1/3 of it."""
    return [length / REDUCTION**power for power in range(_NUM_RUNGS, 0, -1)]


def is_behind_asha(curve: Curve, others: Sequence[Curve], rungs: Sequence[float]) -> bool:
    """Whether a run is not among the best third of those that have got as far as the rung it has just passed.

    Asynchronous successive halving (Li et al., "A System for Massively Parallel Hyperparameter Tuning", 2020).
    """
    before = curve[-2][0] if len(curve) > 1 else 0.0
    passed = [rung for rung in rungs if before < rung <= curve[-1][0]]
    if not passed:
        return False
    peers = [_best_at(other, passed[-1]) for other in others]
    there = [peer for peer in peers if peer is not None and np.isfinite(peer)]
    if not there:
        return False
    return max(value for _, value in curve) < float(np.percentile(there, 100 * (1 - 1 / REDUCTION)))


def is_behind_median(curve: Curve, others: Sequence[Curve], grace: float) -> bool:
    """Whether a run's best is below the median of what others had on average by then, once three have got as far.

    The median stopping rule (Golovin et al., "Google Vizier", 2017). grace: how far a run gets in any case.
    """
    now = curve[-1][0]
    if now < grace:
        return False
    means = [
        float(np.mean([value for at, value in other if at <= now]))
        for other in others
        if other and other[0][0] <= now <= other[-1][0]
    ]
    means = [mean for mean in means if np.isfinite(mean)]
    return len(means) >= _LEAST_PEERS and max(value for _, value in curve) < float(np.median(means))


def _best_at(curve: Curve, rung: float) -> float | None:
    """The best of a curve when it passed a rung; None for a run that has not got there."""
    past = [index for index, (at, _) in enumerate(curve) if at >= rung]
    return max(value for _, value in curve[: past[0] + 1]) if past else None
