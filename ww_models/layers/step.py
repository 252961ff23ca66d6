"""One step of a stream as a pure function: (chunk, state) -> (chunk, state), every shape fixed but the batch.

It runs in torch, exports to ONNX, and advances any number of streams at once, since the state has the batch first.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ww_models.layers.level import LevelNormalizer, StepLevel
from ww_models.layers.step_layers import Memory, Pace, StepRecurrent

AGE = "age"
Layers = Iterable[nn.Module]


class StreamingStep(nn.Module, ABC):
    """Base. A subclass sets the weights up and gives `network`.

    level, residual   of the model
    hop_samples       samples in and out of a step
    lead_samples      zeros that a stream starts with, before its first sample
    lag_samples       outputs that come before that of the first sample, and are dropped
    """

    def __init__(
        self, level: LevelNormalizer, residual: bool, *, hop_samples: int, lead_samples: int, lag_samples: int
    ) -> None:
        super().__init__()
        self.hop_samples, self.lead_samples, self.lag_samples = hop_samples, lead_samples, lag_samples
        # The age of a stream tells its first steps from all others, where no layer has rows before row 0 any more.
        self.max_age = lag_samples // hop_samples + 2.0
        self.residual = residual
        self.level = StepLevel(level, lead_samples)

    @abstractmethod
    def network(self, scaled: Tensor, memory: Memory) -> Tensor:
        """level-normalised (B, hop) -> (B, hop)"""

    def age(self, scaled: Tensor, memory: Memory) -> Tensor:
        """Steps before this one, up to `max_age`, (B, 1, 1): for `network` to call once, if at all."""
        age = memory.recall(AGE, scaled, (1, 1))
        memory.kept[AGE] = (age + 1).clamp(max=self.max_age)
        return age

    def forward(self, chunk: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """chunk (B, hop_samples) and what the step before returned -> (B, hop_samples), state for the next."""
        memory = Memory(state)
        return self._run(chunk, memory), memory.kept

    @torch.no_grad()
    def initial_state(self, batch: int) -> dict[str, Tensor]:
        """The state of streams that have heard nothing."""
        memory = Memory()
        self._run(torch.zeros(1, self.hop_samples), memory)
        kept, initial = memory.kept.items(), memory.initial
        return {name: torch.full((batch, *value.shape[1:]), initial[name]) for name, value in kept}

    def _run(self, chunk: Tensor, memory: Memory) -> Tensor:
        scaled, scale = self.level(chunk, memory)
        estimate = self.network(scaled, memory)
        delay = self.lag_samples - self.lead_samples
        if self.residual:
            estimate = estimate + self._delayed("residual", scaled, delay, memory)
        return estimate if scale is None else estimate * self._delayed("scale", scale, delay, memory)

    @staticmethod
    def _delayed(name: str, samples: Tensor, delay: int, memory: Memory) -> Tensor:
        """(B, hop) -> (B, hop), `delay` samples later."""
        return memory.delay(name, samples[..., None], delay).flatten(1)


class StepU(nn.Module):
    """Down through strided convolutions, a recurrent middle, and up again, where each skip is added.

    pace, kernel, stride   of what comes in; of every level
    encoder                modules (x, memory) -> x, outermost first
    decoder                modules (x, is_on, memory) -> x, innermost first; is_on is 0 before the clip, to add nothing
    last_pace              of what comes out: the rows that no later frame adds to
    """

    def __init__(
        self, pace: Pace, encoder: Layers, middle: StepRecurrent, decoder: Layers, *, kernel: int, stride: int
    ) -> None:
        super().__init__()
        self.encoder, self.decoder, self.middle = nn.ModuleList(encoder), nn.ModuleList(decoder), middle
        encoded = []
        for _ in self.encoder:
            pace = pace.conv(kernel, stride)
            encoded.append(pace)
        self.frames = pace
        # By how many rows each skip waits for the decoder, innermost first.
        self.skip_delays = []
        for skip in reversed(encoded):
            self.skip_delays.append(skip.newest - pace.newest)
            pace = pace.conv_transpose(stride)
        self.last_pace = pace

    def forward(self, x: Tensor, age: Tensor, memory: Memory) -> Tensor:
        """(B, n, 1), steps before this one (B, 1, 1) -> (B, n, 1)"""
        is_on, skips = alive(age, self.frames), []
        for encode in self.encoder:
            x = encode(x, memory)
            skips.append(x)
        x = self.middle(x, is_on, memory)
        for level, (decode, delay) in enumerate(zip(self.decoder, self.skip_delays, strict=True)):
            x = decode(x + memory.delay(f"skip.{level}", skips.pop(), delay), is_on, memory)
        return x


def started(age: Tensor, pace: Pace) -> Tensor:
    """(B, 1, 1) -> (B, rows, 1): 1 for the rows of this step from row 0 on, 0 for those before it."""
    index = torch.arange(pace.rows, dtype=age.dtype) + (pace.newest - pace.rows + 1)
    return (age * pace.rows + (index[:, None] + 1)).clamp(0.0, 1.0)


def alive(age: Tensor, pace: Pace) -> Tensor:
    """(B, 1, 1) -> (B, 1, 1): the same for a layer whose row 0 comes first in its step."""
    steps_before, rest = divmod(pace.rows - 1 - pace.newest, pace.rows)
    assert rest == 0, "row 0 has to be the first of a step"
    return (age - (steps_before - 1)).clamp(0.0, 1.0)
