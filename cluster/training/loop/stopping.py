"""When a training run ends: at its last step, when its time is up, when its score has stopped getting better, or when
it is told to.
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
    workers. is_told_to_stop: asked on rank 0; then the run is cut: it ends at once, where nothing but its state is
    saved. A validation would take too long, and not be one of those that a run which goes on has.
    All ranks look together, about once a second, since each time costs a message.
    """

    def __init__(self, deadline_s: float | None, is_told_to_stop: Callable[[], bool] = lambda: False) -> None:
        self.deadline_s, self.is_told_to_stop = deadline_s, is_told_to_stop
        self.is_cut = False
        self._look_at_step, self._looked_at_step, self._looked_s = 0, 0, 0.0

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return  # within a step
        if step >= trainer.max_steps:
            trainer.should_stop = True
        elif step >= self._look_at_step:
            is_late, is_told, self._look_at_step = trainer.strategy.broadcast(self._look(trainer, step))
            trainer.should_stop |= is_late or is_told
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


def was_stopped(callback_states: dict[str, Any]) -> bool:
    """Whether early stopping had ended the run whose checkpoint holds these states."""
    going = EarlyStoppingReason.NOT_STOPPED.value
    return any(state.get("stopping_reason", going) != going for state in callback_states.values() if state)
