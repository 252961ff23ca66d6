"""When a training run ends: at its last step, when its time is up, or when its score has stopped getting better."""

from __future__ import annotations

import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.callbacks.early_stopping import EarlyStoppingReason

from cluster.settings.training import TrainingConfig

CLOCK_EVERY_STEPS = 10


class StopAtLimits(pl.Callback):
    """Ends training at its last step or deadline, and has Lightning validate (and so save) there, whichever step it is.

    deadline_s: on rank 0's clock, seconds since 1970; Lightning's own Timer would begin anew with each restart of the
    workers. Ranks ask the clock together, every few steps, since each time costs a message.
    """

    def __init__(self, deadline_s: float | None) -> None:
        self.deadline_s = deadline_s

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return  # within a step
        if step >= trainer.max_steps or (step % CLOCK_EVERY_STEPS == 0 and self._is_late(trainer)):
            trainer.should_stop = True

    def _is_late(self, trainer: pl.Trainer) -> bool:
        return self.deadline_s is not None and trainer.strategy.broadcast(time.time() >= self.deadline_s)


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
