"""What a training run can be asked for: averages, accumulation, limits; and its summary at the end."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from cluster.runs.folder import claim_run_folder
from cluster.runs.result import TrainingResult
from cluster.runs.transfer import put_in_place
from cluster.settings.experiment import ConfigError
from cluster.settings.training import TrainingConfig
from cluster.training.loop import stopping
from cluster.training.loop.stopping import was_stopped
from tests.cluster.training.training_loop import assert_equal, settings, train
from tests.conftest import require_program
from ww_data import Storage


def test_resumed_equals_uninterrupted_with_an_average_and_accumulation(tmp_path: Path) -> None:
    config = settings("training.ema_decay=0.9", "training.accumulate=2")
    whole = train(config, tmp_path)
    resumed = train(config, tmp_path, resume_at=3)
    assert whole.keep.steps == [3, 6]
    assert resumed.keep.steps == [6]
    assert_equal(resumed.trained, whole.trained, 0.0)
    assert_equal(resumed.keep.shipped, whole.keep.shipped, 0.0)


def test_the_average_is_validated_and_shipped_while_training_goes_on_with_the_weights(tmp_path: Path) -> None:
    plain = train(settings(), tmp_path / "plain")
    averaged = train(settings("training.ema_decay=0.9"), tmp_path / "averaged")
    assert_equal(averaged.trained, plain.trained, 0.0)
    assert_equal(plain.keep.shipped, plain.trained, 0.0)
    difference = max(
        float((averaged.keep.shipped[name] - value).abs().max()) for name, value in averaged.trained.items()
    )
    assert difference > 1e-5
    assert averaged.module.validation_scores["loss"] != plain.module.validation_scores["loss"]


def test_the_average_follows_its_formula(tmp_path: Path) -> None:
    seen: list[torch.Tensor] = []
    config = settings("training.ema_decay=0.9", "training.validate_every_steps=1", "training.max_steps=3")
    run = train(config, tmp_path)
    states = [torch.load(tmp_path / f"{step}.ckpt", weights_only=True) for step in (1, 2, 3)]
    name = next(name for name in states[0]["state_dict"] if name.startswith("model."))
    seen = [state["current_model_state"][name] for state in states]
    expected = seen[0]
    for n, weight in enumerate(seen[1:], start=1):
        decay = min(0.9, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * weight
    assert (run.keep.shipped[name.removeprefix("model.")] - expected).abs().max() < 1e-6


def test_accumulated_batches_are_one_step_over_the_same_items(tmp_path: Path) -> None:
    at_once = train(settings("training.batch_size=4"), tmp_path / "at_once")
    in_two = train(settings("training.batch_size=2", "training.accumulate=2"), tmp_path / "in_two")
    assert in_two.keep.steps == at_once.keep.steps == [3, 6]
    assert_equal(in_two.trained, at_once.trained, 1e-5)


def test_the_last_step_is_validated_and_saved_whichever_it_is(tmp_path: Path) -> None:
    run = train(settings("training.max_steps=7", "training.accumulate=2"), tmp_path)
    assert run.keep.steps == [3, 6, 7]
    resumed = train(settings("training.max_steps=7", "training.accumulate=2"), tmp_path, resume_at=6)
    assert resumed.keep.steps == [7]
    assert_equal(resumed.trained, run.trained, 0.0)


def test_a_run_without_gain_ends_after_its_patience_and_says_so_in_its_checkpoint(tmp_path: Path) -> None:
    """The rate is so low that no score changes: the first validation is the best, and two more follow."""
    config = settings(
        "optimizer.learning_rate=1e-30",
        "training.patience=2",
        "training.max_steps=100",
        "training.validate_every_steps=2",
    )
    assert train(config, tmp_path).keep.steps == [2, 4, 6]
    states = [torch.load(tmp_path / f"{step}.ckpt", weights_only=True)["callbacks"] for step in (4, 6)]
    assert [was_stopped(state) for state in states] == [False, True]
    assert train(config, tmp_path, resume_at=4).keep.steps == [6], "patience begins anew on a resume"


def test_a_run_whose_time_is_up_validates_saves_and_ends(tmp_path: Path) -> None:
    config = settings("training.accumulate=2")
    whole = train(config, tmp_path / "whole")
    late = train(config, tmp_path, deadline_s=1.0)
    assert late.keep.steps == [1]
    assert late.validated == [1]
    assert not was_stopped(torch.load(tmp_path / "1.ckpt", weights_only=True)["callbacks"])
    resumed = train(config, tmp_path, resume_at=1)
    assert resumed.keep.steps == [3, 6]
    assert_equal(resumed.trained, whole.trained, 0.0)


def test_a_budget_of_time_ends_the_run_and_its_learning_rate_follows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validations do not count, earlier starts of the run do."""
    now_s = [0.0]
    monkeypatch.setattr(stopping.time, "monotonic", lambda: now_s[0])

    def wait_s(batch: int) -> float:
        now_s[0] += 10
        return 0.0

    class SlowValidation(pl.Callback):
        def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            now_s[0] += 1000

    size = ["training.max_steps=100", "training.budget_minutes=1.4", "optimizer.final_rate_fraction=0.1"]
    slow = {"wait_s": wait_s, "callbacks": lambda watch_loss: [SlowValidation()]}
    whole = train(settings(*size), tmp_path, **slow)
    assert whole.keep.steps == whole.validated == [3, 6, 9]
    assert whole.module._rate_fraction(9) == pytest.approx(0.1)
    states = [torch.load(tmp_path / f"{step}.ckpt", weights_only=True)["callbacks"] for step in (6, 9)]
    assert [was_stopped(state, 84.0) for state in states] == [False, True]
    resumed = train(settings(*size), tmp_path, resume_at=6, **slow)
    assert resumed.keep.steps == [9]
    assert 0.5 < resumed.module._rate_fraction(0) / 0.1 <= 1.0


