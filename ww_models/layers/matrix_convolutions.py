"""Strided convolutions as matrix products, for a training step on a CPU: the numbers of torch's own in less time.

torch keeps channels before time, and on one thread its convolutions copy a lot: a 1x1 convolution is unrolled first, a
transposed one is added up sample by sample. With time before channels, (B, T, C), a 1x1 convolution is a product. One
of k samples every s, where s divides k, is k / s products: cut into blocks of s samples, all items of a batch one after
the other, what comes out at block r is the sum over i of block r + i times the taps from i * s on. No window is ever
copied; at the end of an item a few rows mix it with the next, and are dropped.

M counts blocks or frames, W is the width of a block.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# Rows that a gated convolution computes at a time, few enough to stay in the cache from one operation to the next.
ROWS = 2048


def convolve(x_BTC: Tensor, layer: nn.Conv1d) -> Tensor:
    """`layer` without padding, whose kernel is a multiple of its stride: (B, T, C) -> (B, frames, C')."""
    (kernel,), (stride,) = layer.kernel_size, layer.stride
    if layer.in_channels == 1:
        # Too little for a product of its own: windows of the samples are blocks, each a frame.
        frames = x_BTC[..., 0].unfold(1, kernel, stride)
        return _Convolve.apply(frames, layer.weight[:, 0].t(), layer.bias, 1)
    taps = layer.weight.permute(2, 1, 0).reshape(-1, layer.out_channels)
    num_blocks = (x_BTC.shape[1] - kernel) // stride + kernel // stride
    blocks = x_BTC[:, : num_blocks * stride].reshape(len(x_BTC), num_blocks, -1)
    return _Convolve.apply(blocks, taps, layer.bias, kernel // stride)


def convolve_gated(x_BTC: Tensor, layer: nn.Conv1d) -> Tensor:
    """`layer`, a 1x1 convolution, and the GLU after it: (B, T, C) -> (B, T, C' / 2)."""
    return _GatedLinear.apply(x_BTC, layer.weight[..., 0], layer.bias)


def convolve_transposed(x_BTC: Tensor, layer: nn.ConvTranspose1d) -> Tensor:
    """`layer` without padding, whose kernel is a multiple of its stride: (B, frames, C) -> (B, T, C')."""
    (kernel,), (stride,) = layer.kernel_size, layer.stride
    assert layer.bias is not None
    if layer.out_channels == 1:
        # Too little to add up in products: windows of samples, laid at their places.
        parts = (x_BTC @ layer.weight[:, 0]).chunk(kernel // stride, dim=2)
        overlap = kernel - stride
        placed = [F.pad(part.flatten(1), (i * stride, overlap - i * stride)) for i, part in enumerate(parts)]
        return (torch.stack(placed).sum(0) + layer.bias)[..., None]
    taps = layer.weight.unflatten(2, (-1, stride)).permute(2, 0, 3, 1).flatten(2).flatten(0, 1)
    blocks = _ConvolveTransposed.apply(x_BTC, taps, layer.bias.repeat(stride), kernel // stride)
    return blocks.view(len(x_BTC), -1, layer.out_channels)


class _Convolve(torch.autograd.Function):
    """blocks (B, M, W), taps (reach * W, C), bias (C) -> (B, M - reach + 1, C)."""

    @staticmethod
    def forward(ctx: Any, blocks: Tensor, taps: Tensor, bias: Tensor, reach: int) -> Tensor:
        batch, num_blocks, _ = blocks.shape
        flat = blocks.flatten(0, 1)
        rows = len(flat) - reach + 1
        frames = flat.new_empty(len(flat), len(bias))
        first, *others = taps.chunk(reach)
        torch.addmm(bias, flat[:rows], first, out=frames[:rows])
        for i, tap in enumerate(others, start=1):
            frames[:rows].addmm_(flat[i : rows + i], tap)
        ctx.save_for_backward(flat, taps)
        ctx.reach = reach
        return frames.view(batch, num_blocks, -1)[:, : num_blocks - reach + 1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:
        flat, taps = ctx.saved_tensors
        reach, rows = ctx.reach, len(flat) - ctx.reach + 1
        padded = F.pad(grad, (0, 0, 0, reach - 1)) if reach > 1 else grad
        grads = padded.flatten(0, 1)[:rows]
        grad_taps = torch.cat([flat[i : rows + i].t() @ grads for i in range(reach)])
        grad_flat = None
        if ctx.needs_input_grad[0]:
            grad_flat = torch.empty_like(flat)
            grad_flat[rows:] = 0
            for i, tap in enumerate(taps.chunk(reach)):
                _add_product(grad_flat[i : rows + i], grads, tap.t(), is_first=i == 0)
            grad_flat = grad_flat.view(len(padded), padded.shape[1], -1)
        return grad_flat, grad_taps, grads.sum(0), None


class _ConvolveTransposed(torch.autograd.Function):
    """frames (B, M, C), taps (reach * C, W), bias (W) -> (B * (M + reach - 1), W)."""

    @staticmethod
    def forward(ctx: Any, frames: Tensor, taps: Tensor, bias: Tensor, reach: int) -> Tensor:
        padded = F.pad(frames, (0, 0, 0, reach - 1))
        # The zeros at the end of an item are what its first blocks see of the one before it.
        flat = padded.flatten(0, 1)
        rows = len(flat)
        first, *others = taps.chunk(reach)
        blocks = torch.addmm(bias, flat, first)
        for i, tap in enumerate(others, start=1):
            blocks[i:].addmm_(flat[: rows - i], tap)
        ctx.save_for_backward(flat, taps)
        ctx.reach, ctx.num_frames = reach, frames.shape[1]
        return blocks

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        flat, taps = ctx.saved_tensors
        rows, num_frames = len(flat), ctx.num_frames
        grad_taps = torch.cat([flat[: rows - i].t() @ grad[i:] for i in range(ctx.reach)])
        grad_flat = torch.empty_like(flat)
        for i, tap in enumerate(taps.chunk(ctx.reach)):
            _add_product(grad_flat[: rows - i], grad[i:], tap.t(), is_first=i == 0)
        grad_frames = grad_flat.view(-1, num_frames + ctx.reach - 1, flat.shape[1])[:, :num_frames]
        return grad_frames, grad_taps, grad.sum(0), None


def _add_product(total: Tensor, a: Tensor, b: Tensor, is_first: bool) -> None:
    if is_first:
        torch.mm(a, b, out=total)
    else:
        total.addmm_(a, b)


class _GatedLinear(torch.autograd.Function):
    """(B, T, C), weight (2 C', C), bias (2 C') -> (B, T, C'): values times the sigmoid of gates."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        flat = x.flatten(0, 1)
        size = len(weight) // 2
        products = x.new_empty(len(flat), 2 * size)
        y = x.new_empty(*x.shape[:2], size)
        for row, product, part in _split(flat, products, y.view(-1, size)):
            torch.addmm(bias, row, weight.t(), out=product)
            product[:, size:].sigmoid_()
            torch.mul(product[:, :size], product[:, size:], out=part)
        ctx.save_for_backward(flat, weight, products)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        flat, weight, products = ctx.saved_tensors
        size = len(weight) // 2
        grad_weight, grad_bias = torch.zeros_like(weight), weight.new_zeros(len(weight))
        grad_flat = torch.empty_like(flat)
        buffer = flat.new_empty(min(ROWS, len(flat)), 2 * size)
        for row, product, part, grad_row in _split(flat, products, grad.flatten(0, 1), grad_flat):
            shares = buffer[: len(row)]
            values, gates = product[:, :size], product[:, size:]
            of_values = torch.mul(part, gates, out=shares[:, :size])
            # grad * values * gates * (1 - gates)
            torch.addcmul(of_values, of_values, gates, value=-1, out=shares[:, size:]).mul_(values)
            torch.mm(shares, weight, out=grad_row)
            grad_weight.addmm_(shares.t(), row)
            grad_bias += shares.sum(0)
        return grad_flat.view(*grad.shape[:2], -1), grad_weight, grad_bias


def _split(*matrices: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same few rows of each, part after part."""
    return zip(*(matrix.split(ROWS) for matrix in matrices), strict=True)
