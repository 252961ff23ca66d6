"""The presets: originals train as the originals did, compact ones can be served."""

from __future__ import annotations

import dataclasses

import pytest

from cluster.settings.experiment import load_config
from ww_models import build_model


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


@pytest.mark.parametrize(
    "name", ["waveunet-compact", "demucs-compact", "gatewave-compact", "bandmask-compact", "demo", "tiny"]
)
def test_compact_presets_are_small_enough_to_serve(name: str) -> None:
    config = load_config(name)
    model = build_model(config.model_name, **dataclasses.asdict(config.model))
    assert model.num_parameters <= 3e6
    assert model.macs_per_second <= 0.5e9
    assert model.latency_ms is not None
    assert model.latency_ms <= 40
