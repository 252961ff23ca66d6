"""Resampling by 1, 2 or 4, up and down, with the Hann-windowed sinc of `denoiser` (arXiv 2006.12847).

`denoiser` resamples by four as twice by two. Here it is one pass, blocks of the signal times one matrix, which takes a
training step a fraction of the time of convolutions with a single channel.

Between its two passes `denoiser` cuts the signal to its length: what rings out of the first pass before the first
sample and after the last is not seen by the second. One pass knows no such cut, so at either end a small matrix adds
what it would have changed. All are products with constants, not an FFT: nothing of samples further ahead than the
filter looks, not even rounding, comes into a sample.
"""

from collections.abc import Callable
from math import ceil, gcd

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ww_models.checks import require
from ww_models.layers.step import started
from ww_models.layers.step_layers import Memory, Pace, StepConv

# Samples at the lower rate that one row of the product gives: with 16 more memory is moved, with 64 more zeros are
# multiplied. A streaming step has few samples at a time.
BLOCK, STEP_BLOCK = 32, 16


class SincResampler(nn.Module):
    """Resampling by `factor` (1, 2 or 4), up and down.

    zeros      zero crossings of the sinc on each side
    lookahead  how many of the `zeros` taps that lie in the future are kept; all of them unless given
    kernel     (1, 1, zeros + lookahead), of one pass by two: weighs samples to give the one between two of them
    """

    kernel: Tensor

    def __init__(self, factor: int, zeros: int = 56, lookahead: int | None = None) -> None:
        super().__init__()
        require(factor in (1, 2, 4), f"the factor of a resampler is {factor}: give 1, 2 or 4")
        self.factor, self.zeros = factor, zeros
        self.num_passes = factor.bit_length() - 1  # by two, each way, in `denoiser`
        self.lookahead = zeros if lookahead is None else lookahead
        time = torch.arange(-zeros + 0.5, zeros, 1.0)
        window = torch.hann_window(4 * zeros + 1, periodic=False)[1::2]
        kernel = torch.sinc(time) * window
        # Of a symmetric kernel the first half weighs the past, the second the future.
        self.register_buffer("kernel", kernel[None, None, : zeros + self.lookahead], persistent=False)
        self._up: _OnePass | None = None
        self._down: _OnePass | None = None
        if factor > 1:
            # Reach in samples of the lower rate: each pass looks half as far as the one before.
            reach = (ceil(2 * zeros * (1 - 1 / factor)), ceil(2 * self.lookahead * (1 - 1 / factor)))
            self._up = _OnePass(self._up_by_two, 1, factor, *reach)
            self._down = _OnePass(self._down_by_two, factor, 1, *reach)

    @property
    def macs_per_sample(self) -> float:
        """Multiply-accumulates per sample of the lower rate, both ways, the zeros of the blocks included."""
        return sum(one_pass.block.numel() / BLOCK for one_pass in (self._up, self._down) if one_pass)

    def up(self, x: Tensor) -> Tensor:
        """(B, 1, T) -> (B, 1, factor * T): every factor-th sample is the input's, the others lie between."""
        return x if self._up is None else self._up(x)

    def down(self, x: Tensor) -> Tensor:
        """(B, 1, T) -> (B, 1, ceil(T / factor)): zeros follow a length that is no multiple of `factor`."""
        return x if self._down is None else self._down(x)

    def last_up_input(self, n: int, num_passes: int | None = None) -> int:
        """Index of the last input sample that sample n of `up` needs (after `num_passes` of its passes)."""
        num_passes = self.num_passes if num_passes is None else num_passes
        if num_passes == 0:
            return n
        between = n // 2 + (self.lookahead if n % 2 else 0)
        # Of two neighbours it is the odd one that looks ahead; an even n is one sample of the pass before.
        return max(self.last_up_input(between - i, num_passes - 1) for i in range(1 + n % 2))

    def last_down_input(self, n: int) -> int:
        """Index of the last input sample that sample n of `down` needs."""
        for _ in range(self.num_passes):
            n = 2 * n + 2 * self.lookahead - 1
        return n

    def _up_by_two(self, x_KT: Tensor) -> Tensor:
        """The passes of `denoiser` one after the other, for a few short signals at once."""
        for _ in range(self.num_passes):
            between = x_KT @ self._weights(x_KT.shape[-1], oldest=1 - self.zeros)
            x_KT = torch.stack([x_KT, between], dim=-1).flatten(-2)
        return x_KT

    def _down_by_two(self, x_KT: Tensor) -> Tensor:
        for _ in range(self.num_passes):
            x_KT = F.pad(x_KT, (0, x_KT.shape[-1] % 2))
            even, odd = x_KT[:, ::2], x_KT[:, 1::2]
            x_KT = 0.5 * (even + odd @ self._weights(odd.shape[-1], oldest=-self.zeros))
        return x_KT

    def _weights(self, length: int, oldest: int) -> Tensor:
        """(length, length): what each sample weighs in each of the filtered; `oldest`: of the first tap."""
        taps = self.kernel.flatten().double()
        sample = torch.arange(length)
        tap = sample[:, None] - sample - oldest
        return torch.where((tap >= 0) & (tap < len(taps)), taps[tap.clamp(0, len(taps) - 1)], 0)


