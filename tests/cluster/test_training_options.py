"""What a training run can be asked for, in Lightning's loop as the workers set it up, on made-up batches."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from cluster import stopping, train_worker
from cluster.bad_batches import BadLossError, WatchLoss, keep_batch
from cluster.config import ConfigError, ExperimentConfig, load_config
from cluster.datasets import Batch
from cluster.feed import FeedConfig, mix_positions
from cluster.finetune import finetune_config, keep_source, load_start, open_source
from cluster.lightning import DenoisingModule
from cluster.loop_config import TrainingConfig
from cluster.run_folder import claim_run_folder
from cluster.stopping import was_stopped
from cluster.train_worker import loop_callbacks, loop_limits
from cluster.training_result import TrainingResult, put_in_place
from cluster.weight_average import shipped_weights
from ww_models import build_model, save_bundle

ITEM = 2048  # samples


def settings(*overrides: str) -> ExperimentConfig:
    """A very small demucs. It has no BatchNorm, so a step does not depend on how it is cut into batches."""
    small = ["model.hidden=2", "model.depth=2", "model.normalize=utterance", "optimizer.warmup_steps=0"]
    loss = ["loss.compressed_weight=0", "loss.si_sdr_weight=0", "loss.l1_weight=1"]
    size = ["training.batch_size=4", "training.max_steps=6", "training.validate_every_steps=3"]
    return load_config("demucs-compact", [*small, *loss, *size, "training.num_pesq_mixtures=0", *overrides])


class Plan:
    """Endless batches as a function of the position of their items alone, from a batch on."""

    def __init__(self, batch_size: int, first_batch: int = 0, bad: tuple[int, ...] = ()) -> None:
        self.batch_size, self.batch, self.bad = batch_size, first_batch, bad

    def __iter__(self) -> Iterator[Batch]:
        while True:
            positions = np.arange(self.batch * self.batch_size, (self.batch + 1) * self.batch_size)
            self.batch += 1
            clean = torch.stack([self._item(int(position)) for position in positions])
            noise = torch.stack([self._item(1_000_000 + int(position)) for position in positions])
            if self.batch - 1 in self.bad:
                noise[0, 0, 100] = torch.nan
            yield Batch(clean + noise, clean, torch.zeros(len(positions)), "active", positions)

    @staticmethod
    def _item(seed: int) -> torch.Tensor:
        return 0.1 * torch.randn(1, ITEM, generator=torch.Generator().manual_seed(seed))


class Keep(pl.Callback):
    """Does what a run does after each validation: saves the state, and the weights that would ship."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.steps, self.shipped = folder, list[int](), dict[str, torch.Tensor]()

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, DenoisingModule)
        self.steps.append(trainer.global_step)
        trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")
        with shipped_weights(trainer, module):
            self.shipped = {name: value.clone() for name, value in module.model.state_dict().items()}


@dataclasses.dataclass
class Run:
    module: DenoisingModule
    keep: Keep
    trained: dict[str, torch.Tensor]  # the weights that the optimizer has come to
    kept_bad: list[tuple[int, list[int]]]  # (step, positions) of batches that were kept for inspection


