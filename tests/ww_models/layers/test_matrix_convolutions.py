"""Convolutions as products against torch's own: values and gradients."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.ww_models.samples import noise, small
from ww_models import Demucs
from ww_models.layers import matrix_convolutions as module
from ww_models.layers.matrix_convolutions import convolve, convolve_gated, convolve_transposed

# kernel, stride
STRIDES = [(8, 4), (4, 4), (12, 4), (8, 2), (3, 1)]


def assert_same(
    ours: Callable[[Tensor], Tensor], theirs: Callable[[Tensor], Tensor], layer: nn.Module, x_BCT: Tensor
) -> None:
    """Of `ours`, time before channels, and `theirs`, channels before time: output and all gradients."""
    results = []
    for is_ours in (True, False):
        x = x_BCT.clone().requires_grad_()
        y = ours(x.transpose(1, 2)).transpose(1, 2) if is_ours else theirs(x)
        weights = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)
        results.append([y, *torch.autograd.grad((y * weights).sum(), [x, *layer.parameters()])])
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize(("kernel", "stride"), STRIDES)
@pytest.mark.parametrize("channels", [1, 5])
def test_a_strided_convolution(kernel: int, stride: int, channels: int) -> None:
    layer = nn.Conv1d(channels, 6, kernel, stride).double()
    for num_samples in (kernel, kernel + stride, kernel + 5 * stride + stride // 2):
        x = torch.randn(3, channels, num_samples, dtype=torch.float64)
        assert_same(lambda x: convolve(x, layer), layer, layer, x)


@pytest.mark.parametrize(("kernel", "stride"), STRIDES)
@pytest.mark.parametrize("channels", [1, 5])
def test_a_transposed_convolution(kernel: int, stride: int, channels: int) -> None:
    layer = nn.ConvTranspose1d(6, channels, kernel, stride).double()
    for num_frames in (1, 2, 7):
        x = torch.randn(3, 6, num_frames, dtype=torch.float64)
        assert_same(lambda x: convolve_transposed(x, layer), layer, layer, x)


@pytest.mark.parametrize("rows", [4, 64])
def test_a_gated_convolution(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(module, "ROWS", rows)
    layer = nn.Conv1d(5, 8, 1).double()
    x = torch.randn(3, 5, 7, dtype=torch.float64)
    assert_same(lambda x: convolve_gated(x, layer), lambda x: F.glu(layer(x), dim=1), layer, x)


@pytest.mark.parametrize("name", ["demucs", "demucs-x1", "demucs-x2", "demucs-original"])
def test_demucs_trains_with_the_numbers_of_its_layers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small(name).double().train()
    assert isinstance(model, Demucs)
    noisy = noise(1001, batch=2).double()
    results = []
    for _ in range(2):
        estimate = model(noisy)
        results.append([estimate, *torch.autograd.grad(estimate.square().sum(), list(model.parameters()))])
        monkeypatch.setattr(model, "_layers_as_products", model._layers)
    torch.testing.assert_close(results[0], results[1])
