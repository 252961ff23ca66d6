"""Frames of sound as spectra and back, as matrix products: nothing of a later frame, not even rounding, comes in.

A frame is weighed by a sine over its length, the square root of a Hann window, before and after. Its frequencies lie at
odd multiples of half a bin and its phases count from its middle. So the sum of its late half and its mirrored early
one has the real parts, their difference the imaginary ones: two products of half the size. Both matrices (DCT-IV and
DST-IV) are symmetric and their own inverses, so the way back reads the same memory.
"""

import math

import torch
from torch import Tensor, nn


class ShortTime(nn.Module):
    """Spectra of `size` / 2 frequencies, a frame every `hop` samples; `size` is a multiple of 2 `hop`.

    White noise of variance v has a mean power of about 2 v hop / size at each frequency.
    """

    fixed_cosines: Tensor
    fixed_sines: Tensor
    window: Tensor

    def __init__(self, size: int, hop: int) -> None:
        super().__init__()
        self.hop, self.overlap = hop, size // hop
        middle = torch.arange(size // 2, dtype=torch.float64) + 0.5
        angle = 2 * math.pi / size * torch.outer(middle, middle)
        scale = math.sqrt(4 / size)
        # Of the late half; that of the early one is its mirror image.
        window = (math.pi / size * middle).cos() / math.sqrt(self.overlap)
        constants = {
            "fixed_cosines": scale * angle.cos(),
            "fixed_sines": scale * angle.sin(),
            "window": window,
        }
        for name, value in constants.items():
            self.register_buffer(name, value.to(torch.get_default_dtype()), persistent=False)

    @property
    def past_blocks(self) -> int:
        """Blocks of `hop` samples before the one that a frame ends with."""
        return self.overlap - 1

    @property
    def macs_per_frame(self) -> int:
        """Multiply-accumulates of both ways."""
        return 2 * (self.fixed_cosines.numel() + self.fixed_sines.numel())

    def analyse(self, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """(B, past_blocks + M, hop) -> real and imaginary parts (B, M, size / 2) of the frames that end with them."""
        early, late = self._half(blocks, 0).flip(-1), self._half(blocks, self.overlap // 2)
        even, odd = (early + late) * self.window, (early - late) * self.window
        return even @ self.fixed_cosines, odd @ self.fixed_sines

    def synthesise(self, real: Tensor, imaginary: Tensor) -> Tensor:
        """(B, M, size / 2) each -> frames (B, M, size), to be added where they overlap."""
        even, odd = real @ self.fixed_cosines, imaginary @ self.fixed_sines
        return torch.cat([((even + odd) * self.window).flip(-1), (even - odd) * self.window], dim=-1)

    def overlap_add(self, frames: Tensor) -> Tensor:
        """(B, past_blocks + M, size) -> (B, M, hop): the blocks to which no later frame adds."""
        num_blocks = int(frames.shape[1]) - self.past_blocks
        # A block is the last of the oldest frame that reaches it, and the first of the newest.
        parts = reversed(frames.split(self.hop, dim=-1))
        total, *others = (part[:, i : i + num_blocks] for i, part in enumerate(parts))
        for other in others:
            total = total + other
        return total

    def _half(self, blocks: Tensor, first: int) -> Tensor:
        """(B, M, size / 2): half of each frame, from its block `first` on."""
        num_frames = int(blocks.shape[1]) - self.past_blocks
        parts = [blocks[:, i : i + num_frames] for i in range(first, first + self.overlap // 2)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def band_shares(num_bands: int, num_bins: int, bin_hz: float) -> Tensor:
    """(bands, bins), double: how much of each bin is each band's; triangles, those of a bin add up to 1.

    Bands are evenly spaced on the scale of equivalent rectangular bandwidths (Glasberg and Moore, 1990), but never
    nearer to each other than a bin: at low frequencies bands are bins. Needs 2 <= num_bands <= num_bins.
    """
    last = num_bins - 1
    index = torch.arange(num_bands, dtype=torch.float64)
    top_erb = math.log1p(0.00437 * last * bin_hz)
    place = torch.expm1(index / (num_bands - 1) * top_erb) / (0.00437 * bin_hz)
    centre = (place - index).cummax(0).values.clamp(max=last - (num_bands - 1)) + index
    distance = torch.arange(num_bins, dtype=torch.float64) - centre[:, None]
    gap = centre.diff()
    one = gap.new_ones(1)
    below, above = torch.cat([one, gap])[:, None], torch.cat([gap, one])[:, None]
    return (1 - torch.where(distance < 0, -distance / below, distance / above)).clamp(min=0)
