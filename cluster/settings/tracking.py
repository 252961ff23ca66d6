"""The settings of what is written down of a run, and where."""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """What is written down and where.

    clearml: auto uses a ClearML server where one is configured (CLEARML_API_HOST and keys, or clearml.conf) and none
        otherwise; offline writes a session for `Task.import_offline_session` to upload later; never is never.
    clearml_project: the project its tasks appear in.
    clearml_parent: the id of the task that its tasks belong to, as those of a sweep's runs do. clearml_tags: more of
        them, beside preset, data and commit.
    clearml_close_s: how long the end of a run lets a slow server take what is left (the model, say); what it has not
        taken then becomes an offline session. A server that does not answer at all is given up within seconds.
    log_every_steps: steps between two points of the training curves.
    """

    clearml: Literal["auto", "offline", "never"] = "auto"
    clearml_project: str = "Wave Wizard"
    clearml_parent: str = ""
    clearml_tags: tuple[str, ...] = ()
    clearml_close_s: float = 120.0
    log_every_steps: int = 10

    def __post_init__(self) -> None:
        if self.log_every_steps < 1:
            raise ValueError(f"log_every_steps must be at least 1; got {self.log_every_steps}")
        if not 0 < self.clearml_close_s < float("inf"):
            raise ValueError(f"clearml_close_s must be above 0; got {self.clearml_close_s}")
