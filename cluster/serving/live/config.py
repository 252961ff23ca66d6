"""What live calls may bring and take."""

from __future__ import annotations

import dataclasses

_POSITIVE = (
    "max_channels",
    "min_sample_rate",
    "max_message_bytes",
    "max_unsent_bytes",
    "max_backlog_s",
    "max_waiting_bytes",
    "overrun_ms",
    "idle_s",
    "stuck_s",
    "stats_interval_s",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LiveConfig:
    """Limits of live calls, per replica.

    max_streams: streams at a time, one for each channel of each call; None measures at the start what this machine
        carries in real time.
    max_load: what they may take of one core then; the rest is for peaks.
    max_channels, min_sample_rate, max_sample_rate: of one call; rates in Hz.
    max_message_bytes: of one message; a client with more sends more messages.
    max_backlog_s: sound that the model may have before it; what comes beyond that waits as it came.
    max_waiting_bytes: of that, in memory, or `max_backlog_s` once more where this is more. A server that can hold the
        client back does so long before; elsewhere the session ends.
    overrun_ms: how far the server may be behind before it says so.
    max_unsent_bytes, stuck_s: what a client may leave unread, in bytes and in seconds, before it is cut off.
    idle_s: how long a client may send nothing.
    stats_interval_s: between two `stats` messages.
    """

    max_streams: int | None = None
    max_load: float = 0.7
    max_channels: int = 8
    min_sample_rate: int = 8_000
    max_sample_rate: int = 192_000
    max_message_bytes: int = 256 * 1024
    max_backlog_s: float = 2.0
    max_waiting_bytes: int = 4 * 1024 * 1024
    overrun_ms: float = 250.0
    max_unsent_bytes: int = 4 * 1024 * 1024
    stuck_s: float = 10.0
    idle_s: float = 60.0
    stats_interval_s: float = 1.0

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive; got {getattr(self, name)}")
        if self.max_streams is not None and self.max_streams < 1:
            raise ValueError(f"max_streams must be at least 1, or None to measure it; got {self.max_streams}")
        if not 0 < self.max_load <= 1:
            raise ValueError(
                f"max_load must lie above 0 and at most at 1 (a whole core); got {self.max_load}"
            )
        if self.min_sample_rate > self.max_sample_rate:
            raise ValueError(
                f"min_sample_rate={self.min_sample_rate} lies above max_sample_rate={self.max_sample_rate}"
            )
