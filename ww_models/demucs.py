"""Demucs for speech (Défossez, Synnaeve, Adi: arXiv 2006.12847), parameters named as in its `denoiser`.

    level i:  conv k8 s4, ReLU, 1x1 conv, GLU ----- skip, added -----> 1x1 conv, GLU, transposed conv k8 s4,
    ReLU
                          '-> level i+1 ... LSTM ... -'                        (the outermost has no ReLU)

The level-normalised input is sinc-upsampled by 1, 2 or 4 and the output brought back. Padding is that of
`denoiser`, so with normalize="utterance" its public checkpoints give the same output, both ends included.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import ceil

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .denoiser import Denoiser, ModelConfig, require
from .resampling import SincResampler
from .streaming_layers import Memory, Pace, StepConv, StepConvTranspose, StepRecurrent, conv_step
from .streaming_step import StreamingStep, alive, started


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
        for field in ("hidden", "depth", "max_hidden", "stride", "lstm_layers", "sinc_zeros"):
            value = getattr(self, field)
            require(value >= 1, f"demucs {field} is {value}: give at least 1")
        require(self.growth >= 1, f"demucs growth is {self.growth}: give at least 1")
        require(self.resample in (1, 2, 4), f"demucs resample is {self.resample}: give 1, 2 or 4")
        require(
            self.kernel >= self.stride and self.kernel % self.stride == 0,
            f"demucs kernel is {self.kernel} with stride {self.stride}: give a multiple of the stride",
        )
        require(
            self.stride**self.depth % self.resample == 0,
            f"demucs stride {self.stride} to the depth {self.depth} is no multiple of resample "
            f"{self.resample}: choose a larger depth",
        )
        require(
            self.sinc_lookahead is None or 1 <= self.sinc_lookahead <= self.sinc_zeros,
            f"demucs sinc_lookahead is {self.sinc_lookahead}: give 1 to sinc_zeros ({self.sinc_zeros})",
        )
        require(self.rescale >= 0, f"demucs rescale is {self.rescale}: give 0 or more")

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
            self.encoder.append(
                nn.Sequential(
                    nn.Conv1d(outer, inner, config.kernel, config.stride),
                    nn.ReLU(),
                    nn.Conv1d(inner, 2 * inner, 1),
                    nn.GLU(dim=1),
                )
            )
            up = [
                nn.Conv1d(inner, 2 * inner, 1),
                nn.GLU(dim=1),
                nn.ConvTranspose1d(inner, outer, config.kernel, config.stride),
            ]
            self.decoder.insert(0, nn.Sequential(*up, nn.ReLU()) if len(self.decoder) else nn.Sequential(*up))
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
        return self._unrolled(1)

    def _unrolled(self, num_frames: int) -> int:
        """Samples, at the network's inner rate, that `num_frames` of the innermost layer cover."""
        length = num_frames
        for _ in range(self.config.depth):
            length = (length - 1) * self.config.stride + self.config.kernel
        return length

    def valid_length(self, num_samples: int) -> int:
        """As in `denoiser`, or where the model can stream, until no output misses a frame that would follow."""
        length = (num_samples + (self.lookahead_samples or 0)) * self.config.resample
        for _ in range(self.config.depth):
            length = max(ceil((length - self.config.kernel) / self.config.stride) + 1, 1)
        return ceil(self._unrolled(length) / self.config.resample)

    def network(self, scaled: Tensor) -> Tensor:
        num_samples = scaled.shape[-1]
        x = self.resampler.up(F.pad(scaled, (0, self.valid_length(num_samples) - num_samples)))
        skips = []
        for encode in self.encoder:
            x = encode(x)
            skips.append(x)
        x = self.lstm(x.permute(2, 0, 1)).permute(1, 2, 0)
        for decode in self.decoder:
            skip = skips.pop()
            x = decode(x + skip[..., : x.shape[-1]])
        return self.resampler.down(x)[..., :num_samples]

    def layer_rates(self) -> Iterator[tuple[nn.Module, float]]:
        rate = float(self.sample_rate * self.config.resample)
        for encode, decode in zip(self.encoder, reversed(self.decoder), strict=True):
            rate /= self.config.stride
            yield encode, rate
            yield decode, rate
        yield self.lstm, rate

    def _fixed_macs_per_second(self) -> float:
        return self.resampler.macs_per_sample * self.sample_rate

    def _last_input(self, n: int) -> int:
        n = self.resampler.last_down_input(n)
        # The filter of `down` reaches over several frames: the newest of them sees furthest.
        return self.last_frame_input(n // self.config.stride**self.config.depth)

    def last_frame_input(self, frame: int) -> int:
        """Index of the last input sample that a frame of the innermost layer needs."""
        n = frame * self.config.stride**self.config.depth + self.frame_samples_resampled - 1
        # Not the last sample looks furthest: those that are the input's own do not look ahead.
        return max(self.resampler.last_up_input(n - i) for i in range(self.config.resample))

    def streaming_step(self) -> "DemucsStep":
        return DemucsStep(self)


class DemucsStep(StreamingStep):
    """Causal Demucs, one hop at a time: the newest sample of a step is the last that its newest frame needs."""

    def __init__(self, model: Demucs) -> None:
        config, hop = model.config, model.hop_samples
        lead = -(model.last_frame_input(hop // model.stride - 1) + 1) % hop
        resampler, num_resamplings = model.resampler, config.resample.bit_length() - 1
        pace = Pace(hop, hop - 1 - lead)
        ups = []
        for index in range(num_resamplings):
            ups.append(_UpStep(f"up.{index}", resampler, pace))
            pace = ups[-1].pace
        paces = [pace]
        for _ in model.encoder:
            paces.append(paces[-1].conv(config.kernel, config.stride))
        pace = frames = paces[-1]
        skip_delays = []
        for _ in model.decoder:
            skip_delays.append(paces.pop().newest - pace.newest)
            pace = pace.conv_transpose(config.stride)
        downs = []
        for index in range(num_resamplings):
            downs.append(_DownStep(f"down.{index}", resampler, pace))
            pace = downs[-1].pace
        super().__init__(model, lead_samples=lead, lag_samples=hop - 1 - pace.newest)
        self.frames, self.skip_delays = frames, skip_delays
        self.ups, self.downs = nn.ModuleList(ups), nn.ModuleList(downs)
        self.lstm = StepRecurrent("lstm", model.lstm.lstm)
        self.encoder = nn.ModuleList(
            nn.ModuleList(
                [conv_step(f"encoder.{level}", layers[0]), conv_step(f"encoder.{level}.1x1", layers[2])]
            )
            for level, layers in enumerate(model.encoder)
        )
        self.decoder = nn.ModuleList(
            nn.ModuleList(
                [
                    conv_step(f"decoder.{level}.1x1", layers[0]),
                    StepConvTranspose(f"decoder.{level}", layers[2]),
                ]
            )
            for level, layers in enumerate(model.decoder)
        )

    def network(self, scaled: Tensor, age: Tensor, memory: Memory) -> Tensor:
        is_on = alive(age, self.frames)
        x, skips = scaled, []
        for index, up in enumerate(self.ups):
            # The whole clip is cut to its length between two passes.
            x = up(x * started(age, self.ups[index - 1].pace) if index else x, memory)
        for conv, mix in self.encoder:
            x = F.glu(mix(F.relu(conv(x, memory)), memory), dim=-1)
            skips.append(x)
        x = self.lstm(x, is_on, memory)
        for level, (mix, conv) in enumerate(self.decoder):
            skip = memory.delay(f"skip.{level}", skips.pop(), self.skip_delays[level])
            x = conv(F.glu(mix(x + skip, memory), dim=-1) * is_on, memory)
            if level < len(self.decoder) - 1:
                x = F.relu(x)
        if self.downs:
            x = x * is_on
        for index, down in enumerate(self.downs):
            x = down(x * started(age, self.downs[index - 1].pace) if index else x, memory)
        return x


class _UpStep(nn.Module):
    """One pass of the sinc filter by two, up: each sample of the input and the one half-way to the next."""

    def __init__(self, name: str, resampler: SincResampler, pace: Pace) -> None:
        super().__init__()
        self.pace = Pace(2 * pace.rows, 2 * (pace.newest - resampler.lookahead) + 1)
        weight = torch.zeros(resampler.zeros + resampler.lookahead, 1, 2)
        weight[resampler.zeros - 1, 0, 0] = 1.0
        weight[:, 0, 1] = resampler.kernel[0, 0]
        self.conv = StepConv(name, weight, None, block=16)

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        return self.conv(x, memory).reshape(-1, self.pace.rows, 1)


class _DownStep(nn.Module):
    """One pass of the sinc filter by two, down."""

    def __init__(self, name: str, resampler: SincResampler, pace: Pace) -> None:
        super().__init__()
        # With an even newest sample there is one more than the newest output needs.
        newest, spare = divmod(pace.newest - (2 * resampler.lookahead - 1), 2)
        self.pace = Pace(pace.rows // 2, newest)
        weight = torch.zeros(2 * (resampler.zeros + resampler.lookahead) - 1 + spare, 1, 1)
        weight[2 * resampler.zeros - 1] = 0.5
        weight[: 2 * (resampler.zeros + resampler.lookahead) - 1 : 2, 0, 0] = 0.5 * resampler.kernel[0, 0]
        self.conv = StepConv(name, weight, None, stride=2, block=16)

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        return self.conv(x, memory)


def _rescale_convolutions(model: nn.Module, reference: float) -> None:
    """Scales each convolution's standard deviation half-way (in log) to `reference`, as `denoiser` does."""
    for module in model.modules():
        if isinstance(module, nn.Conv1d | nn.ConvTranspose1d) and module.bias is not None:
            scale = (module.weight.detach().std() / reference).sqrt()
            with torch.no_grad():
                module.weight /= scale
                module.bias /= scale
