"""Wave-U-Net (Stoller et al., arXiv 1806.03185), adapted to speech enhancement and to streams.

    level i:  conv k15, BatchNorm, LeakyReLU ------ skip, concatenated -----> conv k5, BatchNorm, LeakyReLU
                  '-> keep even samples -> level i+1 ... GRU ... -> upsample x2 -'      (outermost: conv
                  alone)

Upsampling is out[2n] = x[n], out[2n+1] = (x[n] + x[n+1]) / 2: new samples lie half-way between those that
decimation kept. With K frames inside, the padded input has stride * (K - 1) + 1 samples and every level
halves and doubles exactly, so nothing is ever cropped or interpolated to a length. The causal form pads
convolutions on the left only; what is left to look ahead is the x[n+1] of each level, stride - 1 samples
together. Its convolutions see some tens of ms, hence the GRU.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .denoiser import Denoiser, ModelConfig, require
from .layers import RecurrentMiddle
from .streaming_layers import Memory, Pace, StepConv, StepRecurrent, batch_norm_as_affine
from .streaming_step import StreamingStep, started


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
        for field in ("hidden", "depth", "max_hidden"):
            value = getattr(self, field)
            require(value >= 1, f"waveunet {field} is {value}: give at least 1")
        require(self.growth >= 1, f"waveunet growth is {self.growth}: give at least 1")
        require(self.gru_layers >= 0, f"waveunet gru_layers is {self.gru_layers}: give 0 or more")
        for field in ("down_kernel", "up_kernel"):
            value = getattr(self, field)
            require(value >= 1 and value % 2 == 1, f"waveunet {field} is {value}: give an odd number, e.g. 5")

    @property
    def channels(self) -> tuple[int, ...]:
        """Of each level, outermost first."""
        return tuple(
            min(int(self.hidden * self.growth**level), self.max_hidden) for level in range(self.depth)
        )


class PaddedConv1d(nn.Module):
    """A convolution that keeps the length: zeros on the left only (causal) or on both sides."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, *, causal: bool, bias: bool) -> None:
        super().__init__()
        self.ahead = 0 if causal else kernel // 2
        self.behind = kernel - 1 - self.ahead
        self.conv = nn.Conv1d(in_channels, out_channels, kernel, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (self.behind, self.ahead)))


def upsample_linear(x: Tensor) -> Tensor:
    """(B, C, K) -> (B, C, 2K - 1): each sample, and between two the mean of both."""
    between = 0.5 * (x[..., :-1] + x[..., 1:])
    return torch.cat([torch.stack([x[..., :-1], between], dim=-1).flatten(-2), x[..., -1:]], dim=-1)