def train(
    config: ExperimentConfig,
    folder: Path,
    *,
    resume_at: int = 0,
    deadline_s: float | None = None,
    bad: tuple[int, ...] = (),
    bad_gradient_at: int = 0,
) -> Run:
    """bad: batches (0, 1, ...) that have a sample which is not a number. bad_gradient_at: a step with a finite loss."""
    folder.mkdir(exist_ok=True)
    pl.seed_everything(0, verbose=False)
    model = build_model(config.model_name, **dataclasses.asdict(config.model))
    training = config.training
    last_step = training.num_steps(12)
    module = DenoisingModule(model, config.loss, config.optimizer, training, config.seed, last_step)
    validation = next(iter(Plan(2, 1_000)))
    items = [{"index": n, "noisy": validation.noisy[n], "clean": validation.clean[n]} for n in range(2)]
    keep, kept = Keep(folder), list[tuple[int, list[int]]]()

    def keep_bad(step: int, rank: int, positions: np.ndarray, loss: float) -> Path:
        kept.append((step, positions.tolist()))
        return folder / "bad.json"

    watch_loss = WatchLoss(training.skip_bad_batches, 10, keep_bad)
    trained: dict[str, torch.Tensor] = {}

    class Trained(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
            trained.update({name: value.clone() for name, value in module.model.state_dict().items()})

    class SpoilGradient(pl.Callback):
        def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
            if trainer.global_step + 1 == bad_gradient_at:
                next(iter(module.model.parameters())).grad.fill_(torch.nan)  # type: ignore[union-attr]

    spoil = SpoilGradient()
    trainer = pl.Trainer(
        **loop_limits(training, last_step),
        callbacks=[*loop_callbacks(training, last_step, watch_loss, deadline_s), Trained(), keep, spoil],
        gradient_clip_val=config.optimizer.gradient_clip_norm or None,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(
        module,
        Plan(training.batch_size, resume_at * training.accumulate, bad),
        DataLoader(items, batch_size=1),  # type: ignore[arg-type]
        ckpt_path=str(folder / f"{resume_at}.ckpt") if resume_at else None,
        weights_only=False,
    )
    return Run(module, keep, trained, kept)


def assert_equal(weights: dict[str, torch.Tensor], others: dict[str, torch.Tensor], tolerance: float) -> None:
    for name, value in weights.items():
        assert (value - others[name]).abs().max() <= tolerance, name


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
    states = [torch.load(tmp_path / f"{step}.ckpt", weights_only=False) for step in (1, 2, 3)]
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
    states = [torch.load(tmp_path / f"{step}.ckpt", weights_only=False)["callbacks"] for step in (4, 6)]
    assert [was_stopped(state) for state in states] == [False, True]
    assert train(config, tmp_path, resume_at=4).keep.steps == [6], "patience begins anew on a resume"


def test_a_run_whose_time_is_up_validates_saves_and_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "CLOCK_EVERY_STEPS", 2)
    config = settings("training.accumulate=2")
    whole = train(config, tmp_path / "whole")
    late = train(config, tmp_path, deadline_s=1.0)
    assert late.keep.steps == [2]
    assert not was_stopped(torch.load(tmp_path / "2.ckpt", weights_only=False)["callbacks"])
    resumed = train(config, tmp_path, resume_at=2)
    assert resumed.keep.steps == [3, 6]
    assert_equal(resumed.trained, whole.trained, 0.0)


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
    assert si_sdr.is_better(2.0, 1.0)
    assert not si_sdr.is_better(1.0, 2.0)
    assert loss.is_better(1.0, 2.0)
    nan = float("nan")
    assert si_sdr.is_better(1.0, nan)
    assert not si_sdr.is_better(nan, 1.0)
    assert not si_sdr.is_better(nan, nan)


def test_finetuning_takes_its_model_from_the_source_and_refuses_what_does_not_fit(tmp_path: Path) -> None:
    torch.manual_seed(5)
    config = settings()
    model = build_model(config.model_name, **dataclasses.asdict(config.model))
    source = open_source(save_bundle(tmp_path / "bundle", model))
    tuned = finetune_config(source, "tiny", ["optimizer.learning_rate=1e-5", "model.normalize=none"])
    assert tuned.model == dataclasses.replace(config.model, normalize="none")
    assert tuned.preset == "tiny"
    with pytest.raises(ConfigError, match=r"fit no model with other settings.*model\.hidden: 2 -> 4"):
        finetune_config(source, "tiny", ["model.hidden=4"])
    with pytest.raises(ValueError, match="does not exist"):
        open_source(tmp_path / "nothing")

    keep_source(source, tmp_path / "run")
    other = build_model(config.model_name, **dataclasses.asdict(config.model))
    load_start(tmp_path / "run", other)
    assert_equal(other.state_dict(), model.state_dict(), 0.0)
    with pytest.raises(ConfigError, match="cut while it was set up"):
        load_start(tmp_path / "cut", other, source.id)
    load_start(tmp_path / "from-random-weights", other)


def test_finetuning_starts_from_a_public_checkpoint_of_denoiser(tmp_path: Path) -> None:
    """In its form: a state dict of causal Demucs under denoiser's names."""
    model = build_model("demucs", hidden=2, depth=2, normalize="none")
    torch.save(model.state_dict(), tmp_path / "dns2.th")
    source = open_source(tmp_path / "dns2.th")
    assert source.id.startswith("dns2.th sha256:")
    config = finetune_config(source, "demucs48", [])
    assert (config.model_name, config.model.hidden, config.model.depth) == ("demucs", 2, 2)
    assert_equal(source.model.state_dict(), model.state_dict(), 0.0)


def test_a_bad_loss_stops_the_run_before_anything_of_it_is_saved(tmp_path: Path) -> None:
    with pytest.raises(BadLossError, match=r"became nan or infinite at step 4;.*bad\.json"):
        train(settings(), tmp_path, bad=(3,))
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["3.ckpt"]


@pytest.mark.parametrize(
    ("at", "saved"), [(3, []), (6, [3]), (5, [3])]
)  # a validated step, the last, another
@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_bad_gradients_of_a_finite_loss_are_not_saved_either(
    tmp_path: Path, at: int, saved: list[int], decay: float
) -> None:
    with pytest.raises(BadLossError, match=rf"became nan or infinite at step {6 if at == 5 else at}"):
        train(settings(f"training.ema_decay={decay}"), tmp_path, bad_gradient_at=at)
    assert [path.name for path in tmp_path.glob("*.ckpt")] == [f"{step}.ckpt" for step in saved]
    train(settings("training.skip_bad_batches=1"), tmp_path / "skipping", bad_gradient_at=at)


def test_a_batch_that_cannot_be_kept_does_not_hide_the_bad_loss() -> None:
    def keep(*batch: Any) -> Path:
        raise ValueError("damaged shard")

    batches = [(4, np.arange(2), torch.tensor(torch.nan))]
    assert WatchLoss(0, 10, keep)._keep_bad(batches, 4, 0) == " (its batch could not be kept: damaged shard)"


def test_a_failure_is_noted_before_the_tracker_closes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing may take minutes, and the other ranks wait for the note only seconds."""
    noted: list[bool] = []

    def close(failed: bool) -> None:
        files = ("failure.txt", f"{train_worker.FAILED_RANKS}/0")
        noted.append(failed and all((tmp_path / name).is_file() for name in files))

    context = SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 1)
    monkeypatch.setattr(train_worker.ray.train, "get_context", lambda: context)
    monkeypatch.setattr(train_worker.ray.train, "get_checkpoint", lambda: None)
    for name in ("_feed", "RankBatches", "_share_of_stream", "stored_mixtures"):
        monkeypatch.setattr(train_worker, name, Mock())
    monkeypatch.setattr(train_worker, "_of_all_ranks", lambda value: [value])
    monkeypatch.setattr(train_worker.ray, "get_runtime_context", Mock())
    monkeypatch.setattr(train_worker, "_open_tracker", lambda job: Mock(close=close))
    fit = Mock(side_effect=BadLossError("nan"))
    monkeypatch.setattr(train_worker, "_lightning_trainer", Mock(return_value=SimpleNamespace(fit=fit)))
    threads = {"torch_threads": 1}
    job = train_worker.WorkerJob(settings(), threads, "", {}, str(tmp_path), "", 6, None, None)
    train_worker.train_worker({"job": job, "board": None})
    assert noted == [True]
    assert (tmp_path / "failure.txt").read_text() == "nan"


def test_the_final_rate_is_that_after_the_last_step(tmp_path: Path) -> None:
    config = settings("optimizer.final_rate_fraction=0.25", "optimizer.warmup_steps=2")
    module = train(config, tmp_path).module
    fractions = [module._rate_fraction(step) for step in range(7)]
    assert fractions[:3] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert fractions[6] == 0.25 < fractions[5]


@pytest.mark.parametrize("preset", ["demucs-compact", "gatewave-compact"])  # the latter has BatchNorm
def test_bad_steps_are_left_out_and_counted_up_to_a_number(tmp_path: Path, preset: str) -> None:
    overrides = ["training.skip_bad_batches=2", "training.accumulate=2", "training.ema_decay=0.5"]
    config = settings(*overrides)
    if preset == "gatewave-compact":
        gatewave = ["model.hidden=2", "model.depth=2", "training.num_pesq_mixtures=0", "mixing.crop_s=1.0"]
        size = ["training.batch_size=2", "training.max_steps=6", "training.validate_every_steps=3"]
        config = load_config(preset, [*gatewave, *size, *overrides])
    bad = (1, 8)  # of steps 1 and 5
    whole = train(config, tmp_path, bad=bad)
    size_of_batch = config.training.batch_size
    assert whole.kept_bad == [
        (step, list(range(batch * size_of_batch, (batch + 1) * size_of_batch)))
        for step, batch in ((1, 1), (5, 8))
    ]
    assert all(torch.isfinite(weight).all() for weight in whole.trained.values())
    assert whole.keep.steps == [3, 6]
    resumed = train(config, tmp_path, resume_at=3, bad=bad)
    assert_equal(resumed.trained, whole.trained, 0.0)
    assert_equal(resumed.keep.shipped, whole.keep.shipped, 0.0)
    with pytest.raises(BadLossError, match=r"at step 6, time no. 3"):
        train(config, tmp_path, resume_at=3, bad=(*bad, 10))


def test_a_kept_batch_tells_its_segments_and_holds_its_sound(small_corpus: Path, tmp_path: Path) -> None:
    feed = FeedConfig(
        corpus_uri=str(small_corpus),
        mixing=load_config("tiny").mixing,
        seed=1,
        global_batch=4,
        num_workers=2,
        start_step=0,
        num_steps=100,
    )
    positions = feed.batch_positions(30, rank=1)
    path = keep_batch(feed, tmp_path, 31, 1, positions, float("nan"))
    record = json.loads(path.read_text())
    assert record["positions"] == positions.tolist() == [122, 123]
    mixed = mix_positions(feed, positions)
    with np.load(path.with_suffix(".npz")) as arrays:
        assert np.array_equal(arrays["noisy"], mixed.noisy_NT)
        assert np.array_equal(arrays["clean"], mixed.clean_NT)
    assert [int(segment["segment"], 16) for segment in record["segments"]] == mixed.key_N.tolist()
    assert all(segment["clip"] and segment["epoch"] > 0 for segment in record["segments"])


@pytest.mark.cluster
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on CPUs")
@pytest.mark.timeout(300)
def test_a_compiled_model_trains_to_the_same_weights(tmp_path: Path) -> None:
    size = ["training.max_steps=2", "training.validate_every_steps=2", "training.ema_decay=0.5"]
    plain = train(settings(*size), tmp_path / "plain")
    compiled = train(settings(*size, "training.compile=true"), tmp_path / "compiled")
    assert compiled.trained.keys() == plain.trained.keys()
    assert_equal(compiled.trained, plain.trained, 1e-4)
    assert compiled.module.model._compiled_call_impl is not None


def test_the_summary_stands_beside_noisy_and_tells_where_all_is(tmp_path: Path) -> None:
    result = TrainingResult(
        run_dir=tmp_path,
        bundle=tmp_path / "bundle",
        scores={"si_sdr_db": 7.5, "noisy_si_sdr_db": 5.0, "pesq": 1.5, "noisy_pesq": 1.25, "loss": 0.25},
        steps=120,
        wall_s=150.0,
        score="pesq",
        best_step=80,
        last_scores={"si_sdr_db": 7.0, "pesq": 1.4},
        last_checkpoint=tmp_path / "checkpoint_9",
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
    claim_run_folder(tmp_path / "run", settings(), "hash", resume=False)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    del record["config"]["training"]["ema_decay"]
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    claim_run_folder(tmp_path / "run", settings("training.max_minutes=5"), "hash", resume=True)
    with pytest.raises(ConfigError, match=r"training\.ema_decay: 0\.0 -> 0\.5"):
        claim_run_folder(tmp_path / "run", settings("training.ema_decay=0.5"), "hash", resume=True)


@pytest.mark.parametrize("name", ["waveunet", "demucs48", "demucs64", "gatewave"])
def test_original_presets_train_as_the_originals(name: str) -> None:
    config = load_config(name)
    assert config.mixing.crop_s is not None
    assert config.mixing.crop_s * config.model.sample_rate == pytest.approx(16384 + 4000)
    loss = {key: value for key, value in config.flat().items() if key.startswith("loss.") and "weight" in key}
    assert loss == {key: float(key in ("loss.l1_weight", "loss.stft_weight")) for key in loss}
    assert (config.training.batch_size, config.training.accumulate, config.training.ema_decay) == (32, 1, 0.0)
    assert (config.optimizer.beta1, config.optimizer.beta2) == (0.9, 0.999)
    assert 1e-4 <= config.optimizer.learning_rate <= 3e-4


@pytest.mark.parametrize("name", ["waveunet-compact", "demucs-compact", "gatewave-compact", "demo", "tiny"])
def test_compact_presets_are_small_enough_to_serve(name: str) -> None:
    config = load_config(name)
    model = build_model(config.model_name, **dataclasses.asdict(config.model))
    assert model.num_parameters <= 3e6
    assert model.macs_per_second <= 0.5e9
    assert model.latency_ms is not None
    assert model.latency_ms <= 40
