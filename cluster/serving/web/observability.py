"""What a replica reports about its requests: a line of JSON for each, and metrics at Ray's Prometheus endpoint."""

from __future__ import annotations

import json
import logging
import re
import time
import uuid

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cluster.monitoring.metrics import FILE_AUDIO, FILE_FACTOR, REQUEST_TIME, REQUESTS
from cluster.serving.web.error_replies import fault_reply

logger = logging.getLogger(__name__)


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
        REQUESTS.add(path=path, status=str(status))
        REQUEST_TIME.observe(seconds, path=path)
        if "audio_s" in facts:
            FILE_AUDIO.add(facts["audio_s"], model=facts["model"])
            FILE_FACTOR.observe(facts["real_time_factor"], model=facts["model"])
