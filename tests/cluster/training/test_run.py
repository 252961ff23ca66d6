"""Training on two real Ray Train workers: what a run leaves, and that killed and resumed equals uninterrupted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import ray
import torch

from cluster.settings.experiment import ConfigError, ExperimentConfig, load_config
from cluster.training.finetune import open_source
from cluster.training.run import TrainingError, TrainingResult, run_training
from ww_models import load_bundle, read_bundle_info


def tiny(*overrides: str, workers: int = 2) -> ExperimentConfig:
    return load_config(
        "tiny",
        [
            f"resources.num_workers={workers}",
            "training.max_steps=12",
            "training.validate_every_steps=4",
            "tracking.log_every_steps=1",
            "tracking.clearml=never",
            *overrides,
        ],
    )


def losses(run_dir: Path, series: str = "train") -> dict[int, float]:
    """{step: loss}; of a step that was done twice, the later."""
    lines = [json.loads(line) for line in (run_dir / "tracking" / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if line["series"] == series and "loss" in line}


def curve(run_dir: Path, name: str, series: str = "val") -> dict[int, float]:
    """{step: value} of a metric."""
    lines = [json.loads(line) for line in (run_dir / "tracking" / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line[name] for line in lines if line["series"] == series and name in line}


@pytest.fixture(scope="module")
def uninterrupted(
    local_ray: str, small_corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> TrainingResult:
    """Judged by STOI, as a run may be; others are judged by what is the default."""
    config = tiny("training.score=stoi")
    return run_training(
        config, str(small_corpus), tmp_path_factory.mktemp("runs"), "whole", show_progress=False
    )


def test_nothing_runs_beside_the_workers_that_a_ray_of_ones_own_can_spare(
    uninterrupted: TrainingResult,
) -> None:
    actors = {actor["ActorClassName"] for actor in ray._private.state.actors().values()}
    assert {"TrainController", "SplitCoordinator"} <= actors
    assert not actors & {"PlacementGroupCleaner", "DatasetManager"}


def test_a_run_leaves_bundle_curves_and_settings(uninterrupted: TrainingResult, small_corpus: Path) -> None:
    run = uninterrupted.run_dir
    assert uninterrupted.steps == 12
    info = read_bundle_info(uninterrupted.bundle)
    assert info.architecture == "gatewave"
    model = load_bundle(uninterrupted.bundle)
    assert torch.isfinite(model(torch.zeros(1, 1, 5000))).all()
    steps = sorted(losses(run))
    assert steps == list(range(2, 13)) or steps == list(range(1, 13))
    assert sorted(losses(run, "val")) == [4, 8, 12]
    events = list((run / "tracking" / "tensorboard").glob("events.*"))
    assert events
    assert {
        "si_sdr_db",
        "noisy_si_sdr_db",
        "pesq",
        "noisy_pesq",
        "stoi",
        "noisy_loss",
    } <= uninterrupted.scores.keys()
    assert uninterrupted.best_step in (4, 8, 12)
    assert uninterrupted.audio_hours == pytest.approx(12 * 4 * 1.0 / 3600)
    assert uninterrupted.audio_s_per_s > 0
    assert 0 <= uninterrupted.data_wait_fraction <= 1
    assert uninterrupted.last_checkpoint
    assert (run / uninterrupted.last_checkpoint / "state.ckpt").is_file()


def test_pesq_and_stoi_stand_in_the_curves_and_on_the_card(uninterrupted: TrainingResult) -> None:
    metrics = read_bundle_info(uninterrupted.bundle).metrics
    assert metrics["step"] == uninterrupted.best_step
    for name in ("pesq", "stoi"):
        val, noisy = (curve(uninterrupted.run_dir, name, series) for series in ("val", "noisy"))
        assert sorted(val) == sorted(noisy) == [4, 8, 12]
        assert len(set(noisy.values())) == 1
        assert metrics["enhanced"][name] == pytest.approx(val[uninterrupted.best_step])
        assert metrics["noisy"][name] == pytest.approx(uninterrupted.scores[f"noisy_{name}"])
        assert uninterrupted.last_scores[name] == pytest.approx(val[12])


def test_a_run_may_be_judged_by_stoi(uninterrupted: TrainingResult) -> None:
    stoi = curve(uninterrupted.run_dir, "stoi")
    assert uninterrupted.best_step == max(stoi, key=lambda step: stoi[step])


def test_tensorboard_holds_curves_sounds_and_pictures(uninterrupted: TrainingResult) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(uninterrupted.run_dir / "tracking" / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert {"loss/train", "loss/val", "si_sdr_db/val", "si_sdr_db/noisy", "pesq/val"} <= set(tags["scalars"])
    assert "example_0" in tags["images"]
    assert {"example_0/noisy", "example_0/clean", "example_0/estimate"} <= set(tags["audio"])


def test_a_relative_corpus_is_found_by_the_workers(
    local_ray: str, small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray Train gives its workers another working directory."""
    monkeypatch.chdir(small_corpus.parent)
    config = tiny("training.max_steps=1", "training.validate_every_steps=1", workers=1)
    result = run_training(config, small_corpus.name, tmp_path, "relative", show_progress=False)
    assert result.steps == 1


def test_more_workers_than_validation_mixtures_are_refused(
    local_ray: str, small_corpus: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        ConfigError, match="2 workers need at least as many validation mixtures, but there are 1"
    ):
        run_training(tiny("training.num_val_mixtures=1"), str(small_corpus), tmp_path, "few")
    assert not (tmp_path / "few").exists()


