"""What a replica tells about its requests: a line of JSON for each, and metrics at Ray's Prometheus endpoint."""

from __future__ import annotations

import functools
import json
import logging
import sys
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)

_SECONDS = [0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 100, 300, 1000]
_FACTORS = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5]


def _metric(kind: str, name: str, description: str, tags: tuple[str, ...], *buckets: float) -> Any:
    """The metric of this name, None outside Ray."""
    ray = sys.modules.get("ray")  # a replica of Ray Serve has it; others need not load it
    return _made(kind, name, description, tags, *buckets) if ray and ray.is_initialized() else None


@functools.cache
def _made(kind: str, name: str, description: str, tags: tuple[str, ...], *buckets: float) -> Any:
    from ray.util import metrics

    options = {"boundaries": list(buckets)} if buckets else {}
    return getattr(metrics, kind)(name, description=description, tag_keys=tags, **options)


def count(name: str, description: str, tags: dict[str, str], amount: float = 1.0) -> None:
    """Adds to a counter. Like the others below it does nothing outside Ray."""
    if amount > 0 and (counter := _metric("Counter", name, description, tuple(tags))):
        counter.inc(amount, tags=tags)


def gauge(name: str, description: str, value: float) -> None:
    """Sets what is so right now."""
    if found := _metric("Gauge", name, description, ()):
        found.set(value)


def observe(name: str, description: str, tags: dict[str, str], value: float, buckets: list[float]) -> None:
    """Adds a value to a histogram."""
    if histogram := _metric("Histogram", name, description, tuple(tags), *buckets):
        histogram.observe(value, tags=tags)


class RequestLog:
    """A line and a few numbers for each HTTP request, when its reply is over.

    The endpoint adds what it knows to `scope["state"]["facts"]`: the model, the seconds of audio, the key's name.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        facts: dict[str, Any] = scope.setdefault("state", {}).setdefault("facts", {})
        status, began = 0, time.perf_counter()

        async def send_and_look(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_and_look)
        finally:
            seconds = time.perf_counter() - began
            self._tell(scope, status, seconds, facts)

    def _tell(self, scope: Scope, status: int, seconds: float, facts: dict[str, Any]) -> None:
        # The route, not the path: callers invent paths, and each would be a metric of its own.
        path = getattr(scope.get("route"), "path", "other")
        line = {
            "request_id": scope["state"].get("request_id"),
            "method": scope["method"],
            "path": path,
            "status": status,  # 0: the caller left before there was one
            "seconds": round(seconds, 4),
            **facts,
        }
        logger.info(json.dumps(line))
        count("ww_requests", "HTTP requests answered", {"path": path, "status": str(status)})
        observe(
            "ww_request_seconds", "From a request to the end of its reply", {"path": path}, seconds, _SECONDS
        )
        if "audio_s" in facts:
            tags, factor = {"model": facts["model"]}, facts["real_time_factor"]
            count("ww_file_audio_seconds", "Seconds of audio in files denoised", tags, facts["audio_s"])
            observe("ww_file_real_time_factor", "Seconds of work per second of audio", tags, factor, _FACTORS)
