"""The level that speech is brought to before the network: over a whole clip, and as part of a streaming step."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ww_models.checks import require
from ww_models.layers.step_layers import Memory

Normalize = Literal["running", "utterance", "none"]
NORMALIZE_MODES: tuple[str, ...] = get_args(Normalize)
TINY = 1e-20
BLOCK_HOPS = 128


class LevelNormalizer(nn.Module):
    """Brings speech to about unit level before the network, and says what to multiply the result by.

    "running": the level is the root of an exponential mean of the power of completed hops. Hop k (samples k*hop to
    (k+1)*hop - 1) is divided by the level that hops 0 to k-1 gave, so no sample is waited for. Before the first hop
    stands a prior (-25 dBFS, worth 5 hops): without it the silence that most recordings begin with would make the
    first word tens of dB too loud. The state is two numbers per stream:

        power_sum = decay * power_sum + power_of_hop      weight = decay * weight + 1
        level^2 = power_sum / weight

    In training the initial state is drawn per item, because crops would otherwise only ever show the start of a
    stream: one in four starts cold, the others as if audio within +-20 dB of the crop's own level had gone before,
    as after a turned knob or a long pause. The draw is made from the bits of the item itself: no generator state to
    save, and the same draw on any number of workers.

    "utterance": the standard deviation of the whole clip, as in `denoiser`. "none": the input as it is.
    """

    PRIOR_POWER = 10.0 ** (-25.0 / 10.0)
    PRIOR_WEIGHT = 5.0  # hops
    COLD_START_SHARE = 0.25
    PREROLL_JITTER_DB = 20.0

    def __init__(self, *, mode: Normalize, hop: int, memory_hops: float, floor: float) -> None:
        super().__init__()
        self.mode, self.hop, self.floor = mode, hop, floor
        self.decay = float(torch.exp(torch.tensor(-1.0 / memory_hops, dtype=torch.float64, device="cpu")))

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
        powers_BH = x[:, 0, : num_hops * self.hop].unflatten(-1, (num_hops, self.hop)).square().mean(-1)
        values, initial = torch.stack([powers_BH, torch.ones_like(powers_BH)]), self._initial_state(x)
        power_sums, weights = decaying_sums(values, torch.stack(initial), self.decay)
        levels_BH = (power_sums / weights).clamp(min=self.floor**2).sqrt()
        return levels_BH.repeat_interleave(self.hop, dim=-1)[:, None, :num_samples]

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


class StepLevel(nn.Module):
    """The running level of `LevelNormalizer` as part of a streaming step."""

    def __init__(self, level: LevelNormalizer, lead_samples: int) -> None:
        super().__init__()
        self.mode, self.hop, self.decay, self.floor = level.mode, level.hop, level.decay, level.floor
        # Where in a step the first level hop ends; the grid of hops is anchored at sample 0.
        self.first_end = lead_samples % level.hop or level.hop
        # The zeros of the lead complete hops too. The initial state is such that the prior remains after them.
        ended = -(-lead_samples // level.hop)
        require(
            level.decay**ended >= TINY,
            "level_memory_s is too short for a stream, whose steps are many times as long: give more, e.g. 0.2",
        )
        self.initial_power_sum = level.PRIOR_POWER * level.PRIOR_WEIGHT / level.decay**ended
        self.initial_weight = level.PRIOR_WEIGHT
        for _ in range(ended):
            self.initial_weight = (self.initial_weight - 1) / level.decay

    def forward(self, x: Tensor, memory: Memory) -> tuple[Tensor, Tensor | None]:
        """(B, n) -> normalised (B, n) and the scale (B, n) that multiplies the output, if any."""
        if self.mode == "none":
            return x, None
        power_sum = memory.recall("level.power_sum", x, (1,), self.initial_power_sum)
        weight = memory.recall("level.weight", x, (1,), self.initial_weight)
        energy = memory.recall("level.energy", x, (1,))
        scales, num_samples = [], int(x.shape[1])
        begin, end = 0, self.first_end
        while begin < num_samples:
            part = x[:, begin : min(end, num_samples)]
            scale = (power_sum / weight).clamp(min=self.floor**2).sqrt()
            scales.append(scale.expand(-1, min(end, num_samples) - begin))
            energy = energy + part.square().sum(1, keepdim=True)
            if end <= num_samples:
                power_sum = self.decay * power_sum + energy / self.hop
                weight = self.decay * weight + 1
                # Not 0: in minutes of silence the sum would become denormal, and slow.
                energy = torch.full_like(energy, TINY)
            begin, end = end, end + self.hop
        memory.kept["level.power_sum"] = power_sum
        memory.kept["level.weight"] = weight
        memory.kept["level.energy"] = energy
        all_scales = torch.cat(scales, dim=1) if len(scales) > 1 else scales[0]
        return x / all_scales, all_scales


def decaying_sums(values: Tensor, initial: Tensor, decay: float) -> Tensor:
    """values (..., H), initial (...) -> (..., H + 1): s[0] = initial, s[k + 1] = decay * s[k] + values[k].

    Block by block as a product with a triangular matrix: powers of `decay` never grow, so it is always stable.
    """
    steps = torch.arange(BLOCK_HOPS + 1, device=values.device, dtype=torch.float64)
    powers = torch.tril(decay ** (steps[1:, None] - steps[None, 1:]).clamp(min=0)).to(values.dtype)
    fading = (decay ** steps[1:]).to(values.dtype)
    sums = [initial[..., None]]
    for part in values.split(BLOCK_HOPS, dim=-1):
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
