"""What an endpoint allows and what it takes of the machine."""

from __future__ import annotations

import dataclasses
from typing import Literal

from cluster.serving.auth import ApiKey
from cluster.serving.deploy.scaling_config import ScalingConfig
from cluster.serving.files.audio import AudioLimits
from cluster.serving.live.config import LiveConfig

_AT_LEAST = {"num_replicas": 1, "max_pending": 1, "max_upload_bytes": 1, "cpus_per_replica": 0}
_POSITIVE = ("start_timeout_s", "upload_stall_s", "reply_stall_s", "max_transfer_s")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServingConfig:
    """Where the endpoint listens, what a replica may use, what a request may bring.

    host, port: the address to listen on; 127.0.0.1 is this machine alone, 0.0.0.0 every network it is in, and
        port 0 any free one.
    num_replicas, cpus_per_replica: copies of the models, and the CPUs that Ray sets aside for each.
    scaling: more replicas when there are more calls, and how one of them goes away.
    precision: of causal models, "fp32" or "int8".
    max_pending: files that one replica holds, those being uploaded included; one more is answered 503.
    max_upload_bytes: larger bodies are answered 413.
    audio: what a recording may be.
    live: of the WebSocket.
    upload_stall_s, reply_stall_s: how long a caller may send, or take, nothing; the first is answered 408. The
        second is seen where sending waits for the caller: with uvicorn alone, not under Ray Serve.
    max_transfer_s: how long an upload, and likewise a reply, may be waited for altogether.
    max_buffered_s: replies of so many seconds of audio are sent when they are whole, with their times.
    api_keys: who may use it (see `auth.py`); without any, everybody who reaches it.
    allowed_origins: of web pages that may use it, beside its own; "*" is every one.
    start_timeout_s: how long the replicas may take until they answer.
    """

    host: str = "127.0.0.1"
    port: int = 8000
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
        for name, least in _AT_LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}; got {getattr(self, name)}")
        for name in _POSITIVE:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, in seconds; got {getattr(self, name)}")
        most = self.scaling.max_replicas
        if most is not None and most < self.num_replicas:
            raise ValueError(f"max_replicas={most} lies below num_replicas={self.num_replicas}")
        if not 0 <= self.port <= 65_535:
            raise ValueError(f"port must lie between 0 (any free one) and 65535; got {self.port}")
        for origin in self.allowed_origins:
            scheme, separator, host = origin.partition("://")
            if origin != "*" and (
                scheme not in {"http", "https"} or not separator or not host or "/" in host
            ):
                raise ValueError(
                    f"allowed_origins: expected https://example.org, without a path, or *; got {origin!r}"
                )
