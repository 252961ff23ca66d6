"""Wave-U-Net (Stoller et al., arXiv 1806.03185), adapted to speech enhancement and to streams.

    level i:  conv k15, BatchNorm, LeakyReLU ------ skip, concatenated -----> conv k5, BatchNorm, LeakyReLU
                  '-> keep even samples -> level i+1 ... GRU ... -> upsample x2 -'      (outermost: conv alone)

Upsampling is out[2n] = x[n], out[2n+1] = (x[n] + x[n+1]) / 2: new samples lie half-way between those that decimation
kept. With k frames inside, the padded input has stride * (k - 1) + 1 samples and levels halve and double exactly, so
nothing is ever cropped. The causal form pads convolutions on the left only; what is left to look ahead is the x[n+1] of
each level, stride - 1 samples together. Its convolutions see some tens of ms, hence the GRU.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ww_models.denoiser import Denoiser, ModelConfig
from ww_models.layers.gru import RecurrentMiddle
from ww_models.layers.step import StreamingStep
from ww_models.layers.step_layers import Memory, StepConv, StepRecurrent, norm_as_affine


@dataclass(frozen=True, kw_only=True)
class WaveUNetConfig(ModelConfig):
    """hidden: channels of the first level; growth: factor per level, to max_hidden; gru_layers: may be 0."""

    hidden: int = 24
    growth: float = 2.0
    max_hidden: int = 10_000
    depth: int = 5
    down_kernel: int = 15
    up_kernel: int = 5
    gru_layers: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("hidden", "depth", "max_hidden", "growth"):
            self.check(f"waveunet {field}", getattr(self, field) >= 1, "give at least 1")
        self.check("waveunet gru_layers", self.gru_layers >= 0, "give 0 or more")
        for kernel in ("down_kernel", "up_kernel"):
            is_odd = getattr(self, kernel) >= 1 and getattr(self, kernel) % 2 == 1
            self.check(f"waveunet {kernel}", is_odd, "give an odd number, e.g. 5")

    @property
    def channels(self) -> tuple[int, ...]:
        """Of each level, outermost first."""
        widths = (int(self.hidden * self.growth**level) for level in range(self.depth))
        return tuple(min(width, self.max_hidden) for width in widths)


class PaddedConv1d(nn.Module):
    """A convolution that keeps the length: zeros on the left only (causal) or on both sides, but for the `given`."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, *, causal: bool, bias: bool, given: int = 0
    ) -> None:
        super().__init__()
        self.ahead = 0 if causal else kernel // 2
        self.behind = kernel - 1 - self.ahead - given
        self.conv = nn.Conv1d(in_channels, out_channels, kernel, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (self.behind, self.ahead)))


def upsample_linear(x: Tensor) -> Tensor:
    """(B, C, T) -> (B, C, 2T - 1): each sample, and between two the mean of both."""
    between = 0.5 * (x[..., :-1] + x[..., 1:])
    return torch.cat([torch.stack([x[..., :-1], between], dim=-1).flatten(-2), x[..., -1:]], dim=-1)


