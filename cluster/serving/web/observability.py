"""What a replica reports about its requests: a line of JSON for each, and metrics at Ray's Prometheus endpoint."""

from __future__ import annotations

import functools
import json
import logging
import re
import sys
import time
import uuid
from collections.abc import Sequence
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cluster.serving.web.error_replies import fault_reply

logger = logging.getLogger(__name__)

_SECONDS = [0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 100, 300, 1000]
_FACTORS = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5]


_METHODS = {"Counter": "inc", "Gauge": "set", "Histogram": "observe"}


def record(
    kind: str, name: str, description: str, value: float, buckets: Sequence[float] = (), **tags: str
) -> None:
    """Adds to a Counter or Histogram, or sets a Gauge; outside Ray nothing."""
    ray = sys.modules.get("ray")  # a replica of Ray Serve has it; others need not load it
    if ray and ray.is_initialized():
        metric = _metric(kind, name, description, tuple(tags), tuple(buckets))
        getattr(metric, _METHODS[kind])(value, tags=tags)


@functools.cache
def _metric(kind: str, name: str, description: str, tags: tuple[str, ...], buckets: tuple[float, ...]) -> Any:
    from ray.util import metrics

    options = {"boundaries": list(buckets)} if buckets else {}
    return getattr(metrics, kind)(name, description=description, tag_keys=tags, **options)


class RequestLog:
    """Around each HTTP request: an id before it, a line and a few numbers when its reply is over.

    The id is the caller's X-Request-Id if that is sane. The endpoint adds what it knows to `scope["state"]["facts"]`:
    the model, the seconds of audio, the key's name. What nobody caught is answered here.
    """

    def __init__(self, app: ASGIApp, *, send_id: bool) -> None:
        self.app, self._send_id = app, send_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        is_sane = re.fullmatch(r"[\w.:-]{1,128}", given, re.ASCII)
        request_id = given if is_sane else uuid.uuid4().hex
        scope.setdefault("state", {}).update(request_id=request_id, facts={})
        status, began = 0, time.perf_counter()

        async def send_and_look(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self._send_id:
                    headers = [*message.get("headers", []), (b"x-request-id", request_id.encode())]
                    message = {**message, "headers": headers}
            await send(message)

        try:
            try:
                await self.app(scope, receive, send_and_look)
            finally:
                self._log(scope, status, time.perf_counter() - began)
        except ClientDisconnect:  # in the middle of an upload: nobody is left to answer
            return
        except Exception:
            reply = fault_reply(Request(scope))
            if status:
                raise
            await reply(scope, receive, send_and_look)

    def _log(self, scope: Scope, status: int, seconds: float) -> None:
        # The route, not the path: callers invent paths, and each would be a metric of its own.
        path, facts = getattr(scope.get("route"), "path", "other"), scope["state"]["facts"]
        line = {
            "request_id": scope["state"]["request_id"],
            "method": scope["method"],
            "path": path,
            "status": status,  # 0: the caller left before there was one
            "seconds": round(seconds, 4),
            **facts,
        }
        logger.info(json.dumps(line))
        record("Counter", "ww_requests", "HTTP requests answered", 1, path=path, status=str(status))
        what = "From a request to the end of its reply"
        record("Histogram", "ww_request_seconds", what, seconds, _SECONDS, path=path)
        if "audio_s" in facts:
            model, factor = facts["model"], facts["real_time_factor"]
            if facts["audio_s"] > 0:
                what = "Seconds of audio in files denoised"
                record("Counter", "ww_file_audio_seconds", what, facts["audio_s"], model=model)
            what = "Seconds of work per second of audio"
            record("Histogram", "ww_file_real_time_factor", what, factor, _FACTORS, model=model)
