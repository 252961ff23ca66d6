"""Demucs for speech (Défossez, Synnaeve, Adi: arXiv 2006.12847), parameters named as in its `denoiser`.

    level i:  conv k8 s4, ReLU, 1x1 conv, GLU ----- skip, added -----> 1x1 conv, GLU, transposed conv k8 s4, ReLU
                          '-> level i+1 ... LSTM ... -'                        (the outermost has no ReLU)

The level-normalised input is sinc-upsampled by 1, 2 or 4 and the output brought back. Padding is that of
`denoiser`, so with normalize="utterance" its public checkpoints give the same output, both ends included.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ww_models.checks import require
from ww_models.denoiser import Denoiser, ModelConfig
from ww_models.layers.matrix_convolutions import convolve, convolve_gated, convolve_transposed
from ww_models.layers.resampling import SincResampler, StepDownsampler, StepUpsampler
from ww_models.layers.step import StepU, StreamingStep
from ww_models.layers.step_layers import Memory, Pace, StepConvTranspose, StepRecurrent, conv_step

MAX_SINC_ZEROS = 1024


@dataclass(frozen=True, kw_only=True)
class DemucsConfig(ModelConfig):
    """hidden: channels of the first level; growth: factor per level, up to max_hidden; resample: 1, 2 or 4.

    sinc_zeros      zero crossings of the resampling filter on each side
    sinc_lookahead  taps of it that may lie in the future, 1 to sinc_zeros; None: all. Fewer: less latency
    rescale         standard deviation that weights are brought towards at the start (0: as torch draws them)
    """

    hidden: int = 48
    growth: float = 2.0
    max_hidden: int = 10_000
    depth: int = 5
    kernel: int = 8
    stride: int = 4
    resample: int = 4
    lstm_layers: int = 2
    sinc_zeros: int = 56
    sinc_lookahead: int | None = None
    rescale: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("hidden", "depth", "max_hidden", "stride", "lstm_layers", "sinc_zeros", "growth"):
            self.check(f"demucs {field}", getattr(self, field) >= 1, "give at least 1")
        self.check("demucs resample", self.resample in (1, 2, 4), "give 1, 2 or 4")
        require(
            self.kernel >= self.stride and self.kernel % self.stride == 0,
            f"demucs kernel is {self.kernel} with stride {self.stride}: give a multiple of the stride",
        )
        require(
            pow(self.stride, self.depth, self.resample) == 0,
            f"demucs stride {self.stride} to the depth {self.depth} is no multiple of resample "
            f"{self.resample}: choose a larger depth",
        )
        self.check("demucs sinc_zeros", self.sinc_zeros <= MAX_SINC_ZEROS, f"give at most {MAX_SINC_ZEROS}")
        is_within = self.sinc_lookahead is None or 1 <= self.sinc_lookahead <= self.sinc_zeros
        self.check("demucs sinc_lookahead", is_within, f"give 1 to sinc_zeros ({self.sinc_zeros})")
        self.check("demucs rescale", self.rescale >= 0, "give 0 or more")

    @property
    def channels(self) -> tuple[int, ...]:
        """Of each level, outermost first."""
        widths = [self.hidden]
        while len(widths) < self.depth:
            widths.append(min(int(self.growth * widths[-1]), self.max_hidden))
        return tuple(widths)


class RecurrentLSTM(nn.Module):
    """LSTM over time, (T, B, C) -> (T, B, C); a bidirectional one is folded back to C channels."""

    def __init__(self, channels: int, num_layers: int, bidirectional: bool) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, channels, num_layers, bidirectional=bidirectional)
        self.linear = nn.Linear(2 * channels, channels) if bidirectional else None

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.lstm(x)
        return y if self.linear is None else self.linear(y)


class Demucs(Denoiser):
    name = "demucs"
    config: DemucsConfig

    def __init__(self, config: DemucsConfig) -> None:
        super().__init__(config)
        self.encoder = nn.ModuleList()
        self.decoder = nn.ModuleList()
        channels = (1, *config.channels)
        for outer, inner in pairwise(channels):
            down = nn.Conv1d(outer, inner, config.kernel, config.stride)
            self.encoder.append(nn.Sequential(down, nn.ReLU(), nn.Conv1d(inner, 2 * inner, 1), nn.GLU(dim=1)))
            gated = nn.Conv1d(inner, 2 * inner, 1)
            up = nn.ConvTranspose1d(inner, outer, config.kernel, config.stride)
            activation = [nn.ReLU()] if len(self.decoder) else []
            self.decoder.insert(0, nn.Sequential(gated, nn.GLU(dim=1), up, *activation))
        self.lstm = RecurrentLSTM(channels[-1], config.lstm_layers, bidirectional=not config.causal)
        self.resampler = SincResampler(config.resample, config.sinc_zeros, config.sinc_lookahead)
        if config.rescale:
            _rescale_convolutions(self, config.rescale)

    @property
    def stride(self) -> int:
        return self.config.stride**self.config.depth // self.config.resample

    @property
    def frame_samples_resampled(self) -> int:
        """Samples, at the network's inner rate, that one frame of the innermost layer sees."""
        config = self.config
        return 1 + (config.kernel - 1) * sum(config.stride**level for level in range(config.depth))

    def valid_length(self, num_samples: int) -> int:
        """As in `denoiser`, or where the model can stream, until no output misses a frame that would follow."""
        config = self.config
        length = (num_samples + (self.lookahead_samples or 0)) * config.resample
        for _ in range(config.depth):
            length = max(ceil((length - config.kernel) / config.stride) + 1, 1)
        covered = (length - 1) * config.stride**config.depth + self.frame_samples_resampled
        return ceil(covered / config.resample)

    def network(self, scaled: Tensor) -> Tensor:
        num_samples = scaled.shape[-1]
        x = self.resampler.up(F.pad(scaled, (0, self.valid_length(num_samples) - num_samples)))
        is_cpu = x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        layers = self._layers_as_products if self.training and is_cpu else self._layers
        return self.resampler.down(layers(x))[..., :num_samples]

    def _layers(self, x: Tensor) -> Tensor:
        """(B, 1, T) -> (B, 1, T'), at the inner rate; T' is T where that is a valid length."""
        skips = []
        for encode in self.encoder:
            x = encode(x)
            skips.append(x)
        x = self.lstm(x.permute(2, 0, 1)).permute(1, 2, 0)
        for decode in self.decoder:
            x = decode(x + skips.pop()[..., : x.shape[-1]])
        return x

    def _layers_as_products(self, x: Tensor) -> Tensor:
        """`_layers` with time before channels inside: the same numbers in less time, on the CPU."""
        encoder: Any = self.encoder
        decoder: Any = self.decoder
        x, skips = x.transpose(1, 2), []
        for strided, _, gated, _ in encoder:
            x = convolve_gated(convolve(x, strided).relu(), gated)
            skips.append(x)
        x = self.lstm(x.transpose(0, 1)).transpose(0, 1)
        for gated, _, transposed, *activation in decoder:
            x = convolve_gated(x + skips.pop()[:, : x.shape[1]], gated)
            x = convolve_transposed(x, transposed)
            x = x.relu_() if activation else x
        return x.transpose(1, 2)

    def layer_rates(self) -> Iterator[tuple[nn.Module, float]]:
        rate = float(self.sample_rate * self.config.resample)
        for encode, decode in zip(self.encoder, reversed(self.decoder), strict=True):
            rate /= self.config.stride
            yield encode, rate
            yield decode, rate
        yield self.lstm, rate

    @property
    def macs_per_second(self) -> float:
        return super().macs_per_second + self.resampler.macs_per_sample * self.sample_rate

    def _last_input(self, n: int) -> int:
        n = self.resampler.last_down_input(n)
        # The filter of `down` reaches over several frames: the newest of them sees furthest.
        return self.last_frame_input(n // self.config.stride**self.config.depth)

    def last_frame_input(self, frame: int) -> int:
        """Index of the last input sample that a frame of the innermost layer needs."""
        n = frame * self.config.stride**self.config.depth + self.frame_samples_resampled - 1
        # Not the last sample looks furthest: those that are the input's own do not look ahead.
        return max(self.resampler.last_up_input(n - i) for i in range(self.config.resample))

    def streaming_step(self, num_hops: int = 1) -> "DemucsStep":
        return DemucsStep(self, num_hops * self.hop_samples)


class DemucsStep(StreamingStep):
    """Causal Demucs, one step at a time: the newest sample of a step is the last that its newest frame needs."""

    def __init__(self, model: Demucs, hop: int) -> None:
        config = model.config
        newest_frame = hop // model.stride - 1
        num_hops, lead = divmod(-(model.last_frame_input(newest_frame) + 1), hop)
        # What the newest frame of the first step ends with: some hops earlier than frames of the clip itself.
        frame_end = newest_frame * config.stride**config.depth + model.frame_samples_resampled - 1
        first = Pace(hop * config.resample, frame_end + (num_hops + 1) * hop * config.resample)
        up = StepUpsampler(model.resampler, first)
        encoder = (_EncoderStep(f"encoder.{level}", layers) for level, layers in enumerate(model.encoder))
        decoder = (_DecoderStep(f"decoder.{level}", layers) for level, layers in enumerate(model.decoder))
        lstm = StepRecurrent("lstm", model.lstm.lstm)
        u = StepU(first, encoder, lstm, decoder, kernel=config.kernel, stride=config.stride)
        down = StepDownsampler(model.resampler, u.last_pace)
        lag = hop - 1 - down.paces[-1].newest
        super().__init__(model.level, config.residual, hop_samples=hop, lead_samples=lead, lag_samples=lag)
        self.up, self.u, self.down = up, u, down

    def network(self, scaled: Tensor, memory: Memory) -> Tensor:
        age = self.age(scaled, memory)
        x = self.up(scaled[..., None], age, memory)
        return self.down(self.u(x, age, memory), age, memory).flatten(1)


class _EncoderStep(nn.Module):
    """conv, ReLU, 1x1 conv, GLU"""

    def __init__(self, name: str, layers: Any) -> None:
        super().__init__()
        conv, _, gated, _ = layers
        self.conv, self.gated = conv_step(name, conv), conv_step(f"{name}.gated", gated)

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        return F.glu(self.gated(F.relu(self.conv(x, memory)), memory), dim=-1)


class _DecoderStep(nn.Module):
    """1x1 conv, GLU, transposed conv, ReLU unless outermost; frames before the clip add nothing."""

    def __init__(self, name: str, layers: Any) -> None:
        super().__init__()
        gated, _, conv, *activation = layers
        self.gated, self.conv = conv_step(f"{name}.gated", gated), StepConvTranspose(name, conv)
        self.has_activation = bool(activation)

    def forward(self, x: Tensor, is_on: Tensor, memory: Memory) -> Tensor:
        x = self.conv(F.glu(self.gated(x, memory), dim=-1) * is_on, memory)
        return F.relu(x) if self.has_activation else x


def _rescale_convolutions(model: nn.Module, reference: float) -> None:
    """Scales each convolution's standard deviation half-way (in log) to `reference`, as `denoiser` does."""
    for module in model.modules():
        if isinstance(module, nn.Conv1d | nn.ConvTranspose1d) and module.bias is not None:
            scale = (module.weight.detach().std() / reference).sqrt()
            with torch.no_grad():
                module.weight /= scale
                module.bias /= scale
