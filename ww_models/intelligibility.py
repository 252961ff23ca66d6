"""STOI that a network can learn from: how alike envelopes of bands are, over stretches of 0.4 s.

After Taal, Hendriks, Heusdens and Jensen, "An algorithm for intelligibility prediction of time-frequency weighted noisy
speech", IEEE TASLP 19 (2011). It differs from the measure (`pystoi`) in what costs time and changes little: nothing is
resampled to 10 kHz, frames without speech are left out of the envelopes instead of the signals, and one stretch in
`SEGMENT_HOP` is compared.
"""

import math

import torch
from torch import Tensor, nn

FRAME_S = 0.0256  # the hop is half of it
NUM_BANDS, LOWEST_CENTRE_HZ = 15, 150.0  # thirds of octaves
SEGMENT_FRAMES, SEGMENT_HOP = 30, 5
# Frames so far below the loudest one hold no speech; an envelope counts no error beyond the other limit.
RANGE_DB, WORST_SDR_DB = 40.0, -15.0
# -70 dB of the loudest band: gives silence a correlation of 0, and finite gradients.
FLOOR = 1e-7


class Intelligibility(nn.Module):
    """forward(estimate, clean), (B, T) each -> (stoi_B, is_defined_B): not where less than a stretch is speech."""

    window: Tensor
    bands: Tensor

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        self.size = 2 * round(FRAME_S * sample_rate / 2)
        self.fft_size = 2 ** math.ceil(math.log2(self.size))
        self.register_buffer("window", torch.hann_window(self.size), persistent=False)
        # Bins are taken whole, as in the measure.
        edges_hz = LOWEST_CENTRE_HZ * 2 ** ((torch.arange(NUM_BANDS + 1) - 0.5) / 3)
        bin_hz = torch.arange(self.fft_size // 2 + 1) * (sample_rate / self.fft_size)
        bands = (bin_hz[:, None] >= edges_hz[:-1]) & (bin_hz[:, None] < edges_hz[1:])
        self.register_buffer("bands", bands.float(), persistent=False)

    @property
    def min_samples(self) -> int:
        """The least that holds one stretch."""
        return (SEGMENT_FRAMES + 1) * self.size // 2

    def forward(self, estimate_BT: Tensor, clean_BT: Tensor) -> tuple[Tensor, Tensor]:
        power, clean_power = self._band_powers(estimate_BT), self._band_powers(clean_BT)
        order_BM, num_speech_B = _speech_first(clean_BT.unfold(-1, self.size, self.size // 2) * self.window)
        floor_B11 = FLOOR * clean_power.amax((1, 2), keepdim=True) + 1e-20
        envelopes = ((each + floor_B11).sqrt() for each in (power, clean_power))
        # (B, stretches, bands, frames)
        x, y = (_frames(each, order_BM).unfold(1, SEGMENT_FRAMES, SEGMENT_HOP) for each in envelopes)
        x = x * (_norm(y) / _norm(x))
        x = torch.minimum(x, y * (1 + 10 ** (-WORST_SDR_DB / 20)))
        correlation_BS = (_unit(x) * _unit(y)).sum(-1).mean(-1)
        first_S = torch.arange(correlation_BS.shape[1], device=x.device) * SEGMENT_HOP
        is_speech_BS = first_S + SEGMENT_FRAMES <= num_speech_B[:, None]
        num_B = is_speech_BS.sum(-1)
        return correlation_BS.where(is_speech_BS, 0).sum(-1) / num_B.clamp(min=1), num_B > 0

    def _band_powers(self, x_BT: Tensor) -> Tensor:
        """(B, frames, bands)"""
        spectrum = torch.fft.rfft(x_BT.unfold(-1, self.size, self.size // 2) * self.window, self.fft_size)
        real, imaginary = torch.view_as_real(spectrum).unbind(-1)
        return torch.addcmul(real.square(), imaginary, imaginary) @ self.bands


def _speech_first(frames_BMF: Tensor) -> tuple[Tensor, Tensor]:
    """(frames' numbers with those that hold speech first, each in their order (B, M); how many those are (B,))"""
    power_BM = frames_BMF.square().sum(-1)
    is_speech_BM = power_BM > 10 ** (-RANGE_DB / 10) * power_BM.amax(-1, keepdim=True)
    return (~is_speech_BM).byte().argsort(dim=-1, stable=True), is_speech_BM.sum(-1)


def _frames(values_BMF: Tensor, order_BM: Tensor) -> Tensor:
    return values_BMF.gather(1, order_BM[..., None].expand_as(values_BMF))


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True)


def _unit(x: Tensor) -> Tensor:
    """Without its mean over time, of norm 1; constant envelopes, which have nothing in common with any, near 0."""
    level = x.detach().square().mean(-1, keepdim=True)
    x = x - x.mean(-1, keepdim=True)
    return x / (x.square().sum(-1, keepdim=True) + math.sqrt(FLOOR) * level).sqrt()