def test_a_permanent_error_ends_the_run_with_its_own_words(
    local_ray: str, small_corpus: Path, tmp_path: Path
) -> None:
    config = tiny(
        "optimizer.learning_rate=1e30", "tracking.log_every_steps=1", "training.num_pesq_mixtures=0"
    )
    with pytest.raises(TrainingError, match="the loss became"):
        run_training(config, str(small_corpus), tmp_path, "nan", show_progress=False)
    assert "the loss became" in (tmp_path / "nan" / "failure.txt").read_text()
    journal = (tmp_path / "nan" / "tracking" / "metrics.jsonl").read_text().splitlines()
    assert sum(json.loads(line)["series"] == "start" for line in journal) == 1, "it was tried again"
    records = list((tmp_path / "nan" / "bad_batches").glob("*.json"))
    assert records
    assert all(record.with_suffix(".npz").is_file() for record in records)


@pytest.mark.cluster
def test_a_run_whose_time_is_up_is_complete_and_goes_on_when_resumed(
    local_ray: str, small_corpus: Path, tmp_path: Path
) -> None:
    """The step at which it is up is validated and saved, and so is the last."""
    settings = ("training.max_steps=13", "training.validate_every_steps=8", "training.num_pesq_mixtures=0")
    late = tiny(*settings, "training.max_minutes=1e-4")
    first = run_training(late, str(small_corpus), tmp_path, "late", show_progress=False)
    assert first.steps == 1
    assert sorted(curve(first.run_dir, "loss")) == [1]
    assert load_bundle(first.bundle).num_parameters > 0
    rest = run_training(
        tiny(*settings), str(small_corpus), tmp_path, "late", resume=True, show_progress=False
    )
    assert rest.steps == 13
    assert sorted(curve(first.run_dir, "loss")) == [1, 8, 13]


@pytest.mark.soak
@pytest.mark.cluster
def test_a_finetuned_run_starts_from_the_weights_and_names_them(
    uninterrupted: TrainingResult, small_corpus: Path, tmp_path: Path
) -> None:
    source = open_source(uninterrupted.bundle)
    config = tiny(
        "training.max_steps=1", "optimizer.learning_rate=1e-30", "training.num_pesq_mixtures=0", workers=1
    )
    result = run_training(config, str(small_corpus), tmp_path, "tuned", finetune=source, show_progress=False)
    assert json.loads((result.run_dir / "run.json").read_text())["finetuned_from"] == source.id
    assert f"finetuned_from: {source.id}" in (result.bundle / "README.md").read_text()
    weights = dict(load_bundle(result.bundle).named_parameters())
    for name, weight in source.model.named_parameters():
        assert torch.equal(weights[name], weight), name


@pytest.mark.cluster
@pytest.mark.soak
@pytest.mark.parametrize("preset", ["demucs-compact", "waveunet-compact"])
def test_each_architecture_trains_on_two_workers(
    local_ray: str, small_corpus: Path, tmp_path: Path, preset: str
) -> None:
    """But for GateWave, which all other runs here are of, and BandMask, which the demo trains."""
    config = load_config(
        preset,
        [
            "resources.num_workers=2",
            "training.batch_size=2",
            "training.max_steps=2",
            "training.validate_every_steps=2",
            "training.num_val_mixtures=2",
            "training.num_pesq_mixtures=0",
        ],
    )
    result = run_training(config, str(small_corpus), tmp_path, preset, show_progress=False)
    assert result.steps == 2
    assert read_bundle_info(result.bundle).architecture == preset.removesuffix("-compact")
    assert np.isfinite(result.scores["si_sdr_db"])


def test_a_name_is_never_resumed_by_accident(uninterrupted: TrainingResult, small_corpus: Path) -> None:
    storage, name = uninterrupted.run_dir.parent, uninterrupted.run_dir.name
    with pytest.raises(ConfigError, match="exists already"):
        run_training(tiny(), str(small_corpus), storage, name)


def test_resume_with_other_settings_is_refused_with_the_difference(
    uninterrupted: TrainingResult, small_corpus: Path, tmp_path: Path
) -> None:
    storage, name = uninterrupted.run_dir.parent, uninterrupted.run_dir.name
    with pytest.raises(ConfigError, match=r"loss\.l1_weight: 1\.0 -> 3\.0"):
        run_training(
            tiny("training.score=stoi", "loss.l1_weight=3"), str(small_corpus), storage, name, resume=True
        )
    with pytest.raises(ConfigError, match="no run to resume"):
        run_training(tiny(), str(small_corpus), tmp_path, "never", resume=True)


def test_resuming_a_finished_run_only_gives_back_its_result(
    uninterrupted: TrainingResult, small_corpus: Path
) -> None:
    storage, name = uninterrupted.run_dir.parent, uninterrupted.run_dir.name
    weights = (uninterrupted.bundle / "weights.safetensors").read_bytes()
    config = tiny("training.score=stoi", "tracking.clearml=offline")
    again = run_training(config, str(small_corpus), storage, name, resume=True, show_progress=False)
    assert again.steps == 12
    assert again.scores == uninterrupted.scores
    assert (again.bundle / "weights.safetensors").read_bytes() == weights
    tracking = uninterrupted.run_dir / "tracking" / "clearml"
    assert tracking.is_dir()
    assert not list(tracking.rglob("bundle.zip")), "its model was registered again"
