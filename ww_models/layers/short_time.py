"""Frames of sound as spectra and back, as matrix products: nothing of a later frame, not even rounding, comes in.

A frame is weighed by a sine over its length, the square root of a Hann window, before and after. Its frequencies lie at
odd multiples of half a bin and its phases count from its middle. So the sum of its mirrored early half and its late one
has the real parts, their difference the imaginary ones: two products of half the size. Both matrices (DCT-IV and
DST-IV, weighed) are the transposed ones of the way back.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ShortTime(nn.Module):
    """Spectra of `size` / 2 frequencies, a frame every `hop` samples; `size` is a multiple of 2 `hop`.

    White noise of variance v has a mean power of about 2 v hop / size at each frequency.
    """

    # No part of the state: an exported graph has them as constants, which int8 leaves as they are.
    cosines: Tensor
    sines: Tensor

    def __init__(self, size: int, hop: int) -> None:
        super().__init__()
        self.hop, self.overlap = hop, size // hop
        middle = torch.arange(size // 2, dtype=torch.float64) + 0.5
        angle = 2 * math.pi / size * torch.outer(middle, middle)
        # Of the late half; that of the early one is its mirror image.
        window = (math.pi / size * middle).cos() * math.sqrt(4 / size / self.overlap)
        for name, wave in (("cosines", angle.cos()), ("sines", angle.sin())):
            matrix = (window[:, None] * wave).to(torch.get_default_dtype())
            self.register_buffer(name, matrix, persistent=False)

    @property
    def macs_per_frame(self) -> int:
        """Multiply-accumulates of both ways."""
        return 2 * (self.cosines.numel() + self.sines.numel())

    def analyse(self, blocks: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The first block of each frame, the second, ...: `overlap` times (B, M, hop) -> spectra.

        A spectrum is a real and an imaginary part, (B, M, size / 2) each.
        """
        early, late = _joined(blocks[: self.overlap // 2]).flip(-1), _joined(blocks[self.overlap // 2 :])
        return (early + late) @ self.cosines, (early - late) @ self.sines

    def synthesise(self, real: Tensor, imaginary: Tensor) -> list[Tensor]:
        """Spectra -> blocks of frames, as `analyse` takes them, to be added where frames overlap."""
        even, odd = real @ self.cosines.t(), imaginary @ self.sines.t()
        early, late = (even + odd).flip(-1), even - odd
        if self.overlap == 2:
            return [early, late]
        return [*early.split(self.hop, dim=-1), *late.split(self.hop, dim=-1)]


def _joined(blocks: Sequence[Tensor]) -> Tensor:
    return blocks[0] if len(blocks) == 1 else torch.cat(list(blocks), dim=-1)


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
