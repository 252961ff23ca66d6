"""What an endpoint allows and what it takes of the machine."""

from __future__ import annotations

import dataclasses

_AT_LEAST = {
    "num_replicas": 1,
    "torch_threads": 1,
    "num_workers": 1,
    "max_pending": 1,
    "max_upload_bytes": 1,
    "max_channels": 1,
    "min_sample_rate": 1,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServingConfig:
    """Where the endpoint listens, what a replica may use, what a request may bring.

    host, port: the address to listen on; 127.0.0.1 is this machine alone, 0.0.0.0 every network it is in, and
        port 0 any free one.
    num_replicas, cpus_per_replica: copies of the model, and the CPUs that Ray sets aside for each.
    torch_threads: threads of one clip's arithmetic.
    num_workers: clips that one replica works on at the same time.
    max_pending: requests that one replica holds, those being worked on included; one more is answered 503.
    max_upload_bytes, max_audio_s, max_channels: larger recordings are answered 413.
    min_sample_rate, max_sample_rate: in Hz; a recording outside is answered 400.
    start_timeout_s: how long the replicas may take until they answer.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    num_replicas: int = 1
    cpus_per_replica: float = 1.0
    torch_threads: int = 1
    num_workers: int = 1
    max_pending: int = 8
    max_upload_bytes: int = 64 * 1024 * 1024
    max_audio_s: float = 600.0
    max_channels: int = 8
    min_sample_rate: int = 4_000
    max_sample_rate: int = 192_000
    start_timeout_s: float = 120.0

    def __post_init__(self) -> None:
        for name, least in _AT_LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}; got {getattr(self, name)}")
        for name in ("max_audio_s", "start_timeout_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, in seconds; got {getattr(self, name)}")
        if not 0 <= self.port <= 65_535:
            raise ValueError(f"port must lie between 0 (any free one) and 65535; got {self.port}")
        if self.cpus_per_replica < 0:
            raise ValueError(f"cpus_per_replica must not be negative; got {self.cpus_per_replica}")
        if self.num_workers > self.max_pending:
            raise ValueError(
                f"max_pending={self.max_pending} leaves num_workers={self.num_workers} without work: raise it"
            )
        if self.min_sample_rate > self.max_sample_rate:
            raise ValueError(
                f"min_sample_rate={self.min_sample_rate} lies above max_sample_rate={self.max_sample_rate}"
            )
