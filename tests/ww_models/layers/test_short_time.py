"""Spectra as matrix products: against their definition, and there and back; bands that share bins."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ww_models.layers.short_time import ShortTime, band_shares

SIZES = [(512, 256), (512, 128), (24, 4), (2, 1)]


def frames_of(signal: Tensor, size: int, hop: int) -> list[Tensor]:
    """(B, T) -> the blocks of frames that end with each hop, as `analyse` takes them."""
    blocks = F.pad(signal, (size - hop, 0)).unflatten(-1, (-1, hop))
    overlap = size // hop
    num_frames = blocks.shape[1] - overlap + 1
    return [blocks[:, i : i + num_frames] for i in range(overlap)]


@pytest.mark.parametrize(("size", "hop"), SIZES)
def test_spectra_are_what_they_are_said_to_be(size: int, hop: int) -> None:
    signal = torch.randn(2, 9 * size, dtype=torch.float64)
    real, imaginary = ShortTime(size, hop).double().analyse(frames_of(signal, size, hop))
    time = torch.arange(size, dtype=torch.float64) + 0.5
    window = (math.pi / size * time).sin() * math.sqrt(4 / size * hop / size)
    frequency = 2 * math.pi / size * (torch.arange(size // 2, dtype=torch.float64) + 0.5)
    waves = torch.exp(-1j * torch.outer(time - size / 2, frequency))
    frames = F.pad(signal, (size - hop, 0)).unfold(-1, size, hop) * window
    expected = frames.to(waves.dtype) @ waves
    torch.testing.assert_close(torch.complex(real, imaginary), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("size", "hop"), SIZES)
def test_there_and_back_is_the_signal(size: int, hop: int) -> None:
    signal, short_time = torch.randn(2, 9 * size), ShortTime(size, hop)
    blocks = short_time.synthesise(*short_time.analyse(frames_of(signal, size, hop)))
    past = short_time.overlap - 1
    num_blocks = blocks[0].shape[1] - past
    back = sum(block[:, past - i : past - i + num_blocks] for i, block in enumerate(blocks)).flatten(1)
    assert back.shape[1] == 9 * size - past * hop
    torch.testing.assert_close(back, signal[:, : back.shape[1]], rtol=0, atol=5e-6)


@pytest.mark.parametrize(("size", "hop"), [(512, 256), (512, 128)])
def test_noise_has_the_power_that_is_said(size: int, hop: int) -> None:
    spectrum = ShortTime(size, hop).analyse(frames_of(0.1 * torch.randn(1, 400 * size), size, hop))
    power = sum(part[:, 8:].square() for part in spectrum).mean()
    assert float(power) == pytest.approx(0.01 * 2 * hop / size, rel=0.05)


@pytest.mark.parametrize(
    ("num_bands", "num_bins", "bin_hz"),
    [(64, 256, 31.25), (2, 3, 31.25), (256, 256, 31.25), (40, 768, 31.25)],
)
def test_bands_share_all_bins(num_bands: int, num_bins: int, bin_hz: float) -> None:
    shares = band_shares(num_bands, num_bins, bin_hz)
    assert shares.shape == (num_bands, num_bins)
    assert shares.min() >= 0
    torch.testing.assert_close(shares.sum(0), torch.ones(num_bins, dtype=torch.float64))
    assert shares.sum(1).min() >= 0.5
    # Each reaches further up than the one before, and no bin belongs to more than two.
    centre = (shares * torch.arange(num_bins)).sum(1) / shares.sum(1)
    assert centre.diff().min() > 0
    assert (shares > 0).sum(0).max() <= 2


def test_bands_are_bins_at_low_frequencies_and_wide_at_high_ones() -> None:
    width = band_shares(64, 256, 31.25).sum(1)
    torch.testing.assert_close(width[:20], torch.ones(20, dtype=torch.float64))
    assert width[-2] > 10
    # At a lower rate a bin is narrower, so there are fewer bands of one bin.
    assert band_shares(64, 256, 15.6).sum(1)[-2] < width[-2]
