"""Applications under a real server on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send


@contextlib.contextmanager
def run_app(app: ASGIApp) -> Iterator[str]:
    """Runs an application under uvicorn in a thread; yields "127.0.0.1:PORT"."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5, ws_ping_timeout=None)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        deadline = time.monotonic() + 30
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            assert time.monotonic() < deadline, "the server did not start in time"
            time.sleep(0.01)
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive(), "the server did not end"


class TakesAll:
    """Stands between a server and an application as Ray Serve does: takes all that a client sends, read or not."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            await self.app(scope, receive, send)
            return
        messages: asyncio.Queue[Message] = asyncio.Queue()

        async def take() -> None:
            while True:
                await messages.put(message := await receive())
                if message["type"] == "websocket.disconnect":
                    return

        async with asyncio.TaskGroup() as tasks:
            taking = tasks.create_task(take())
            await self.app(scope, messages.get, send)
            taking.cancel()
