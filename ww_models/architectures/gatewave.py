"""GateWave: gated convolutions (Dauphin et al., arXiv 1612.08083) in a U like that of Demucs, a GRU inside.

    level i:  gated conv k8 s4 -> BatchNorm ----- skip, added -----> gated transposed conv k8 s4 -> BatchNorm
                       '-> level i+1 ... GRU ... -'                   (the outermost has no BatchNorm)

A frame of the innermost layer covers `frame_samples` samples and a new one starts every `stride` samples. The input
is padded until each output sample has all its frames: the end of a clip is what a stream followed by silence returns.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ww_models.checks import require
from ww_models.denoiser import Denoiser, ModelConfig
from ww_models.layers.gru import RecurrentMiddle
from ww_models.layers.step import StepU, StreamingStep
from ww_models.layers.step_layers import (
    Memory,
    Pace,
    StepConvTranspose,
    StepRecurrent,
    conv_step,
    norm_as_affine,
)


@dataclass(frozen=True, kw_only=True)
class GateWaveConfig(ModelConfig):
    """hidden: channels of the first level; growth: factor per level; gru_layers: layers of the middle."""

    hidden: int = 48
    growth: float = 2.0
    depth: int = 5
    kernel: int = 8
    stride: int = 4
    gru_layers: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("hidden", "depth", "stride", "gru_layers", "growth"):
            self.check(f"gatewave {field}", getattr(self, field) >= 1, "give at least 1")
        require(
            self.kernel >= self.stride and self.kernel % self.stride == 0,
            f"gatewave kernel is {self.kernel} with stride {self.stride}: give a multiple of the stride",
        )

    @property
    def channels(self) -> tuple[int, ...]:
        """Of each level, outermost first."""
        return tuple(int(self.hidden * self.growth**level) for level in range(self.depth))


class Gated(nn.Module):
    """A convolution times the sigmoid of a second one. Both are one of twice the channels: values first, then gates."""

    def __init__(self, conv: nn.Conv1d | nn.ConvTranspose1d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        return F.glu(self.conv(x), dim=1)


class GateWave(Denoiser):
    name = "gatewave"
    config: GateWaveConfig

    def __init__(self, config: GateWaveConfig) -> None:
        super().__init__(config)
        channels = (1, *config.channels)
        self.encoder = nn.ModuleList()
        self.decoder = nn.ModuleList()
        for outer, inner in pairwise(channels):
            down = Gated(nn.Conv1d(outer, 2 * inner, config.kernel, config.stride))
            self.encoder.append(nn.Sequential(down, nn.BatchNorm1d(inner)))
            up = Gated(nn.ConvTranspose1d(inner, 2 * outer, config.kernel, config.stride))
            # The output has to follow the input's level: no norm on the outermost layer.
            norm = [nn.BatchNorm1d(outer)] if len(self.decoder) else []
            self.decoder.insert(0, nn.Sequential(up, *norm))
        self.middle = RecurrentMiddle(channels[-1], config.gru_layers, bidirectional=not config.causal)

    @property
    def stride(self) -> int:
        return self.config.stride**self.config.depth

    @property
    def frame_samples(self) -> int:
        """Input samples that one frame of the innermost layer sees."""
        config = self.config
        return 1 + (config.kernel - 1) * sum(config.stride**level for level in range(config.depth))

    def valid_length(self, num_samples: int) -> int:
        num_frames = -(-num_samples // self.stride)
        return (num_frames - 1) * self.stride + self.frame_samples

    def network(self, scaled: Tensor) -> Tensor:
        num_samples = scaled.shape[-1]
        x = F.pad(scaled, (0, self.valid_length(num_samples) - num_samples))
        skips = []
        for encode in self.encoder:
            x = encode(x)
            skips.append(x)
        x = self.middle(x)
        for decode in self.decoder:
            x = decode(x + skips.pop())
        return x[..., :num_samples]

    def layer_rates(self) -> Iterator[tuple[nn.Module, float]]:
        rate = float(self.sample_rate)
        for encode, decode in zip(self.encoder, reversed(self.decoder), strict=True):
            rate /= self.config.stride
            yield encode, rate
            yield decode, rate
        yield self.middle, rate

    def _last_input(self, n: int) -> int:
        # Output n is made of frames up to the one that starts at or before it; outer levels see less far.
        return n // self.stride * self.stride + self.frame_samples - 1

    def streaming_step(self, num_hops: int = 1) -> "GateWaveStep":
        return GateWaveStep(self, num_hops * self.hop_samples)


class GateWaveStep(StreamingStep):
    """GateWave, one step at a time: the newest sample of a step is the last that its newest frame sees."""

    def __init__(self, model: GateWave, hop: int) -> None:
        config = model.config
        lead = -(hop - model.stride + model.frame_samples) % hop
        encoder = (_GatedStep(f"encoder.{level}", layers) for level, layers in enumerate(model.encoder))
        decoder = (_GatedUpStep(f"decoder.{level}", layers) for level, layers in enumerate(model.decoder))
        middle, pace = StepRecurrent("middle", model.middle.gru), Pace(hop, hop - 1 - lead)
        u = StepU(pace, encoder, middle, decoder, kernel=config.kernel, stride=config.stride)
        lag = hop - 1 - u.last_pace.newest
        super().__init__(model.level, config.residual, hop_samples=hop, lead_samples=lead, lag_samples=lag)
        self.u = u

    def network(self, scaled: Tensor, memory: Memory) -> Tensor:
        return self.u(scaled[..., None], self.age(scaled, memory), memory).flatten(1)


class _GatedStep(nn.Module):
    """(gated convolution, BatchNorm): the norm's scale goes into the values' weights, its shift is added."""

    shift: Tensor | None

    def __init__(self, name: str, layers: Any) -> None:
        super().__init__()
        gated, *norms = layers
        conv = copy.deepcopy(gated.conv)
        is_up = isinstance(conv, nn.ConvTranspose1d)
        shift = None
        if norms:
            scale, shift = norm_as_affine(norms[0])
            with torch.no_grad():
                weight = conv.weight.transpose(0, 1) if is_up else conv.weight
                weight[: len(scale)] *= scale[:, None, None]
                conv.bias[: len(scale)] *= scale
        self.conv = StepConvTranspose(name, conv) if is_up else conv_step(name, conv)
        self.register_buffer("shift", shift)

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        y = F.glu(self.conv(x, memory), dim=-1)
        return y if self.shift is None else y + self.shift


class _GatedUpStep(_GatedStep):
    """The same with a transposed convolution, to which frames before the clip add nothing."""

    def forward(self, x: Tensor, is_on: Tensor, memory: Memory) -> Tensor:  # type: ignore[override]
        return super().forward(x * is_on, memory)
