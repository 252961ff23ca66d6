"""The listening test's server: on loopback, until its block ends."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from cluster.evaluation.listening.source import ListeningError

HOST = "127.0.0.1"


@contextlib.contextmanager
def serving(app: ASGIApp, port: int, start_timeout_s: float = 60.0) -> Iterator[str]:
    """Serves an application from a thread; yields its address. port: 0 takes any free one."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except (OSError, OverflowError) as error:
            what = "choose another --port, or 0 for any free one"
            raise ListeningError(f"cannot listen on {HOST}:{port} ({error}): {what}") from None
        # Pages keep their connections open: the end does not wait for them.
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        deadline = time.monotonic() + start_timeout_s
        while not server.started:
            if not thread.is_alive() or time.monotonic() > deadline:
                raise ListeningError("the server of the listening test did not start")
            time.sleep(0.01)
        try:
            yield f"http://{HOST}:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)
