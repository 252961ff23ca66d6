"""Which of a run's checkpoints becomes its output model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cluster.runs.checkpoints import CheckpointError, Checkpoints
from cluster.settings.experiment import load_config
from cluster.training.loop.checkpointing import read_state, register_best
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


class Harm:
    """Makes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_checkpoint_from_elsewhere_runs_nothing(tmp_path: Path) -> None:
    file, mark = tmp_path / "state.ckpt", tmp_path / "ran"
    torch.save({"global_step": 3, "state_dict": {"w": torch.zeros(2)}}, file)
    assert read_state(file)["global_step"] == 3
    torch.save({"global_step": 3, "callbacks": {"mine": Harm(mark)}}, file)
    with pytest.raises(CheckpointError, match="no run of ours wrote it") as error:
        read_state(file)
    file.write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match="no run of ours wrote it"):
        read_state(file)
    assert not mark.exists()
    assert "\n" not in str(error.value)
