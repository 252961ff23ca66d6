"""When a training run ends: at its last step, when its time is up or used, when its score has stopped getting better,
or when it is told to.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.callbacks.early_stopping import EarlyStoppingReason

from cluster.settings.training import TrainingConfig

_LOOK_EVERY_S, _LOOK_EVERY_STEPS = 1.0, 50  # whichever is sooner, and after at least one step


class StopAtLimits(pl.Callback):
    """Ends training at its last step or deadline, and has Lightning validate (and so save) there, whichever step it is.

    deadline_s: on rank 0's clock, seconds since 1970; Lightning's own Timer would begin anew with each restart of the
    workers. budget_s: time to train for, validations left out and earlier starts counted; on all ranks the module's
    `share_used` is how much of it is used. is_told_to_stop: asked on rank 0; then the run is cut: it ends at once,
    where nothing but its state is saved. A validation would take too long, and not be one of those that a run which
    goes on has.
    All ranks look together, about once a second, since each time costs a message.
    """

    def __init__(
        self,
        deadline_s: float | None,
        is_told_to_stop: Callable[[], bool] = lambda: False,
        budget_s: float = 0.0,
    ) -> None:
        self.deadline_s, self.is_told_to_stop, self.budget_s = deadline_s, is_told_to_stop, budget_s
        self.is_cut = False
        self._look_at_step, self._looked_at_step, self._looked_s = 0, 0, 0.0
        self._trained_s = 0.0
        self._since_s: float | None = None  # while training

    @property
    def trained_s(self) -> float:
        """Seconds of training in all starts of the run; rank 0's count."""
        return self._trained_s + (0.0 if self._since_s is None else time.monotonic() - self._since_s)

    def state_dict(self) -> dict[str, Any]:
        return {"trained_s": self.trained_s}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._trained_s = state_dict["trained_s"]

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._since_s = time.monotonic()
        self._share_time(trainer, module, trainer.strategy.broadcast(self.trained_s))

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._trained_s, self._since_s = self.trained_s, None

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._since_s = time.monotonic()

    def _share_time(self, trainer: pl.Trainer, module: Any, trained_s: float) -> None:
        """What is used of the budget, as rank 0 has told."""
        if self.budget_s:
            module.share_used = trained_s / self.budget_s
            trainer.should_stop |= trained_s >= self.budget_s

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return  # within a step
        if step >= trainer.max_steps:
            trainer.should_stop = True
        elif step >= self._look_at_step:
            look = trainer.strategy.broadcast((*self._look(trainer, step), self.trained_s))
            is_late, is_told, self._look_at_step, trained_s = look
            trainer.should_stop |= is_late or is_told
            self._share_time(trainer, module, trained_s)
            # A step that is validated anyway is saved by that.
            if is_told and (batch_idx + 1) % int(trainer.val_check_batch or 1):
                self.is_cut, trainer.limit_val_batches = True, 0

    def _look(self, trainer: pl.Trainer, step: int) -> tuple[bool, bool, int]:
        """Whether the time is up, whether the run is told to stop, and at which step to look again."""
        if not trainer.is_global_zero:
            return False, False, 0  # rank 0's counts
        now, steps = time.monotonic(), step - self._looked_at_step
        steps_per_s = steps / max(now - self._looked_s, 1e-3) if self._looked_at_step else 0.0
        self._looked_at_step, self._looked_s = step, now
        again = step + min(max(1, int(_LOOK_EVERY_S * steps_per_s)), _LOOK_EVERY_STEPS)
        return self.deadline_s is not None and time.time() >= self.deadline_s, self.is_told_to_stop(), again


def trained_s(trainer: pl.Trainer) -> float:
    """Seconds of training in all starts of the run so far, validations left out; by this rank's clock."""
    return next((one.trained_s for one in trainer.callbacks if isinstance(one, StopAtLimits)), 0.0)  # type: ignore[attr-defined]


def is_cut(trainer: pl.Trainer) -> bool:
    """Whether the step that was just done is the last because the run was told to stop; it is not validated."""
    return any(isinstance(callback, StopAtLimits) and callback.is_cut for callback in trainer.callbacks)  # type: ignore[attr-defined]


class StopWithoutGain(EarlyStopping):
    """Lightning's early stopping on the score that the run is judged by; its state is in every checkpoint."""

    def __init__(self, training: TrainingConfig) -> None:
        super().__init__(
            monitor=training.score,
            mode=training.score_mode,
            patience=training.patience,
            check_on_train_epoch_end=False,
            check_finite=False,  # a score that is not finite is one that is not better
        )


def was_stopped(callback_states: dict[str, Any], budget_s: float = 0.0) -> bool:
    """Whether early stopping or a used budget had ended the run whose checkpoint holds these states."""
    going = EarlyStoppingReason.NOT_STOPPED.value
    states = [state for state in callback_states.values() if state]
    is_used = bool(budget_s) and any(state.get("trained_s", 0.0) >= budget_s for state in states)
    return is_used or any(state.get("stopping_reason", going) != going for state in states)