@pytest.mark.parametrize(("step", "validated"), [(4, [3]), (3, [3])])
def test_a_run_that_is_told_to_stop_saves_there_and_goes_on_as_if_it_had_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, validated: list[int]
) -> None:
    """Between two validations it does no other; a step that is validated anyway is."""
    monkeypatch.setattr(stopping, "_LOOK_EVERY_STEPS", 1)
    config = settings("training.accumulate=2", "training.patience=5", "training.ema_decay=0.5")
    whole = train(config, tmp_path / "whole")
    looks = iter(range(1, 7))
    cut = train(config, tmp_path, is_told_to_stop=lambda: next(looks) == step)
    assert cut.keep.steps == sorted({3, step})
    assert cut.validated == validated
    resumed = train(config, tmp_path, resume_at=step)
    assert resumed.keep.steps == [6]
    assert_equal(resumed.trained, whole.trained, 0.0)
    assert_equal(resumed.keep.shipped, whole.keep.shipped, 0.0)
    patience = [
        next(
            state["wait_count"]
            for state in torch.load(folder / "6.ckpt", weights_only=True)["callbacks"].values()
            if "wait_count" in state
        )
        for folder in (tmp_path, tmp_path / "whole")
    ]
    assert patience[0] == patience[1]


@pytest.mark.parametrize(
    ("limits", "steps"),
    [
        ({"max_steps": 100, "max_epochs": 1.5}, 15),
        ({"max_steps": 7, "max_epochs": 1.5}, 7),
        ({"max_steps": 0, "max_epochs": 1.0}, 10),
        ({"max_steps": 9}, 9),
    ],
)
def test_epochs_are_converted_to_steps_and_the_nearer_limit_counts(
    limits: dict[str, Any], steps: int
) -> None:
    assert TrainingConfig(batch_size=5, accumulate=2, **limits).num_steps(num_segments=100) == steps


