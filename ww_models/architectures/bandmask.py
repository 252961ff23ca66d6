"""BandMask: a recurrent network that hears bands of a spectrum and sets gains for them, in large matrix products.

    frames -> spectrum -> log power of bands, lowest bins compressed -> BatchNorm -> linear, LayerNorm, SiLU -> GRU
                 |                                                                                              |
                 |            low bins: a filter over the last frames <-- taps --+-- linear <-- linear, SiLU <--'
                 |                             |                                 |
                 '-------> times gains --------+--> frames, overlapped          gains of bands -> of bins -> sigmoid

Gains of bands that are interpolated over frequency are those of RNNoise (Valin, arXiv 1709.08243) and PercepNet
(Valin et al., arXiv 2008.04259), complex filters over a few frames of the low bins those of DeepFilterNet (Schröter et
al., arXiv 2110.05588). Bands and compression see to the level, so `normalize` may be "none".

A frame ends with each hop. The first sees zeros before the clip; the input is padded until each output sample has all
its frames: the end of a clip is what a stream followed by silence returns.
"""

import copy
import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ww_models.checks import require
from ww_models.denoiser import Denoiser, ModelConfig
from ww_models.layers.gru import GRU, retention_of
from ww_models.layers.short_time import ShortTime, band_shares
from ww_models.layers.step import StreamingStep
from ww_models.layers.step_layers import Memory, StepRecurrent, norm_as_affine

# Powers below (-90 dB of full scale) are not told apart: there is nothing but the rounding of louder bins.
POWER_FLOOR = 1e-9
COMPRESSION = 0.3
MAX_FFT_SIZE = 8192


@dataclass(frozen=True, kw_only=True)
class BandMaskConfig(ModelConfig):
    """hidden: width of all layers; gru_layers: recurrent ones.

    fft_size        samples of a frame, a multiple of 2 hop
    hop             samples from one frame to the next
    num_bands       bands whose power is heard and whose gain is set, 2 to fft_size / 2
    num_low_bins    lowest bins, which are heard as they are and filtered, 1 to fft_size / 2
    num_taps        frames that this filter reaches over: the newest and those before it
    memory_s        time in which a recurrent state that nothing renews falls to 1/e, 0 for no limit. Without one it
                    gathers over minutes what the crops of training are too short to show to it
    """

    fft_size: int = 512
    hop: int = 256
    num_bands: int = 64
    num_low_bins: int = 96
    hidden: int = 256
    gru_layers: int = 2
    num_taps: int = 3
    memory_s: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("hop", "hidden", "gru_layers", "num_taps"):
            self.check(f"bandmask {field}", getattr(self, field) >= 1, "give at least 1")
        self.check("bandmask memory_s", 0 <= self.memory_s < math.inf, "give 0 or more")
        require(
            self.fft_size >= 2 * self.hop and self.fft_size % (2 * self.hop) == 0,
            f"bandmask fft_size is {self.fft_size} with hop {self.hop}: give a multiple of twice the hop",
        )
        # Both ways between a frame and its spectrum are matrices.
        self.check("bandmask fft_size", self.fft_size <= MAX_FFT_SIZE, f"give at most {MAX_FFT_SIZE}")
        for field, least in (("num_bands", 2), ("num_low_bins", 1)):
            is_within = least <= getattr(self, field) <= self.num_bins
            self.check(f"bandmask {field}", is_within, f"give {least} to fft_size / 2 ({self.num_bins})")

    @property
    def num_bins(self) -> int:
        return self.fft_size // 2


class Features(nn.Module):
    """What the network hears of a spectrum: log power of bands (shares of bins in them: (bands, bins)), low bins."""

    bands: Tensor

    def __init__(self, shares: Tensor, num_low_bins: int) -> None:
        super().__init__()
        self.num_low_bins = num_low_bins
        bands = (shares / shares.sum(1, keepdim=True)).t().contiguous()
        # As the matrices of the spectra, no part of the state.
        self.register_buffer("bands", bands.to(torch.get_default_dtype()), persistent=False)

    def forward(self, real: Tensor, imaginary: Tensor) -> Tensor:
        """Real and imaginary parts (B, M, bins) -> features (B, M, bands + 2 * low bins)."""
        power = real.square() + imaginary.square() + POWER_FLOOR
        bands = (power @ self.bands).log()
        # A power by its logarithm, in a third of the time.
        scale = (power[..., : self.num_low_bins].log() * ((COMPRESSION - 1) / 2)).exp()
        low = (part[..., : self.num_low_bins] * scale for part in (real, imaginary))
        return torch.cat([bands, *low], dim=-1)


