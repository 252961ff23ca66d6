"""A model that has learned something is soon as good as ever after a turned knob or a long pause.

benchmarks/level.py measures the same, from the very moment on, with models that were trained on recordings.
"""

import pytest
import torch
from torch import Tensor

from tests.ww_models.samples import noise, speech_like
from ww_models import Denoiser, DenoisingLoss, LossConfig, build_model, si_sdr_db

SECOND = 16_000


def mixture(num_samples: int, seed: int, batch: int = 1) -> tuple[Tensor, Tensor]:
    clean = speech_like(num_samples, seed=seed, batch=batch)
    return clean + noise(num_samples, seed=1000 + seed, batch=batch, rms=0.1), clean


@pytest.fixture(scope="module")
def trained() -> Denoiser:
    """Some seconds of training: several dB better than the noisy sound."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = build_model("gatewave", hidden=8, depth=4, residual=True)
    loss = DenoisingLoss(LossConfig(l1_weight=0, stft_weight=0, si_sdr_weight=1))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    model.train()
    for step in range(80):
        noisy, clean = mixture(SECOND, seed=step, batch=8)
        # Crops come at every level, as recordings do.
        gain = 10 ** (torch.linspace(-20, 10, 8)[:, None, None] / 20)
        optimizer.zero_grad()
        loss(model(gain * noisy), gain * clean).total.backward()
        optimizer.step()
    return model.eval()


def si_sdr_after(model: Denoiser, noisy: Tensor, clean: Tensor, start: int) -> float:
    """Of the 3 s that begin 1 s after `start`."""
    with torch.no_grad():
        output = model(noisy)
    scored = slice(start + SECOND, start + 4 * SECOND)
    return float(si_sdr_db(clean[..., scored], output[..., scored]))


def test_the_trained_model_denoises(trained: Denoiser) -> None:
    noisy, clean = mixture(8 * SECOND, seed=500)
    scored = slice(3 * SECOND, 6 * SECOND)
    noisy_db = float(si_sdr_db(clean[..., scored], noisy[..., scored]))
    assert si_sdr_after(trained, noisy, clean, 2 * SECOND) > noisy_db + 2


@pytest.mark.parametrize("gain_db", [20, -20])
def test_the_level_is_within_3_db_of_the_true_one_after_a_second(trained: Denoiser, gain_db: float) -> None:
    noisy = noise(4 * SECOND)
    noisy[..., 2 * SECOND :] *= 10 ** (gain_db / 20)
    with torch.no_grad():
        _, scale = trained.level(noisy)
    true = noisy[..., 2 * SECOND :].square().mean().sqrt()
    assert abs(20 * torch.log10(scale[0, 0, 3 * SECOND] / true)) < 3


@pytest.mark.parametrize("gain_db", [20, -20])
def test_a_turned_knob_costs_less_than_half_a_db(trained: Denoiser, gain_db: float) -> None:
    noisy, clean = mixture(8 * SECOND, seed=501)
    start = 4 * SECOND
    gain = torch.ones(noisy.shape[-1])
    gain[start:] = 10 ** (gain_db / 20)
    settled = si_sdr_after(trained, noisy, clean, start)
    assert si_sdr_after(trained, noisy * gain, clean * gain, start) > settled - 0.5


def test_a_long_pause_costs_less_than_half_a_db(trained: Denoiser) -> None:
    noisy, clean = mixture(8 * SECOND, seed=502)
    start, pause = 4 * SECOND, noise(3 * SECOND, seed=9, rms=0.1)
    settled = si_sdr_after(trained, noisy, clean, start)
    with_pause = torch.cat([noisy[..., :start], pause, noisy[..., start:]], dim=-1)
    clean_too = torch.cat([clean[..., :start], torch.zeros_like(pause), clean[..., start:]], dim=-1)
    assert si_sdr_after(trained, with_pause, clean_too, start + 3 * SECOND) > settled - 0.5
