"""What waits to be sent to one client: in order, bounded, and given up on when the client does not read."""

from __future__ import annotations

import asyncio
import time
from collections import deque

from starlette.websockets import WebSocket, WebSocketDisconnect

from cluster.serving.live.protocol import Close


class Outbox:
    """`post` never waits; `run` sends. For one event loop.

    max_bytes: what may wait; more of it makes `post` return False, and nothing of it was taken.
    """

    def __init__(self, websocket: WebSocket, *, max_bytes: int) -> None:
        self._websocket, self._max_bytes = websocket, max_bytes
        self._waiting: deque[str | bytes | Close | None] = deque()
        self._has_some = asyncio.Event()
        self._sending_since: float | None = None
        self._limit = asyncio.timeout(None)  # one for all messages: it would cost more than sending does
        self.num_bytes = 0

    def post(self, message: str | bytes) -> bool:
        """Text or sound for the client; False if too much waits already."""
        if self.num_bytes + len(message) > self._max_bytes:
            return False
        self.num_bytes += len(message)
        self._put(message)
        return True

    def close(self, code: Close, last_words: str = "", *, now: bool = False) -> None:
        """Closes with `code` after what waits, or `now` instead of it. What is posted later is never sent."""
        if now:
            self._waiting.clear()
        if last_words:
            self._put(last_words)
        self._put(code)

    def hang_up(self) -> None:
        """Ends `run` at once: the client has gone."""
        self._waiting.clear()
        self._put(None)
        if self._sending_since is not None and not self._limit.expired():
            self._limit.reschedule(0)

    def give_up_after(self, stuck_s: float) -> None:
        """To be called now and then: ends `run` if one message has taken so long, because the client does not read.

        Only where the server lets us wait for that, as uvicorn does: in Ray Serve a message counts as sent when it is
        queued on the way.
        """
        since = self._sending_since
        if since is not None and time.monotonic() - since > stuck_s:
            self.hang_up()

    async def run(self) -> None:
        """Sends until the connection was closed, is gone, or the client has not read for too long."""
        try:
            async with self._limit:
                await self._run()
        except (TimeoutError, WebSocketDisconnect):
            return
        finally:
            self._sending_since = None

    async def _run(self) -> None:
        while True:
            while not self._waiting:
                self._has_some.clear()
                await self._has_some.wait()
            message = self._waiting.popleft()
            if message is None:
                return
            self._sending_since = time.monotonic()
            await self._send(message)
            self._sending_since = None
            if isinstance(message, Close):
                return
            self.num_bytes -= len(message)

    async def _send(self, message: str | bytes | Close) -> None:
        if isinstance(message, Close):
            await self._websocket.close(message)
        elif isinstance(message, bytes):
            await self._websocket.send_bytes(message)
        else:
            await self._websocket.send_text(message)

    def _put(self, message: str | bytes | Close | None) -> None:
        self._waiting.append(message)
        self._has_some.set()