def test_which_score_is_better_follows_its_direction() -> None:
    si_sdr, loss = TrainingConfig(), TrainingConfig(score="loss")
    assert si_sdr.goodness({"si_sdr_db": 2.0}) > si_sdr.goodness({"si_sdr_db": 1.0, "loss": 9.0})
    assert loss.goodness({"loss": 1.0}) > loss.goodness({"loss": 2.0, "si_sdr_db": 9.0})
    assert si_sdr.goodness({"si_sdr_db": -99.0}) > si_sdr.goodness({"si_sdr_db": float("nan")})
    assert si_sdr.goodness({"si_sdr_db": -99.0}) > si_sdr.goodness({"loss": 1.0})
    assert (si_sdr.score_mode, loss.score_mode) == ("max", "min")


def test_the_final_rate_is_that_after_the_last_step(tmp_path: Path) -> None:
    config = settings("optimizer.final_rate_fraction=0.25", "optimizer.warmup_steps=2")
    module = train(config, tmp_path).module
    fractions = [module._rate_fraction(step) for step in range(7)]
    assert fractions[:3] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert fractions[6] == 0.25 < fractions[5]


@pytest.mark.cluster
@pytest.mark.soak
def test_a_compiled_model_trains_to_the_same_weights(tmp_path: Path) -> None:
    require_program("g++")  # torch.compile writes C++ for CPUs
    size = ["training.max_steps=2", "training.validate_every_steps=2", "training.ema_decay=0.5"]
    plain = train(settings(*size), tmp_path / "plain")
    compiled = train(settings(*size, "training.compile=true"), tmp_path / "compiled")
    assert compiled.trained.keys() == plain.trained.keys()
    assert_equal(compiled.trained, plain.trained, 1e-4)
    assert compiled.module.model._compiled_call_impl is not None


def test_the_summary_stands_beside_noisy_and_tells_where_all_is(tmp_path: Path) -> None:
    result = TrainingResult(
        run=Storage(tmp_path),
        scores={"si_sdr_db": 7.5, "noisy_si_sdr_db": 5.0, "pesq": 1.5, "noisy_pesq": 1.25, "loss": 0.25},
        steps=120,
        wall_s=150.0,
        score="pesq",
        best_step=80,
        last_scores={"si_sdr_db": 7.0, "pesq": 1.4},
        last_checkpoint="checkpoint_9",
        audio_hours=1.5,
        audio_s_per_s=36.4,
        data_wait_fraction=0.015,
    )
    words = " ".join(result.table().split())
    assert "120 steps, 1.50 h of audio in 2 min (36 s of audio per second, waiting for data 2%)" in words
    assert "noisy step 80 step 120" in words
    assert "SI-SDR dB 5.000 7.500 7.000" in words
    assert "PESQ 1.250 1.500 1.400 <- decides" in words
    assert f"last: {tmp_path / 'checkpoint_9'}" in words
    assert "nan" not in dataclasses.replace(result, audio_s_per_s=float("nan")).table()
    assert "left out" not in words
    assert "3 steps left out" in dataclasses.replace(result, skipped_steps=3).table()


def test_a_folder_is_replaced_by_the_new_one_also_after_a_cut(tmp_path: Path) -> None:
    for number, leftovers in enumerate(([], ["bundle"], ["bundle", ".bundle.old"], [".bundle.old"])):
        folder = tmp_path / str(number)
        for name in (*leftovers, "new"):
            (folder / name).mkdir(parents=True)
            (folder / name / "is").write_text(name)
        put_in_place(folder / "new", folder / "bundle")
        assert [path.name for path in folder.iterdir()] == ["bundle"]
        assert (folder / "bundle" / "is").read_text() == "new"


def test_a_run_is_resumed_with_other_minutes_and_with_settings_that_it_did_not_know(tmp_path: Path) -> None:
    claim_run_folder(Storage(tmp_path / "run"), settings(), "hash", resume=False)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    del record["config"]["training"]["ema_decay"]
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    claim_run_folder(Storage(tmp_path / "run"), settings("training.max_minutes=5"), "hash", resume=True)
    with pytest.raises(ConfigError, match=r"training\.ema_decay: 0\.0 -> 0\.5"):
        claim_run_folder(Storage(tmp_path / "run"), settings("training.ema_decay=0.5"), "hash", resume=True)