class WaveUNet(Denoiser):
    name = "waveunet"
    config: WaveUNetConfig

    def __init__(self, config: WaveUNetConfig) -> None:
        super().__init__(config)
        channels, causal = (1, *config.channels), config.causal
        self.encoder = nn.ModuleList()
        self.decoder = nn.ModuleList()
        for outer, inner in pairwise(channels):
            down = PaddedConv1d(outer, inner, config.down_kernel, causal=causal, bias=False)
            self.encoder.append(nn.Sequential(down, nn.BatchNorm1d(inner), nn.LeakyReLU(0.1)))
            # The output has to follow the input's level: the outermost layer is a convolution alone. Causal decoders
            # get one sample more on the left, see `network`.
            is_outer, kernel = not len(self.decoder), config.up_kernel
            up = PaddedConv1d(2 * inner, outer, kernel, causal=causal, bias=is_outer, given=int(causal))
            block = up if is_outer else nn.Sequential(up, nn.BatchNorm1d(outer), nn.LeakyReLU(0.1))
            self.decoder.insert(0, block)
        self.middle = None
        if config.gru_layers:
            self.middle = RecurrentMiddle(channels[-1], config.gru_layers, bidirectional=not causal)

    @property
    def stride(self) -> int:
        return 2**self.config.depth

    def valid_length(self, num_samples: int) -> int:
        return -(-(num_samples - 1) // self.stride) * self.stride + 1

    def network(self, scaled: Tensor) -> Tensor:
        num_samples = scaled.shape[-1]
        x = F.pad(scaled, (0, self.valid_length(num_samples) - num_samples))
        skips = []
        for encode in self.encoder:
            skips.append(encode(x))
            x = skips[-1][..., ::2]
        if self.middle is not None:
            x = x + self.middle(x)
        for decode in self.decoder:
            skip = skips.pop()
            if self.config.causal:
                # Silence before the clip is upsampled with it: the sample at -1 lies between it and the first.
                x, skip = upsample_linear(F.pad(x, (1, 0)))[..., 1:], F.pad(skip, (1, 0))
            else:
                x = upsample_linear(x)
            x = decode(torch.cat([x, skip], dim=1))
        return x[..., :num_samples]

    def layer_rates(self) -> Iterator[tuple[nn.Module, float]]:
        rate = float(self.sample_rate)
        for encode, decode in zip(self.encoder, reversed(self.decoder), strict=True):
            yield encode, rate
            yield decode, rate
            rate /= 2
        if self.middle is not None:
            yield self.middle, rate

    @property
    def _bounded(self) -> bool:
        return self.config.causal or self.config.gru_layers == 0

    def _last_input(self, n: int) -> int:
        config = self.config
        down_ahead = 0 if config.causal else config.down_kernel // 2
        up_ahead = 0 if config.causal else config.up_kernel // 2
        wanted_of_level = []  # the last sample of each level's encoder output that output n needs
        for _ in range(config.depth):
            n += up_ahead
            wanted_of_level.append(n)
            n = (n + 1) // 2
        for wanted in reversed(wanted_of_level):
            # Samples of this level's encoder, then those of the encoder's input.
            n = max(2 * n, wanted) + down_ahead
        return n

    def streaming_step(self, num_hops: int = 1) -> "WaveUNetStep":
        return WaveUNetStep(self, num_hops * self.hop_samples)


class WaveUNetStep(StreamingStep):
    """Causal Wave-U-Net, one step at a time: each step ends with a sample of which the innermost layer has a row.

    So nothing has to be delayed. The rows before row 0 are set to 0 at each level, as the whole clip is padded.
    """

    def __init__(self, model: WaveUNet, hop: int) -> None:
        config, lag = model.config, hop - 1
        super().__init__(model.level, config.residual, hop_samples=hop, lead_samples=lag, lag_samples=lag)
        # Of each level in a step, the input's first.
        rows = self.rows = [hop >> level for level in range(config.depth + 1)]
        down = (
            _DownStep(f"encoder.{level}", layers, rows[level]) for level, layers in enumerate(model.encoder)
        )
        up = (
            _UpStep(f"decoder.{level}", layers, rows[-1 - level])
            for level, layers in enumerate(model.decoder)
        )
        self.encoder, self.decoder = nn.ModuleList(down), nn.ModuleList(up)
        self.middle = None if model.middle is None else StepRecurrent("middle", model.middle.gru)

    def network(self, scaled: Tensor, memory: Memory) -> Tensor:
        age = self.age(scaled, memory)
        # Only the first step has rows before row 0: all but its last.
        is_on = [torch.maximum(age.clamp(max=1.0), _is_last(rows)) for rows in self.rows]
        x, skips = scaled[..., None], []
        for level, encode in enumerate(self.encoder):
            x = encode(x, memory) * is_on[level]
            skips.append(x)
            # Each step ends with an even row.
            x = x[:, 1::2]
        if self.middle is not None:
            x = x + self.middle(x, is_on[-1], memory)
        for level, decode in enumerate(self.decoder):
            x = decode(x * is_on[-1 - level] if level else x, skips.pop(), memory)
        return x.flatten(1)


def _is_last(rows: int) -> Tensor:
    return (torch.arange(rows) == rows - 1).float()[:, None]


class _DownStep(nn.Module):
    """A left-padded convolution with BatchNorm, folded into it, and LeakyReLU."""

    def __init__(self, name: str, layers: Any, rows: int) -> None:
        super().__init__()
        weight, bias, self.slope = _folded(layers)
        self.conv = StepConv(name, weight, bias, block=_block(weight.shape[2], rows))

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        return F.leaky_relu(self.conv(x, memory), self.slope)


class _UpStep(nn.Module):
    """Upsampling of x, concatenation with the skip, left-padded convolution, BatchNorm, LeakyReLU.

    All as one convolution at the rate of x, over each row of x beside the two of the skip that go with it.
    """

    def __init__(self, name: str, layers: Any, rows: int) -> None:
        super().__init__()
        weight, bias, self.slope = _folded(layers)
        kernel, channels, out_channels = weight.shape
        half = channels // 2
        # Row q + 1 goes with rows 2q + 1 and 2q + 2 of the skip and gives these two; the upsampled x is itself
        # at even rows and the mean of its neighbours at odd ones.
        num_rows = (kernel + 1) // 2 + 1
        both = weight.new_zeros(num_rows, 3 * half, 2, out_channels)
        for output in range(2):
            for tap in range(kernel):
                row, is_between = divmod(output + tap + 1, 2)
                for part in (row, row + is_between):
                    both[part, :half, output] += 0.5 * weight[tap, :half]
                row, place = divmod(output + tap + 2, 2)
                both[row, (1 + place) * half : (2 + place) * half, output] = weight[tap, half:]
        self.rows, self.out_channels = rows, out_channels
        bias = None if bias is None else bias.repeat(2)
        self.conv = StepConv(name, both.flatten(2), bias, block=_block(2 * out_channels, rows))

    def forward(self, x: Tensor, skip: Tensor, memory: Memory) -> Tensor:
        """(B, n, C), (B, 2n, C) -> (B, 2n, C_out)"""
        both = torch.cat([x, skip.reshape(-1, self.rows, 2 * int(skip.shape[2]))], dim=-1)
        y = self.conv(both, memory).reshape(-1, 2 * self.rows, self.out_channels)
        return y if self.slope is None else F.leaky_relu(y, self.slope)


def _folded(layers: Any) -> tuple[Tensor, Tensor | None, Any]:
    """(weight (kernel, C_in, C_out), bias (C_out,), slope of the LeakyReLU, None where there is none)."""
    if isinstance(layers, PaddedConv1d):
        return layers.conv.weight.detach().permute(2, 1, 0), layers.conv.bias, None
    padded, norm, activation = layers
    scale, shift = norm_as_affine(norm)
    weight = padded.conv.weight.detach() * scale[:, None, None]
    return weight.permute(2, 1, 0), shift, activation.negative_slope


def _block(channels: int, rows: int) -> int:
    """Outputs per window: the fewer channels, the more of them make up a matrix worth multiplying."""
    block = 1
    while rows % (2 * block) == 0 and 2 * block * channels <= 64 and block < 16:
        block *= 2
    return block
