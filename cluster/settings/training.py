"""The settings of the training loop: the optimizer, how long, how much at once, and what the run is judged by."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal, get_args

from ww_models.quality import MEASURES

Score = Literal["si_sdr_db", "snr_db", "pesq", "stoi", "loss"]
SCORES: tuple[str, ...] = get_args(Score)  # what a run may be judged by, in the order in which it is shown
PERCEPTUAL = ("pesq", "stoi")  # slow ones, of a subset of the validation mixtures


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Adam with a linear warm-up and, by choice, a cosine decay.

    learning_rate: peak rate. beta1, beta2: Adam's averages.
    warmup_steps: steps over which the rate rises from 0.
    final_rate_fraction: the rate over the peak to which it falls by the end of the last step (so the last step itself
        is done at a slightly higher one), or of `training.budget_minutes`; 1 keeps it constant after the warm-up.
    gradient_clip_norm: gradients with a larger total norm are scaled down to it; 0 never does.
    """

    learning_rate: float = 3e-4
    beta1: float = 0.9
    beta2: float = 0.999
    warmup_steps: int = 0
    final_rate_fraction: float = 1.0
    gradient_clip_norm: float = 0.0

    def decayed(self, progress: float) -> float:
        """The rate over the peak after the warm-up: half a cosine from 1 to `final_rate_fraction`. progress: 0 to 1."""
        cosine = (1 + math.cos(math.pi * min(1.0, progress))) / 2
        return self.final_rate_fraction + (1 - self.final_rate_fraction) * cosine

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be above 0; got {self.learning_rate}")
        if not 0 <= self.final_rate_fraction <= 1:
            raise ValueError(f"final_rate_fraction lies between 0 and 1; got {self.final_rate_fraction}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How long, on how much at once, how often to look, and what decides which weights are best.

    A step is an optimizer step, everywhere: in limits, in intervals, in curves.

    batch_size: items of one batch over all workers. crops_in_a_row: how many of them the model hears as one signal, one
        after another, so that recurrent layers learn to go on longer than a crop; of a worker's share that does not
        divide by it, the greatest common divisor. accumulate: batches whose gradients one step adds up.
    max_steps: steps in all; 0 leaves it to max_epochs. max_epochs: passes over the training segments, 0 for no such
        limit. Whichever ends first decides, and the learning rate's decay ends with it.
    max_minutes: time that one start of the run may take, restarts of workers included; then it validates, saves and
        ends, and `--resume` adds as long again. 0 for no limit.
    budget_minutes: time to train for in all starts of the run together, without validations; then it ends, and the
        decay of the learning rate follows this time instead of steps, so that runs of different speed can be compared.
        Such a run is not repeatable to the digit. 0 for no such limit.
    stop_s: seconds that a run which is told to end (SIGTERM) may take to save where it stands; then it ends without.
    patience: validations without a better `score` after which the run ends; 0 never does.
    score: what best means, of the validation mixtures: si_sdr_db, snr_db, pesq, stoi, or loss.
    validate_every_steps: steps between two validations; each is also a checkpoint, and so is the last step.
    num_val_mixtures: stored validation mixtures to use (0: all); num_pesq_mixtures: how many of them are also scored
        with PESQ and STOI, which are slow.
    ema_decay: of an exponential moving average of the weights, which then is what is validated and shipped; 0 ships
        the weights themselves.
    skip_bad_batches: steps with a loss or gradients that are not finite to leave out before the run stops with
        an error; 0 stops at the first. Above 0 each step is checked, for which a GPU has to wait.
    journal: write down which items each step was trained on (cluster.training.loop.journal).
    compile: torch.compile the model for training.
    precision: 32-true, or bf16-mixed where the device has it; auto chooses bf16-mixed on such GPUs.
    """

    batch_size: int = 32
    crops_in_a_row: int = 1
    accumulate: int = 1
    max_steps: int = 100_000
    max_epochs: float = 0.0
    max_minutes: float = 0.0
    budget_minutes: float = 0.0
    stop_s: float = 25.0
    patience: int = 0
    score: Score = "si_sdr_db"
    validate_every_steps: int = 1000
    num_val_mixtures: int = 0
    num_pesq_mixtures: int = 20
    ema_decay: float = 0.0
    skip_bad_batches: int = 0
    journal: bool = False
    compile: bool = False
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"

    def __post_init__(self) -> None:
        for name in ("batch_size", "crops_in_a_row", "accumulate", "validate_every_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        for name in ("max_steps", "patience", "num_val_mixtures", "num_pesq_mixtures", "skip_bad_batches"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative; got {getattr(self, name)}")
        for name in ("max_epochs", "max_minutes", "budget_minutes"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 (no limit) or above; got {getattr(self, name)}")
        if not 0 < self.stop_s < math.inf:
            raise ValueError(f"stop_s must be above 0 s; got {self.stop_s}")
        if not self.max_steps and not self.max_epochs:
            raise ValueError(
                "max_steps and max_epochs are both 0: one of them must say when training is over"
            )
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay lies between 0 (off) and 1, such as 0.999; got {self.ema_decay}")
        if self.score in PERCEPTUAL and not self.num_pesq_mixtures:
            raise ValueError(
                f"score={self.score} needs num_pesq_mixtures above 0: it would never be measured"
            )

    @property
    def items_per_step(self) -> int:
        """Items of one optimizer step over all workers."""
        return self.accumulate * self.batch_size

    def num_steps(self, num_segments: int) -> int:
        """Steps of the whole run over a corpus of so many training segments."""
        limits = [self.max_steps] if self.max_steps else []
        if self.max_epochs:
            limits.append(max(1, math.ceil(self.max_epochs * num_segments / self.items_per_step)))
        return min(limits)

    @property
    def score_mode(self) -> Literal["min", "max"]:
        """Which way `score` gets better."""
        return "max" if self.score in MEASURES and MEASURES[self.score].higher_is_better else "min"

    def goodness(self, metrics: Mapping[str, float]) -> float:
        """How good a validation was by `score`: the more the better, also of a loss; -inf where it has none."""
        value = metrics.get(self.score, math.nan)
        if math.isnan(value):
            return -math.inf
        return value if self.score_mode == "max" else -value
