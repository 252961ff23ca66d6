"""Crops that the model hears one after another: what it makes of a crop depends on those before it in the row alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from cluster.feeding.stream import Batch
from cluster.settings.experiment import load_config
from cluster.training.loop.module import DenoisingModule
from ww_models import build_model


@pytest.mark.parametrize(("num_crops", "in_a_row", "rows"), [(6, 3, 3), (6, 4, 2), (5, 4, 1), (4, 1, 1)])
def test_the_loss_is_that_of_longer_signals(num_crops: int, in_a_row: int, rows: int) -> None:
    torch.manual_seed(0)
    config = load_config("bandmask-compact", [f"training.crops_in_a_row={in_a_row}", "model.hidden=8"])
    model = build_model("bandmask", **dataclasses.asdict(config.model))
    module = DenoisingModule(model, config, last_step=1)
    clean, noise = torch.randn(2, num_crops, 1, 2048)
    batch = Batch(clean + noise, clean, torch.zeros(num_crops), "active", np.arange(num_crops))
    model.eval()
    found = module.training_step(batch, 0)["batch_loss"]
    with torch.no_grad():
        longer = model(batch.noisy.view(num_crops // rows, 1, -1)).view(clean.shape)
        expected = module.loss(longer, clean, batch.noisy).total
        apart = module.loss(model(batch.noisy), clean, batch.noisy).total
    torch.testing.assert_close(found, expected)
    assert (rows == 1) == torch.allclose(found, apart)