class WaveUNet(Denoiser):
    name = "waveunet"
    config: WaveUNetConfig

    def __init__(self, config: WaveUNetConfig) -> None:
        super().__init__(config)
        channels = (1, *config.channels)
        self.encoder = nn.ModuleList()
        self.decoder = nn.ModuleList()
        for outer, inner in pairwise(channels):
            self.encoder.append(self._block(outer, inner, config.down_kernel))
            # The output has to follow the input's level: the outermost layer is a convolution alone.
            up = (
                self._block(2 * inner, outer, config.up_kernel)
                if len(self.decoder)
                else PaddedConv1d(2 * inner, outer, config.up_kernel, causal=config.causal, bias=True)
            )
            self.decoder.insert(0, up)
        self.middle = (
            RecurrentMiddle(channels[-1], config.gru_layers, bidirectional=not config.causal)
            if config.gru_layers
            else None
        )

    def _block(self, in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
        conv = PaddedConv1d(in_channels, out_channels, kernel, causal=self.config.causal, bias=False)
        return nn.Sequential(conv, nn.BatchNorm1d(out_channels), nn.LeakyReLU(0.1))

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
            x = encode(x)
            skips.append(x)
            x = x[..., ::2]
        if self.middle is not None:
            x = x + self.middle(x)
        for decode in self.decoder:
            x = decode(torch.cat([upsample_linear(x), skips.pop()], dim=1))
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
        down_ahead = 0 if self.config.causal else self.config.down_kernel // 2
        up_ahead = 0 if self.config.causal else self.config.up_kernel // 2
        wanted_of_level = []  # the last sample of each level's encoder output that output n needs
        for _ in range(self.config.depth):
            n += up_ahead
            wanted_of_level.append(n)
            n = (n + 1) // 2
        last = n
        for wanted in reversed(wanted_of_level):
            # Samples of this level's encoder, then those of the encoder's input.
            last = max(2 * last, wanted) + down_ahead
        return last

    def streaming_step(self) -> "WaveUNetStep":
        return WaveUNetStep(self)


class WaveUNetStep(StreamingStep):
    """Causal Wave-U-Net, one hop at a time: each step ends with a sample of which the innermost layer has a row.

    Every level then gets rows up to the same moment, and nothing has to be delayed. The rows before row 0 are
    set to 0 at each level: that is what the whole clip is padded with on the left.
    """

    def __init__(self, model: WaveUNet) -> None:
        hop = model.hop_samples
        super().__init__(model, lead_samples=hop - 1, lag_samples=hop - 1)
        self.paces = [Pace(hop >> level, 0) for level in range(model.config.depth + 1)]
        self.encoder = nn.ModuleList(
            _PaddedStep(f"encoder.{level}", layers, self.paces[level])
            for level, layers in enumerate(model.encoder)
        )
        self.decoder = nn.ModuleList(
            _PaddedStep(f"decoder.{level}", layers, self.paces[-2 - level])
            for level, layers in enumerate(model.decoder)
        )
        self.middle = None if model.middle is None else StepRecurrent("middle", model.middle.gru)

    def network(self, scaled: Tensor, age: Tensor, memory: Memory) -> Tensor:
        is_on = [started(age, pace) for pace in self.paces]
        x, skips = scaled, []
        for level, encode in enumerate(self.encoder):
            x = encode(x, memory) * is_on[level]
            skips.append(x)
            # Each step ends with an even row.
            x = x[:, 1::2]
        if self.middle is not None:
            x = x + self.middle(x, is_on[-1], memory) * is_on[-1]
        for level, decode in enumerate(self.decoder):
            rows = memory.extend(f"up.{level}", x, 1)
            between = 0.5 * (rows[:, :-1] + rows[:, 1:])
            up = torch.stack([between, x], dim=2).reshape(-1, 2 * int(x.shape[1]), int(x.shape[2]))
            x = decode(torch.cat([up * is_on[-2 - level], skips.pop()], dim=-1), memory)
            if level < len(self.decoder) - 1:
                x = x * is_on[-2 - level]
        return x


class _PaddedStep(nn.Module):
    """A left-padded convolution, and where they follow it, BatchNorm, folded into it, and LeakyReLU."""

    def __init__(self, name: str, layers: nn.Module, pace: Pace) -> None:
        super().__init__()
        padded = layers[0] if isinstance(layers, nn.Sequential) else layers
        self.slope = layers[2].negative_slope if isinstance(layers, nn.Sequential) else None
        weight, bias = padded.conv.weight, padded.conv.bias
        if isinstance(layers, nn.Sequential):
            scale, bias = batch_norm_as_affine(layers[1])
            weight = weight * scale[:, None, None]
        self.conv = StepConv(name, weight.permute(2, 1, 0), bias, block=_block(weight.shape[0], pace.rows))

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        y = self.conv(x, memory)
        return y if self.slope is None else F.leaky_relu(y, self.slope)


def _block(channels: int, rows: int) -> int:
    """Outputs per window: the fewer channels, the more of them make up a matrix worth multiplying."""
    block = 1
    while 2 * block <= rows and 2 * block * channels <= 64 and block < 16:
        block *= 2
    return block
