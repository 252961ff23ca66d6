"""One-pass resampling against the passes by two of `denoiser`, and what it may know of the future."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.ww_models.samples import noise
from ww_models.layers.resampling import SincResampler

FORMS = [(2, 56, None), (4, 56, None), (4, 56, 20), (4, 8, 1), (2, 8, 3), (4, 1, None)]
LENGTHS = [1, 2, 3, 7, 31, 32, 33, 55, 84, 85, 168, 597, 1000]


def kernel_of(zeros: int, lookahead: int | None) -> Tensor:
    time = torch.linspace(-zeros + 0.5, zeros - 0.5, 2 * zeros, dtype=torch.float64)
    window = torch.hann_window(4 * zeros + 1, periodic=False, dtype=torch.float64)[1::2]
    return (torch.sinc(time) * window)[: zeros + (zeros if lookahead is None else lookahead)]


def up_by_two(x: Tensor, zeros: int, lookahead: int | None) -> Tensor:
    kernel = kernel_of(zeros, lookahead)
    between = F.conv1d(F.pad(x, (zeros - 1, len(kernel) - zeros)), kernel[None, None])
    return torch.stack([x, between], dim=-1).flatten(-2)


def down_by_two(x: Tensor, zeros: int, lookahead: int | None) -> Tensor:
    kernel = kernel_of(zeros, lookahead)
    x = F.pad(x, (0, x.shape[-1] % 2))
    odd = F.pad(x[..., 1::2], (zeros, len(kernel) - zeros - 1))
    return (x[..., ::2] + F.conv1d(odd, kernel[None, None])) / 2


def up_in_passes(x: Tensor, factor: int, zeros: int, lookahead: int | None) -> Tensor:
    for _ in range(factor.bit_length() - 1):
        x = up_by_two(x, zeros, lookahead)
    return x


def down_in_passes(x: Tensor, factor: int, zeros: int, lookahead: int | None) -> Tensor:
    for _ in range(factor.bit_length() - 1):
        x = down_by_two(x, zeros, lookahead)
    return x


def relative_error(value: Tensor, expected: Tensor) -> float:
    assert value.shape == expected.shape
    return float((value - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize(("factor", "zeros", "lookahead"), FORMS)
def test_one_pass_has_the_numbers_of_passes_by_two(factor: int, zeros: int, lookahead: int | None) -> None:
    resampler = SincResampler(factor, zeros, lookahead)
    for num_samples in LENGTHS:
        # Loud ends: there the cut between the passes matters most.
        x = torch.cat([torch.ones(2, 1, 1), noise(num_samples, batch=2), -torch.ones(2, 1, 1)], dim=-1)
        for signal in (x, x[..., :num_samples]):
            up = up_in_passes(signal.double(), factor, zeros, lookahead)
            assert relative_error(resampler.up(signal), up) <= 1e-5
            down = down_in_passes(up, factor, zeros, lookahead)
            assert relative_error(resampler.down(up.float()), down) <= 1e-5


@pytest.mark.parametrize("factor", [2, 4])
def test_down_takes_any_length_as_two_passes_do(factor: int) -> None:
    resampler = SincResampler(factor)
    for num_samples in (1, 2, 3, 4, 5, 6, 7, 111, 398, 2385, 2386, 2387):
        y = noise(num_samples)
        down = resampler.down(y)
        assert down.shape[-1] == math.ceil(num_samples / factor)
        assert relative_error(down, down_in_passes(y.double(), factor, 56, None)) <= 1e-5


def test_in_double_precision_too() -> None:
    x = noise(700).double()
    resampler = SincResampler(4).double()
    up = up_in_passes(x, 4, 56, None)
    assert resampler.up(x).dtype == torch.float64
    assert relative_error(resampler.up(x), up) <= 1e-6
    assert relative_error(resampler.down(up), down_in_passes(up, 4, 56, None)) <= 1e-6


@pytest.mark.parametrize("num_samples", [5, 60, 300])
def test_gradients_are_those_of_passes_by_two(num_samples: int) -> None:
    resampler = SincResampler(4).double()
    x = noise(num_samples).double().requires_grad_()
    weights = noise(num_samples, seed=3).double()
    ours = (resampler.down(resampler.up(x).tanh()) * weights).sum()
    passes = (down_in_passes(up_in_passes(x, 4, 56, None).tanh(), 4, 56, None) * weights).sum()
    (gradient,), (expected,) = torch.autograd.grad(ours, x), torch.autograd.grad(passes, x)
    assert relative_error(gradient, expected) <= 1e-6


@pytest.mark.parametrize(("factor", "zeros", "lookahead"), FORMS)
def test_nothing_comes_from_further_ahead_than_is_said(
    factor: int, zeros: int, lookahead: int | None
) -> None:
    """To the bit, though the future is 10^20 times as loud: with an FFT its rounding would drown the past."""
    resampler = SincResampler(factor, zeros, lookahead)
    for cut in (1, 40, 173, 250):
        x = noise(260)
        other = x.clone()
        other[..., cut:] = 1e20
        settled = [n for n in range(260 * factor) if resampler.last_up_input(n) < cut]
        assert torch.equal(resampler.up(x)[..., settled], resampler.up(other)[..., settled])
        y = noise(260 * factor)
        other = y.clone()
        other[..., cut * factor :] = 1e20
        settled = [n for n in range(260) if resampler.last_down_input(n) < cut * factor]
        assert torch.equal(resampler.down(y)[..., settled], resampler.down(other)[..., settled])


@pytest.mark.parametrize(("factor", "zeros", "lookahead"), FORMS)
def test_what_is_said_of_the_reach_is_exact(factor: int, zeros: int, lookahead: int | None) -> None:
    resampler = SincResampler(factor, zeros, lookahead)
    x = noise(400).requires_grad_()
    up = resampler.up(x)
    for n in range(150 * factor, 151 * factor):
        (gradient,) = torch.autograd.grad(up[0, 0, n], x, retain_graph=True)
        assert int(gradient[0, 0].nonzero().max()) == resampler.last_up_input(n)
    y = noise(400 * factor).requires_grad_()
    (gradient,) = torch.autograd.grad(resampler.down(y)[0, 0, 150], y)
    assert int(gradient[0, 0].nonzero().max()) == resampler.last_down_input(150)


def test_by_one_is_the_signal_itself() -> None:
    resampler = SincResampler(1)
    x = noise(9)
    assert torch.equal(resampler.up(x), x)
    assert torch.equal(resampler.down(x), x)
    assert resampler.last_up_input(7) == resampler.last_down_input(7) == 7
    assert resampler.macs_per_sample == 0


@pytest.mark.parametrize("factor", [0, 3, 8])
def test_other_factors_are_refused(factor: int) -> None:
    with pytest.raises(ValueError, match=f"is {factor}: give 1, 2 or 4"):
        SincResampler(factor)


@pytest.mark.parametrize("factor", [2, 4])
def test_up_then_down_gives_back_what_lies_in_the_band(factor: int) -> None:
    time_T = torch.arange(4000) / 16_000
    tones = sum((2 * torch.pi * hz * time_T).sin() for hz in (100, 1000, 3000, 6000))[None, None]
    resampler = SincResampler(factor)
    up = resampler.up(tones)
    torch.testing.assert_close(up[..., ::factor], tones)
    back = resampler.down(up)
    torch.testing.assert_close(back[..., 200:-200], tones[..., 200:-200], rtol=0, atol=4e-3)


def test_up_puts_new_samples_on_the_curve() -> None:
    time_T = torch.arange(16_000) / 64_000
    tone = (2 * torch.pi * 1000 * time_T).sin()[None, None]
    up = SincResampler(4).up(tone[..., ::4])
    torch.testing.assert_close(up[..., 600:-600], tone[..., 600:-600], rtol=0, atol=1e-3)


def test_the_filters_are_not_saved() -> None:
    assert not SincResampler(4).state_dict()


def test_it_exports() -> None:
    class UpAndDown(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.resampler = SincResampler(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.resampler.down(self.resampler.up(x).tanh())

    model, x = UpAndDown(), noise(500)
    exported = torch.export.export(model, (x,)).module()
    torch.testing.assert_close(exported(x), model(x))
