"""What an endpoint allows its callers and takes of the machine: plain settings, without what uses them."""

from __future__ import annotations

import dataclasses
from typing import Literal

EVIDENCE_FILE = "evidence.json"  # in the folder of a bundle that was promoted: why
USUAL_PORT = 8000


def _check_positive(config: object, *names: str, unit: str = "") -> None:
    for name in names:
        if not getattr(config, name) > 0:
            raise ValueError(f"{name} must be positive{unit}; got {getattr(config, name)}")


def _check_at_least(config: object, **bounds: float) -> None:
    for name, bound in bounds.items():
        if getattr(config, name) < bound:
            raise ValueError(f"{name} must be at least {bound}; got {getattr(config, name)}")


def _check_rates(config: AudioLimits | LiveConfig) -> None:
    low, high = config.min_sample_rate, config.max_sample_rate
    if low > high:
        raise ValueError(f"min_sample_rate={low} lies above max_sample_rate={high}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ApiKey:
    """name: for logs and metrics; digest: SHA-256 of the key; the limits: None is no limit.

    requests_per_minute: on average; as many may come at once. A WebSocket is one request.
    max_concurrent: requests and WebSockets at the same time.
    """

    name: str
    digest: bytes
    requests_per_minute: int | None = None
    max_concurrent: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class AudioLimits:
    """What one recording may be and what decoding it may take.

    max_seconds, max_channels: larger recordings are answered 413.
    min_sample_rate, max_sample_rate: in Hz; a recording outside is answered 400.
    max_decode_s: seconds of computing; max_decode_bytes: of memory. A file that wants more is answered 400.
    """

    max_seconds: float = 7_200.0
    max_channels: int = 8
    min_sample_rate: int = 4_000
    max_sample_rate: int = 192_000
    max_decode_s: int = 120
    max_decode_bytes: int = 256 * 2**20

    def __post_init__(self) -> None:
        _check_at_least(self, max_channels=1, min_sample_rate=1, max_decode_s=1)
        _check_positive(self, "max_seconds")
        _check_rates(self)
        if self.max_decode_bytes < 64 * 2**20:
            raise ValueError(f"max_decode_bytes must be at least 64 MiB; got {self.max_decode_bytes}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LiveConfig:
    """Limits of live calls, per replica.

    max_streams: streams at a time, one for each channel of each call; None measures at the start what this machine
        carries in real time.
    max_load: what they may take of one core then; the rest is for peaks.
    follows_load: whether a call begins only while steps come in time as things are now; off, to measure overload.
    max_channels, min_sample_rate, max_sample_rate: of one call; rates in Hz.
    max_message_bytes: of one message; a caller with more sends more messages.
    max_backlog_s: sound that the model may have before it; what comes beyond that waits as it came.
    max_waiting_bytes: of that, in memory, or `max_backlog_s` once more where this is more. A server that can hold the
        caller back does so long before; elsewhere the call ends.
    overrun_ms: how far the server may be behind before it says so.
    max_unsent_bytes, stuck_s: what a caller may leave unread, in bytes and in seconds, before it is cut off.
    idle_s: how long a caller may send nothing.
    stats_interval_s: between two `stats` messages.
    """

    max_streams: int | None = None
    max_load: float = 0.7
    follows_load: bool = True
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
        _check_positive(self, "max_channels", "min_sample_rate", "max_message_bytes", "max_unsent_bytes")
        _check_positive(self, "max_backlog_s", "max_waiting_bytes", "overrun_ms", "idle_s", "stuck_s")
        _check_positive(self, "stats_interval_s")
        if self.max_streams is not None and self.max_streams < 1:
            raise ValueError(f"max_streams must be at least 1, or None to measure it; got {self.max_streams}")
        if not 0 < self.max_load <= 1:
            raise ValueError(
                f"max_load must lie above 0 and at most at 1 (a whole core); got {self.max_load}"
            )
        _check_rates(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScalingConfig:
    """How many replicas there are as calls come and go, beside `num_replicas`, which is then the least.

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
        _check_positive(
            self, "target_requests", "upscale_delay_s", "downscale_delay_s", "drain_s", "shutdown_s"
        )
        if self.max_replicas is not None and self.max_replicas < 1:
            raise ValueError(f"max_replicas must be at least 1, or None; got {self.max_replicas}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServingConfig:
    """Where the endpoint listens, what a replica may use, what a request may bring.

    host, port: the address to listen on; 127.0.0.1 is this machine alone, 0.0.0.0 every network it is in;
        port 0 is any free one, None USUAL_PORT or the next that is free.
    num_replicas, cpus_per_replica: copies of the models, and the CPUs that Ray sets aside for each.
    scaling: more replicas when there are more calls, and how one of them goes away.
    precision: of causal models, "fp32" or "int8".
    max_pending: files that one replica holds, those being uploaded included; one more is answered 503.
    max_upload_bytes: larger bodies are answered 413.
    audio, live: what a recording and a live call may be.
    upload_stall_s, reply_stall_s: how long a caller may send, or take, nothing; the first is answered 408. The
        second is seen where sending waits for the caller: with uvicorn alone, not under Ray Serve.
    max_transfer_s: how long an upload, and likewise a reply, may be waited for altogether.
    max_buffered_s: replies of so many seconds of audio are sent when they are whole, with their times.
    api_keys: who may use it (see `auth.py`); without any, everybody who reaches it.
    allowed_origins: of web pages that may use it, beside its own; "*" is every one.
    start_timeout_s: how long the replicas may take until they answer.
    """

    host: str = "127.0.0.1"
    port: int | None = None
    num_replicas: int = 1
    cpus_per_replica: float = 1.0
    scaling: ScalingConfig = dataclasses.field(default_factory=ScalingConfig)
    precision: Literal["fp32", "int8"] = "fp32"
    max_pending: int = 8
    max_upload_bytes: int = 1024 * 2**20
    audio: AudioLimits = dataclasses.field(default_factory=AudioLimits)
    live: LiveConfig = dataclasses.field(default_factory=LiveConfig)
    upload_stall_s: float = 30.0
    reply_stall_s: float = 60.0
    max_transfer_s: float = 3_600.0
    max_buffered_s: float = 30.0
    api_keys: tuple[ApiKey, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    start_timeout_s: float = 120.0

    def __post_init__(self) -> None:
        _check_at_least(self, num_replicas=1, max_pending=1, max_upload_bytes=1, cpus_per_replica=0)
        seconds = ("start_timeout_s", "upload_stall_s", "reply_stall_s", "max_transfer_s")
        _check_positive(self, *seconds, unit=", in seconds")
        most = self.scaling.max_replicas
        if most is not None and most < self.num_replicas:
            raise ValueError(f"max_replicas={most} lies below num_replicas={self.num_replicas}")
        if self.port is not None and not 0 <= self.port <= 65_535:
            raise ValueError(f"port must lie between 0 (any free one) and 65535; got {self.port}")
        for origin in self.allowed_origins:
            scheme, separator, host = origin.partition("://")
            is_origin = scheme in {"http", "https"} and separator and host and "/" not in host
            if origin != "*" and not is_origin:
                what = "expected https://example.org, without a path, or *"
                raise ValueError(f"allowed_origins: {what}; got {origin!r}")
