"""What models are built from: gated convolutions, a recurrent middle, the level normaliser.

All tensors are (batch B, channels C, time T).
"""

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ww_models.layers.gru import GRU

Normalize = Literal["running", "utterance", "none"]
NORMALIZE_MODES: tuple[str, ...] = get_args(Normalize)


class GatedConv1d(nn.Module):
    """A convolution times the sigmoid of a second one (Dauphin et al., arXiv 1612.08083). No padding.

    Both are computed as one convolution with twice the channels: values first, gates second.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_channels, 2 * out_channels, kernel, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.glu(self.conv(x), dim=1)


class GatedConvTranspose1d(nn.Module):
    """A transposed convolution times the sigmoid of a second one."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose1d(in_channels, 2 * out_channels, kernel, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.glu(self.conv(x), dim=1)


class RecurrentMiddle(nn.Module):
    """GRU over time in the middle of a U: (B, C, T) -> (B, C, T); a bidirectional one is folded back to C."""

    def __init__(self, channels: int, num_layers: int, bidirectional: bool) -> None:
        super().__init__()
        self.gru = GRU(channels, channels, num_layers, bidirectional=bidirectional)
        self.linear = nn.Linear(2 * channels, channels) if bidirectional else None

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.gru(x.permute(2, 0, 1))
        if self.linear is not None:
            y = self.linear(y)
        return y.permute(1, 2, 0)


class LevelNormalizer(nn.Module):
    """Brings speech to about unit level before the network, and says what to multiply the result by.

    "running": the level is the root of an exponential mean of the power of completed hops. Hop k (samples
    k*hop to (k+1)*hop - 1) is divided by the level that hops 0 to k-1 gave, so no sample is waited for.
    Before the first hop stands a prior (-25 dBFS, worth 5 hops): without it the silence that most recordings
    begin with would make the first word tens of dB too loud. The state is two numbers per stream, (sum of
    power, sum of weight):

        power_sum = decay * power_sum + power_of_hop      weight = decay * weight + 1
        level^2 = power_sum / weight

    In training the initial state is drawn per item, because crops would otherwise only ever show the start of
    a stream: one in four starts cold, the others as if audio within +-20 dB of the crop's own level had gone
    before, as after a turned knob or a long pause. The draw is made from the bits of the item itself: no
    generator state to save, and the same draw on any number of workers.

    "utterance": the standard deviation of the whole clip, as in `denoiser`. "none": the input as it is.
    """

    PRIOR_POWER = 10.0 ** (-25.0 / 10.0)
    PRIOR_WEIGHT = 5.0  # hops
    COLD_START_SHARE = 0.25
    PREROLL_JITTER_DB = 20.0
    BLOCK_HOPS = 128

    def __init__(self, *, mode: Normalize, hop: int, memory_hops: float, floor: float) -> None:
        super().__init__()
        self.mode, self.hop, self.floor = mode, hop, floor
        self.decay = float(torch.exp(torch.tensor(-1.0 / memory_hops, dtype=torch.float64)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1, T) -> normalised (B, 1, T), and the scale, broadcast to it, that multiplies the output."""
        if self.mode == "none":
            return x, x.new_ones(1, 1, 1)
        if self.mode == "utterance":
            level = x.std(dim=-1, keepdim=True) if x.shape[-1] > 1 else x.abs()
            return x / (self.floor + level), level
        # Half precision would do to a network, not to a level that multiplies everything.
        with torch.autocast(x.device.type, enabled=False):
            scale = self._running(x.float() if x.dtype in (torch.half, torch.bfloat16) else x)
        return x / scale, scale

    def _running(self, x: Tensor) -> Tensor:
        num_samples = x.shape[-1]
        num_hops = num_samples // self.hop
        powers_BK = x[:, 0, : num_hops * self.hop].unflatten(-1, (num_hops, self.hop)).square().mean(-1)
        power_sum_B, weight_B = self._initial_state(x)
        power_sums, weights = decaying_sums(
            torch.stack([powers_BK, torch.ones_like(powers_BK)]),
            torch.stack([power_sum_B, weight_B]),
            self.decay,
        )
        levels_BK = (power_sums / weights).clamp(min=self.floor**2).sqrt()
        return levels_BK.repeat_interleave(self.hop, dim=-1)[:, None, :num_samples]

    def _initial_state(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(power sum (B,), weight (B,)) before the first sample."""
        weight_B = x.new_full((x.shape[0],), self.PRIOR_WEIGHT)
        cold_B = self.PRIOR_POWER * weight_B
        if not self.training:
            return cold_B, weight_B
        draw_B = uniform_from_bits(x[:, 0]).to(x.dtype)
        symmetric_B = 2 * (draw_B - self.COLD_START_SHARE) / (1 - self.COLD_START_SHARE) - 1
        jitter_db = self.PREROLL_JITTER_DB * symmetric_B
        warm_weight = 1 / (1 - self.decay)
        warm_B = warm_weight * x[:, 0].square().mean(-1) * 10 ** (jitter_db / 10)
        is_cold = draw_B < self.COLD_START_SHARE
        return torch.where(is_cold, cold_B, warm_B), torch.where(is_cold, weight_B, warm_weight)


def decaying_sums(
    values: Tensor, initial: Tensor, decay: float, block: int = LevelNormalizer.BLOCK_HOPS
) -> Tensor:
    """values (..., K), initial (...) -> (..., K + 1): s[0] = initial, s[k + 1] = decay * s[k] + values[k].

    Block by block as a product with a triangular matrix: powers of `decay` never grow, so it is stable for
    any K.
    """
    steps = torch.arange(block + 1, device=values.device, dtype=torch.float64)
    powers = torch.tril(decay ** (steps[1:, None] - steps[None, 1:]).clamp(min=0)).to(values.dtype)
    fading = (decay ** steps[1:]).to(values.dtype)
    sums = [initial[..., None]]
    for part in values.split(block, dim=-1):
        n = part.shape[-1]
        sums.append(part @ powers[:n, :n].T + sums[-1][..., -1:] * fading[:n])
    return torch.cat(sums, dim=-1)


def uniform_from_bits(x: Tensor) -> Tensor:
    """(B, T) -> (B,) numbers in [0, 1) that depend on every bit of the item and on nothing else."""
    bits = x.detach().float().contiguous().view(torch.int32).to(torch.int64)
    place = torch.arange(1, bits.shape[-1] + 1, device=x.device)
    mixed = (bits * (2 * place + 1)).sum(-1)
    mixed = (mixed ^ (mixed >> 29)) * 0x1CE4E5B9 % (1 << 32)
    mixed = (mixed ^ (mixed >> 15)) * 0x133111EB % (1 << 32)
    return (mixed >> 8).double() / (1 << 24)
