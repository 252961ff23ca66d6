"""Which of a run's checkpoints becomes its output model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cluster.runs.checkpoints import Checkpoints
from cluster.settings.experiment import load_config
from cluster.training.loop.checkpointing import register_best
from ww_data import Storage
from ww_models import build_model, read_bundle_info, save_bundle


def test_the_registered_model_is_the_best_of_all_starts_with_its_scores(tmp_path: Path) -> None:
    config = load_config("tiny")
    model = build_model(config.model_name, **dataclasses.asdict(config.model))
    registered: list[tuple[Any, dict[str, float]]] = []

    def register(bundle: Path, scores: dict[str, float]) -> None:
        registered.append((read_bundle_info(bundle).metrics["step"], scores))

    tracker: Any = SimpleNamespace(model=register)
    for step, score, best in ((1, 5.0, 1), (2, 9.0, 2), (3, 7.0, 2), (4, 6.0, 2), (5, 10.0, 5)):
        folder = tmp_path / "made" / str(step)
        save_bundle(folder / "bundle", model, metrics={"step": step})
        checkpoints = Checkpoints(Storage(tmp_path / "run"), config.training)
        scores = {"si_sdr_db": score, "noisy_si_sdr_db": 1.0, "pesq": 1.0 + step / 10}
        checkpoints.store(folder, step, {**scores, "step": step})
        register_best(tracker, checkpoints)
        at, shown = registered[-1]
        assert at == best
        assert shown["pesq"] == 1.0 + best / 10
        assert "step" not in shown
