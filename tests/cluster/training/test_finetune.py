"""Training that starts from other weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from cluster.settings.experiment import ConfigError
from cluster.training.finetune import finetune_config, keep_source, load_start, open_source
from tests.cluster.training.training_loop import assert_equal, settings
from ww_data import Storage
from ww_models import build_model, save_bundle


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

    keep_source(source, Storage(tmp_path / "run"))
    other = build_model(config.model_name, **dataclasses.asdict(config.model))
    load_start(Storage(tmp_path / "run"), other)
    assert_equal(other.state_dict(), model.state_dict(), 0.0)
    with pytest.raises(ConfigError, match="cut while it was set up"):
        load_start(Storage(tmp_path / "cut"), other, source.id)
    load_start(Storage(tmp_path / "from-random-weights"), other)


def test_finetuning_starts_from_a_public_checkpoint_of_denoiser(tmp_path: Path) -> None:
    """In its form: a state dict of causal Demucs under denoiser's names."""
    model = build_model("demucs", hidden=2, depth=2, normalize="none")
    torch.save(model.state_dict(), tmp_path / "dns2.th")
    source = open_source(tmp_path / "dns2.th")
    assert source.id.startswith("dns2.th sha256:")
    config = finetune_config(source, "demucs48", [])
    assert (config.model_name, config.model.hidden, config.model.depth) == ("demucs", 2, 2)
    assert_equal(source.model.state_dict(), model.state_dict(), 0.0)
