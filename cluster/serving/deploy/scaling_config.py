"""How many replicas there are as calls come and go, and how long one of them may take to go away."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScalingConfig:
    """Beside `num_replicas`, which is then the least.

    max_replicas: None keeps their number as it is.
    target_requests: live calls and files of a replica at a time; more of them start another one.
    upscale_delay_s, downscale_delay_s: how long there must be more, or fewer, until a replica is started or stopped.
    drain_s: how long calls and files of a replica that is stopped, while others stay, may go on.
    shutdown_s: the same where the whole endpoint ends.
    """

    max_replicas: int | None = None
    target_requests: float = 8.0
    upscale_delay_s: float = 5.0
    downscale_delay_s: float = 120.0
    drain_s: float = 120.0
    shutdown_s: float = 20.0

    def __post_init__(self) -> None:
        for name in ("target_requests", "upscale_delay_s", "downscale_delay_s", "drain_s", "shutdown_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive; got {getattr(self, name)}")
        if self.max_replicas is not None and self.max_replicas < 1:
            raise ValueError(f"max_replicas must be at least 1, or None; got {self.max_replicas}")