class _OnePass(nn.Module):
    """(B, 1, T) -> (B, 1, ceil(T / in_rate) * out_rate): the numbers of `passes`, linear filters, at once.

    `past` and `future`: how far the passes reach together at most, in units of `in_rate` samples. Every matrix is
    read off the passes by sending unit impulses through them, so that the filters are written down in one place.
    """

    block: Tensor
    start: Tensor
    end: Tensor
    ragged_end: Tensor

    def __init__(
        self, passes: Callable[[Tensor], Tensor], in_rate: int, out_rate: int, past: int, future: int
    ) -> None:
        super().__init__()
        self.in_rate, self.out_rate, self.past, self.future = in_rate, out_rate, past, future
        far = max(past, future)

        def responses(units: int, before: int, after: int, missing: int = 0) -> Tensor:
            """To impulses in `units`, with zeros before and after, of which the last samples are missing."""
            impulses = torch.eye(units * in_rate, dtype=torch.float64)
            return passes(F.pad(impulses, (before * in_rate, after * in_rate - missing)))

        inside = responses(past + BLOCK + future, 0, 0)[:, past * out_rate : (past + BLOCK) * out_rate]
        start = responses(future, 0, far) - responses(future, far, far)[:, far * out_rate :]
        endless = responses(past, far, far)[:, : -far * out_rate]
        end = responses(past, far, 0) - endless
        ragged_end = responses(past, far, 0, missing=in_rate // 2) - endless
        for name, matrix in (
            ("block", inside),
            # Where the cut changes nothing the two differ by rounding: exactly 0, or later samples leak.
            ("start", F.hardshrink(start[:, : past * out_rate], 1e-12)),
            ("end", F.hardshrink(end[:, -future * out_rate :], 1e-12)),
            ("ragged_end", F.hardshrink(ragged_end[:, -future * out_rate :], 1e-12)),
        ):
            self.register_buffer(name, matrix.to(torch.get_default_dtype()).contiguous(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        missing = -x.shape[-1] % self.in_rate
        x = F.pad(x, (0, missing)) if missing else x
        units = x.shape[-1] // self.in_rate
        padding = self.past, -units % BLOCK + self.future
        window = self.in_rate * (self.past + BLOCK + self.future)
        windows = F.pad(x, [self.in_rate * side for side in padding]).unfold(-1, window, self.in_rate * BLOCK)
        y = (windows @ self.block).flatten(-2)[..., : self.out_rate * units]
        # Padding by a negative number cuts: the first `future` and the last `past` units, zeros where x is short.
        at_start = F.pad(x, (0, self.in_rate * (self.future - units))) @ self.start
        # Half a block or more of samples less: the passes by two cut one sample earlier between them.
        end = self.ragged_end if 2 * missing >= self.in_rate > 1 else self.end
        at_end = F.pad(x, (self.in_rate * (self.past - units), 0)) @ end
        y = y + F.pad(at_start, (0, self.out_rate * (units - self.past)))
        return y + F.pad(at_end, (self.out_rate * (units - self.future), 0))


class StepUpsampler(nn.Module):
    """`SincResampler.up` as part of a streaming step, in passes by two, each cut at the first sample."""

    def __init__(self, resampler: SincResampler, pace: Pace) -> None:
        """pace: of what comes out"""
        super().__init__()
        self.paces = [pace]
        for _ in range(resampler.num_passes):
            after = self.paces[0]
            self.paces.insert(0, Pace(after.rows // 2, (after.newest - 1) // 2 + resampler.lookahead))
        self.passes = nn.ModuleList()
        for index, after in enumerate(self.paces[1:]):
            # Rows come in pairs: a sample and the one half-way to the next, or that one and the next.
            weight = torch.zeros(resampler.zeros + resampler.lookahead, 1, 2)
            ends_between = after.newest % 2
            weight[resampler.zeros - ends_between, 0, 1 - ends_between] = 1.0
            weight[:, 0, ends_between] = resampler.kernel[0, 0]
            block = gcd(after.rows // 2, STEP_BLOCK)
            self.passes.append(StepConv(f"up.{index}", weight, None, block=block))

    def forward(self, x: Tensor, age: Tensor, memory: Memory) -> Tensor:
        """(B, n, 1) -> (B, factor * n, 1)"""
        for index, up in enumerate(self.passes):
            if index:
                x = x * started(age, self.paces[index])
            x = up(x, memory).reshape(-1, 2 * self.paces[index].rows, 1)
        return x


class StepDownsampler(nn.Module):
    """`SincResampler.down` as part of a streaming step, in passes by two, each cut at the first sample."""

    def __init__(self, resampler: SincResampler, pace: Pace) -> None:
        super().__init__()
        self.paces = [pace]
        self.passes = nn.ModuleList()
        reach = 2 * (resampler.zeros + resampler.lookahead) - 1
        for index in range(resampler.num_passes):
            # After an even newest sample there is one more than the newest output needs.
            newest, spare = divmod(pace.newest - (2 * resampler.lookahead - 1), 2)
            weight = torch.zeros(reach + spare, 1, 1)
            weight[:reach:2, 0, 0] = 0.5 * resampler.kernel[0, 0]
            weight[2 * resampler.zeros - 1] = 0.5
            block = gcd(pace.rows // 2, STEP_BLOCK)
            self.passes.append(StepConv(f"down.{index}", weight, None, stride=2, block=block))
            pace = Pace(pace.rows // 2, newest)
            self.paces.append(pace)

    def forward(self, x: Tensor, age: Tensor, memory: Memory) -> Tensor:
        """(B, factor * n, 1) -> (B, n, 1)"""
        for index, down in enumerate(self.passes):
            x = down(x * started(age, self.paces[index]), memory)
        return x
