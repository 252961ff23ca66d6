"""Streams for models that need the whole clip: windows that overlap, with cross-faded seams.

    past            hop             fade  ahead
    |---------------|===============|~~~~~|----------|      window k: hears all of it, gives = and ~
                    |---------------|===============|~~~~~|----------|      window k + 1

Each window hears `past_s` before and `ahead_s` after what it gives, so that recurrent layers have settled, and fades
over into the next one. The last window reaches to the very end, so what fits into one window is that of the whole clip.

With normalize="utterance" the level is that of all that was heard of the stream when the window is run. That is all
that a stream lacks. Speech is near its own long-term level only after seconds; hence `level_ahead_s`, which costs
latency, not work. benchmarks/overlap.py measures what is left of the difference.
"""

import copy

import numpy as np
import torch
from torch import Tensor

from ww_models.checks import require
from ww_models.denoiser import Denoiser
from ww_models.layers.level import LevelNormalizer, StepLevel
from ww_models.layers.step_layers import Memory
from ww_models.streaming.engine import Samples
from ww_models.streaming.lock_step import LockStep

HOP_S, PAST_S, AHEAD_S, LEVEL_AHEAD_S, FADE_S = 1.0, 2.0, 1.0, 8.0, 0.05


class OverlapStreamer(LockStep):
    """A stream, or `batch` streams in lock-step, of any denoiser, in windows. Most chunks finish nothing.

    hop_s           seconds of finished sound that a window gives
    past_s          seconds that it hears before them
    ahead_s         seconds that it hears after them and after the fade
    fade_s          seconds of cross-fade into the next window, at most hop_s
    level_ahead_s   seconds that the level of normalize="utterance" has heard beyond them; others wait for ahead_s

    `latency_samples` is hop_s and the larger of fade_s + ahead_s and level_ahead_s, in whole steps of the network.
    It runs past_s + hop_s + fade_s + ahead_s seconds for each hop_s. The weights are those of now.
    """

    def __init__(
        self,
        model: Denoiser,
        batch: int = 1,
        *,
        hop_s: float = HOP_S,
        past_s: float = PAST_S,
        ahead_s: float = AHEAD_S,
        level_ahead_s: float = LEVEL_AHEAD_S,
        fade_s: float = FADE_S,
    ) -> None:
        super().__init__(batch, model.sample_rate)
        spans = (hop_s, past_s, ahead_s, level_ahead_s, fade_s)
        for name, seconds in zip(
            ("hop_s", "past_s", "ahead_s", "level_ahead_s", "fade_s"), spans, strict=True
        ):
            is_span = 0 <= seconds < float("inf")
            require(is_span, f"{name} is {seconds}: give a number of seconds, 0 or more")
        hint = "give a hop above 0, at least the fade"
        require(hop_s >= fade_s and hop_s > 0, f"hop_s is {hop_s} and fade_s {fade_s}: {hint}")
        # Of a frozen model nobody changes the weights: its streams share them.
        is_frozen = not model.training and not any(p.requires_grad for p in model.parameters())
        self._model = model if is_frozen else copy.deepcopy(model).eval().requires_grad_(False)
        self._device = next(self._model.parameters()).device
        # All windows begin, and all but the last end, where a frame of the network and a hop of the level begin.
        self._hop, self._past, self._after, waited = (
            -(-round(seconds * model.sample_rate) // model.hop_samples) * model.hop_samples
            for seconds in (hop_s, past_s, fade_s + ahead_s, level_ahead_s)
        )
        # What has to be there beyond a window's own part before it is run.
        self._wait = max(self._after, waited) if model.level.mode == "utterance" else self._after
        self._fade = round(fade_s * model.sample_rate)
        self._ramp = np.linspace(0.0, 1.0, self._fade + 2, dtype=np.float32)[1:-1]
        self._heard = np.zeros((batch, self._past + self._hop + self._wait), np.float32)
        self.latency_samples = self._hop + self._wait - 1
        self.reset()

    def reset(self) -> None:
        super().reset()
        level = self._model.level
        self._level = _HeardLevel(level) if level.mode == "utterance" else _FollowedLevel(level)
        # Of self._heard: samples in it; those before the next window's own part; those that no window heard.
        self._num_heard = self._num_past = self._num_new = 0
        self._tail = np.zeros((self.batch, 0), np.float32)

    def _feed(self, samples: Samples) -> list[Samples]:
        finished = []
        while samples.shape[-1]:
            missing = self._num_past + self._hop + self._wait - self._num_heard
            taken, samples = samples[:, :missing], samples[:, missing:]
            self._hear(taken)
            if taken.shape[-1] == missing:
                finished.append(self._window(self._hop, self._after))
                self._move_on()
        return finished

    def _flush(self) -> list[Samples]:
        num_left = self._num_heard - self._num_past
        return [self._window(num_left, 0)] if num_left else []

    def _hear(self, samples: Samples) -> None:
        end = self._num_heard + samples.shape[-1]
        self._heard[:, self._num_heard : end] = samples
        self._num_heard = end
        self._num_new += samples.shape[-1]

    def _window(self, num_own: int, num_after: int) -> Samples:
        """The next window's own part, faded over from the window before."""
        with torch.inference_mode():
            heard = torch.from_numpy(self._heard[:, : self._num_heard]).to(self._device)
            divisor, factor = self._level.scales(heard, self._num_new)
            end = self._num_past + num_own + num_after
            output = self._model.denoise((heard / divisor)[:, None, :end])[:, 0] * factor
            given = output[:, self._num_past :].cpu().numpy()
        num_faded = self._tail.shape[-1]
        own = given[:, :num_own].copy()
        own[:, :num_faded] = self._tail + self._ramp[:num_faded] * (own[:, :num_faded] - self._tail)
        self._tail = given[:, num_own : num_own + self._fade].copy()
        self._num_new = 0
        return own

    def _move_on(self) -> None:
        """To the next window: what it does not hear any more is dropped."""
        num_dropped = max(0, self._num_past + self._hop - self._past)
        self._num_past += self._hop - num_dropped
        num_kept = self._num_heard - num_dropped
        self._heard[:, :num_kept] = self._heard[:, num_dropped : self._num_heard]
        self._num_heard = num_kept


class _HeardLevel:
    """For "utterance": the standard deviation of all that was heard of a stream."""

    def __init__(self, level: LevelNormalizer) -> None:
        self._floor = level.floor
        self._count = 0
        # Doubles: in single precision the sums would stand still after some minutes.
        self._sum_B1: Tensor | float = 0.0
        self._square_sum_B1: Tensor | float = 0.0

    def scales(self, heard_BT: Tensor, num_new: int) -> tuple[Tensor, Tensor]:
        """What a window is divided by before the network, and multiplied by after it."""
        new = heard_BT[:, heard_BT.shape[-1] - num_new :].double()
        self._count += num_new
        self._sum_B1 = self._sum_B1 + new.sum(-1, keepdim=True)
        self._square_sum_B1 = self._square_sum_B1 + new.square().sum(-1, keepdim=True)
        # A single sample has no deviation: there the level is its size.
        deviations = self._square_sum_B1 - (self._sum_B1**2 / self._count if self._count > 1 else 0)
        level = (deviations / max(1, self._count - 1)).clamp(min=0).sqrt().to(heard_BT.dtype)
        return self._floor + level, level


class _FollowedLevel:
    """For "running" and "none": each sample's own level, carried on from window to window."""

    def __init__(self, level: LevelNormalizer) -> None:
        self._step = StepLevel(level, lead_samples=0)
        self._memory: dict[str, Tensor] | None = None
        self._scale_BT: Tensor | None = None

    def scales(self, heard_BT: Tensor, num_new: int) -> tuple[Tensor, Tensor]:
        """What a window is divided by before the network, and multiplied by after it: the same."""
        memory = Memory(self._memory)
        _, scale = self._step(heard_BT[:, heard_BT.shape[-1] - num_new :], memory)
        self._memory = memory.kept
        if scale is None:
            return heard_BT.new_ones(1, 1), heard_BT.new_ones(1, 1)
        known = [] if self._scale_BT is None else [self._scale_BT]
        self._scale_BT = torch.cat([*known, scale], dim=-1)[:, -heard_BT.shape[-1] :]
        return self._scale_BT, self._scale_BT
