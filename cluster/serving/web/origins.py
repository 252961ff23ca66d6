"""Which web pages may drive the endpoint: its own, and those that were named.

A browser lets any page send forms and open WebSockets to any address, that of a server on the user's own machine
included. It tells the page's origin, so a foreign one can be refused; and what was reached under a foreign name,
though it listens on loopback alone, was reached through a name that somebody pointed here.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from cluster.serving.addresses import is_loopback
from cluster.serving.errors import ApiError
from cluster.serving.web.error_replies import error_reply


class OriginGuard:
    """Answers 403 to foreign pages.

    allowed: origins as browsers send them, https://example.org; "*" is every one.
    is_local: listens on loopback without keys: it must also have been called by a name of this machine.
    """

    def __init__(self, app: ASGIApp, *, allowed: tuple[str, ...], is_local: bool) -> None:
        self.app, self._allowed, self._is_local = app, set(allowed), is_local
        self._names = {urlsplit(origin).hostname for origin in allowed}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"} or (fault := self._fault(Headers(scope=scope))) is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await error_reply(Request(scope), fault)(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008, "reason": fault.message})

    def _fault(self, headers: Headers) -> ApiError | None:
        if "*" in self._allowed:
            return None
        host, origin = headers.get("host", ""), headers.get("origin")
        if origin is not None and origin not in self._allowed and origin.partition("://")[2] != host:
            return ApiError(
                403, "foreign_origin", "pages of this origin may not use this server; see allowed_origins"
            )
        name = _host_name(host)
        # A browser always names a host; HTTP/1.0 need not.
        if self._is_local and host and not is_loopback(name) and name not in self._names:
            message = "this server is for its own machine and was called by another name; see allowed_origins"
            return ApiError(403, "foreign_host", message)
        return None


def _host_name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return host
