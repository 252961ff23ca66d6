"""Validation scores as bundles hold them: the unprocessed baseline's beside the model's."""

from __future__ import annotations

from pathlib import Path

from ww_models import read_bundle_info
from ww_models.bundle.bundle import add_metrics


def compared_scores(scores: dict[str, float]) -> dict[str, dict[str, float]]:
    """{"noisy": {metric: score}, "enhanced": {metric: score}} of validation scores, which name the former noisy_*."""
    noisy = {
        name.removeprefix("noisy_"): value for name, value in scores.items() if name.startswith("noisy_")
    }
    return {"noisy": noisy, "enhanced": {name: scores[name] for name in noisy if name in scores}}


def add_scores(bundle: Path, scores: dict[str, float]) -> None:
    """Adds validation scores that came later to a bundle's own, and to its card."""
    if not scores:
        return
    metrics, late = read_bundle_info(bundle).metrics, compared_scores(scores)
    add_metrics(bundle, {part: {**metrics.get(part, {}), **late[part]} for part in late})