def filtered(real: Tensor, imaginary: Tensor, taps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Low bins, and real and imaginary part of each tap, all (B, M, L) -> each frame's taps over it and its past."""
    num_frames = real.shape[1]
    before = len(taps) // 2 - 1
    real, imaginary = (F.pad(part, (0, 0, before, 0)) for part in (real, imaginary))
    new_real = new_imaginary = real.new_zeros(())
    for i, (weight, turn) in enumerate(zip(taps[::2], taps[1::2], strict=True)):
        x, y = real[:, i : i + num_frames], imaginary[:, i : i + num_frames]
        new_real = torch.addcmul(torch.addcmul(new_real, weight, x), turn, y, value=-1)
        new_imaginary = torch.addcmul(torch.addcmul(new_imaginary, weight, y), turn, x)
    return new_real, new_imaginary


def sum_of(shares: list[Tensor]) -> Tensor:
    return functools.reduce(torch.add, shares)


class BandMask(Denoiser):
    name = "bandmask"
    config: BandMaskConfig

    def __init__(self, config: BandMaskConfig) -> None:
        super().__init__(config)
        hidden, num_bands, num_low = config.hidden, config.num_bands, config.num_low_bins
        self.short_time = ShortTime(config.fft_size, config.hop)
        shares = band_shares(num_bands, config.num_bins, config.sample_rate / config.fft_size)
        self.features = Features(shares, num_low)
        num_features = num_bands + 2 * num_low
        self.norm = nn.BatchNorm1d(num_features)
        self.front, self.front_norm = nn.Linear(num_features, hidden), nn.LayerNorm(hidden)
        retention = retention_of(config.memory_s, config.hop / config.sample_rate)
        directions = {"bidirectional": not config.causal, "retention": retention}
        self.gru = GRU(hidden, hidden, config.gru_layers, **directions)
        self.back = nn.Linear(hidden if config.causal else 2 * hidden, hidden)
        # Gains of bands, then taps: (tap, real and imaginary part, bin), the oldest frame's first.
        self.head = nn.Linear(hidden, num_bands + config.num_taps * 2 * num_low)
        self.bins = nn.Linear(num_bands, config.num_bins)
        with torch.no_grad():
            self.bins.weight.copy_(shares.t())
            self.bins.bias.zero_()

    @property
    def stride(self) -> int:
        return self.config.hop

    @property
    def past_samples(self) -> int:
        """Of a frame, before the hop that it ends with."""
        return self.config.fft_size - self.config.hop

    def valid_length(self, num_samples: int) -> int:
        return -(-num_samples // self.stride) * self.stride + self.past_samples

    def network(self, scaled: Tensor) -> Tensor:
        num_samples, config = scaled.shape[-1], self.config
        padding = self.past_samples, self.valid_length(num_samples) - num_samples
        # Half precision would do to a network, not to spectra.
        with torch.autocast(scaled.device.type, enabled=False):
            padded = F.pad(scaled[:, 0].to(self.short_time.cosines.dtype), padding)
            blocks = padded.unflatten(-1, (-1, self.stride))
            num_frames, overlap = self.valid_length(num_samples) // self.stride, self.short_time.overlap
            spectrum = self.short_time.analyse([blocks[:, i : i + num_frames] for i in range(overlap)])
            features = self.features(*spectrum)
        gains, taps = self._gains_and_taps(features)
        with torch.autocast(scaled.device.type, enabled=False):
            gains, taps = gains.to(features.dtype), [tap.to(features.dtype) for tap in taps]
            x, y = (part[..., : config.num_low_bins] for part in spectrum)
            low = filtered(x, y, taps)
            rest = 0, config.num_bins - config.num_low_bins
            parts = (gains * part + F.pad(more, rest) for part, more in zip(spectrum, low, strict=True))
            # A block is the first of the newest frame that reaches it, and the last of the oldest.
            last = num_frames - overlap + 1
            frames = enumerate(self.short_time.synthesise(*parts))
            shares = [blocks[:, overlap - 1 - i :][:, :last] for i, blocks in frames]
            return sum_of(shares).flatten(1)[:, None, :num_samples]

    def _gains_and_taps(self, features: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, M, features) -> gains (B, M, bins) from 0 to 1; real and imaginary part of each tap (B, M, low bins)"""
        config = self.config
        x = self.norm(features.flatten(0, 1)).view(features.shape)
        # Time comes first in a GRU.
        x, _ = self.gru(F.silu(self.front_norm(self.front(x))).transpose(0, 1))
        x = self.head(F.silu(self.back(x.transpose(0, 1))))
        bands, *taps = x.split([config.num_bands, *2 * config.num_taps * [config.num_low_bins]], dim=-1)
        return self.bins(bands).sigmoid(), taps

    def layer_rates(self) -> Iterator[tuple[nn.Module, float]]:
        for layer in (self.front, self.gru, self.back, self.head, self.bins):
            yield layer, self.sample_rate / self.stride

    @property
    def macs_per_second(self) -> float:
        constants = self.short_time.macs_per_frame + self.features.bands.numel()
        return super().macs_per_second + constants * self.sample_rate / self.stride

    def _last_input(self, n: int) -> int:
        # Output n is made of frames up to the one that begins with its hop.
        return n // self.stride * self.stride + self.config.fft_size - 1

    def streaming_step(self, num_hops: int = 1) -> "BandMaskStep":
        return BandMaskStep(self, num_hops * self.hop_samples)


class BandMaskStep(StreamingStep):
    """Causal BandMask, one step at a time: its newest frame ends with its newest sample."""

    scale: Tensor

    def __init__(self, model: BandMask, hop: int) -> None:
        config = model.config
        lag = model.past_samples
        super().__init__(model.level, config.residual, hop_samples=hop, lead_samples=0, lag_samples=lag)
        self.rows, self.stride, self.num_bins = hop // config.hop, config.hop, config.num_bins
        self.num_bands, self.num_low, self.num_taps = config.num_bands, config.num_low_bins, config.num_taps
        self.short_time, self.features = copy.deepcopy(model.short_time), copy.deepcopy(model.features)
        scale, shift = norm_as_affine(model.norm)
        # The means of bands go into their matrix, all other shifts into the bias of the layer after the norm.
        assert model.norm.running_mean is not None
        means = model.norm.running_mean[: self.num_bands]
        self.features.bands *= (-means).exp()
        shift[: self.num_bands] += scale[: self.num_bands] * means
        self.register_buffer("scale", scale)
        self.front, self.front_norm = _LinearStep(model.front, shift), copy.deepcopy(model.front_norm)
        self.gru = StepRecurrent("gru", model.gru)
        self.back, self.head, self.bins = (_LinearStep(each) for each in (model.back, model.head, model.bins))

    def network(self, scaled: Tensor, memory: Memory) -> Tensor:
        newest = scaled if self.rows == 1 else scaled.reshape(-1, self.rows, self.stride)
        before = range(self.short_time.overlap - 1, -1, -1)
        real, imaginary = self.short_time.analyse([memory.delay(f"block.{i}", newest, i) for i in before])
        bands, taps = self._bands_and_taps(self.features(real, imaginary) * self.scale, memory)
        gains = self._rows(self.bins(bands).sigmoid())
        low = self._filtered(real[..., : self.num_low], imaginary[..., : self.num_low], taps, memory)
        more = F.pad(low, (0, self.num_bins - self.num_low))
        blocks = self.short_time.synthesise(
            gains * real + more[..., 0, :], gains * imaginary + more[..., 1, :]
        )
        shares = [memory.delay(f"share.{i}", block, i) for i, block in enumerate(blocks)]
        return sum_of(shares) if self.rows == 1 else sum_of(shares).flatten(1)

    def _bands_and_taps(self, features: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """(B, rows, features) -> (B * rows, bands), (B * rows, taps * 2 * low bins)"""
        # Rows of all streams are rows of one matrix; only the recurrent layers tell them apart.
        x = self._rows(F.silu(self.front_norm(self.front(self._matrix(features)))))
        x = self.head(F.silu(self.back(self._matrix(self.gru(x, None, memory)))))
        bands, taps = x.split([self.num_bands, 2 * self.num_taps * self.num_low], dim=-1)
        return bands, taps

    def _rows(self, matrix: Tensor) -> Tensor:
        """(B * rows, C) -> (B, rows, C); a single row stays (B, C), in a graph of fewer nodes."""
        return matrix if self.rows == 1 else matrix.reshape(-1, self.rows, int(matrix.shape[-1]))

    def _matrix(self, rows: Tensor) -> Tensor:
        """Back from `_rows`."""
        return rows if self.rows == 1 else rows.flatten(0, 1)

    def _filtered(self, x: Tensor, y: Tensor, taps: Tensor, memory: Memory) -> Tensor:
        """`filtered` -> (B, rows, 2, L) or (B, 2, L), real and imaginary part, in a single product."""
        # What the real part of a tap weighs, and what the imaginary one does.
        rows = memory.extend("low", torch.cat([x, y, -y, x], dim=-1), self.num_taps - 1)
        if self.rows > 1:
            rows = rows[:, torch.arange(self.rows)[:, None] + torch.arange(self.num_taps)]
        count = () if self.rows == 1 else (self.rows,)
        windows = rows.reshape(-1, *count, 2 * self.num_taps, 2, self.num_low)
        weights = taps.reshape(-1, *count, 2 * self.num_taps, 1, self.num_low)
        return (windows * weights).sum(-3)


class _LinearStep(nn.Module):
    """A linear layer as a product that int8 knows."""

    weight: Tensor
    bias: Tensor

    def __init__(self, linear: nn.Linear, shift: Tensor | None = None) -> None:
        """shift: of the inputs, added before."""
        super().__init__()
        bias = linear.bias if shift is None else linear(shift)
        self.register_buffer("weight", linear.weight.detach().t().contiguous())
        self.register_buffer("bias", bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x, self.weight)
