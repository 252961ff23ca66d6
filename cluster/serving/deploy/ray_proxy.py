"""What Ray Serve's own proxy begins with: its port is its own, and what it fails on in a request is left out."""

from __future__ import annotations

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from cluster.machine.ray_internals import take_port_alone
from cluster.serving.deploy.haproxy_start import READ_BY_SERVE

_NAMES = {name.encode() for name in READ_BY_SERVE}


def middlewares() -> list[Middleware]:
    """The proxy calls it by its name, which it finds in its environment, before it listens."""
    take_port_alone()
    return [Middleware(ReadableHeaders)]


class ReadableHeaders:
    """Leaves out headers for Serve that are not ASCII: it answers them with a bare 500."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if "headers" in scope:
            kept = [
                (name, value) for name, value in scope["headers"] if name not in _NAMES or value.isascii()
            ]
            scope = {**scope, "headers": kept}
        await self._app(scope, receive, send)
