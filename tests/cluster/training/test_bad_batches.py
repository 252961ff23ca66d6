"""Losses and gradients that are not finite: nothing of them is saved, and by choice their steps are left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cluster.feeding.blocks import FeedConfig, mix_positions
from cluster.settings.experiment import load_config
from cluster.training.loop.bad_batches import BadLossError, keep_batch
from tests.cluster.training.training_loop import assert_equal, settings, train
from ww_data import Storage


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


def test_a_batch_that_cannot_be_kept_does_not_hide_the_bad_loss(tmp_path: Path) -> None:
    def keep(*batch: Any) -> str:
        raise ValueError("damaged shard")

    words = r"nan or infinite at step 4;.*\(its batch could not be kept: damaged shard\)"
    with pytest.raises(BadLossError, match=words):
        train(settings(), tmp_path, bad=(3,), keep_bad=keep)


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
    path = Path(keep_batch(feed, Storage(tmp_path), 31, 1, positions, float("nan")))
    record = json.loads(path.read_text())
    assert record["positions"] == positions.tolist() == [122, 123]
    mixed = mix_positions(feed, positions)
    with np.load(path.with_suffix(".npz")) as arrays:
        assert np.array_equal(arrays["noisy"], mixed.noisy_NT)
        assert np.array_equal(arrays["clean"], mixed.clean_NT)
    assert [int(segment["segment"], 16) for segment in record["segments"]] == mixed.key_N.tolist()
    assert all(segment["clip"] and segment["epoch"] > 0 for segment in record["segments"])
