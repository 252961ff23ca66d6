"""Enhancing a clip: long ones in windows, the strength, the model's mode."""

import pytest
import torch

import ww_models.enhancement as module
from tests.ww_models.samples import noise, small, speech_like
from ww_models import Denoiser, enhance


@pytest.fixture
def short_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WINDOW_S", 1.0)
    monkeypatch.setattr(module, "WARM_UP_S", 0.5)


@pytest.mark.parametrize(
    "name", ["waveunet", "waveunet-original", "demucs", "demucs-original", "gatewave", "bandmask"]
)
@pytest.mark.parametrize("num_samples", [100, 16_000 * 5, 16_000 * 5 + 1, 16_000 * 5 + 200])
@pytest.mark.usefixtures("short_windows")
def test_windows_give_what_the_whole_clip_gives(name: str, num_samples: int) -> None:
    model = small(name).eval()
    # A changing level: each window has to know what was before it.
    envelope_T = torch.linspace(0.05, 2, num_samples)
    noisy = envelope_T * (speech_like(num_samples, batch=2) + noise(num_samples, batch=2))
    with torch.no_grad():
        whole = model(noisy)
    windowed = enhance(model, noisy)
    assert windowed.shape == whole.shape
    torch.testing.assert_close(windowed, whole, rtol=0, atol=1e-4 * float(whole.abs().max()))


@pytest.mark.usefixtures("short_windows")
def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small("gatewave").eval()
    lengths: list[int] = []
    denoise = type(model).denoise

    def recording(self: Denoiser, scaled: torch.Tensor) -> torch.Tensor:
        lengths.append(scaled.shape[-1])
        return denoise(self, scaled)

    monkeypatch.setattr(type(model), "denoise", recording)
    enhance(model, noise(16_000 * 8))
    assert len(lengths) == 8
    assert max(lengths) < 2 * 16_000


def test_strength_mixes_input_and_output() -> None:
    model = small("gatewave").eval()
    noisy = noise(3000)
    full = enhance(model, noisy)
    assert torch.equal(enhance(model, noisy, strength=0.0), noisy)
    torch.testing.assert_close(enhance(model, noisy, strength=0.25), 0.75 * noisy + 0.25 * full)
    for strength in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="strength"):
            enhance(model, noisy, strength=strength)


def test_a_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="batch, 1, samples"):
        enhance(small("gatewave"), torch.zeros(100))


def test_the_mode_of_the_model_is_kept_and_eval_is_used() -> None:
    model = small("gatewave")
    noisy = noise(3000)
    expected = enhance(model.eval(), noisy)
    torch.testing.assert_close(enhance(model.train(), noisy), expected)
    assert model.training
    assert not expected.requires_grad
