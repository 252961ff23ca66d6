"""What waits between one caller and his call, each way: in order, counted, bounded. For one event loop."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque

from starlette.websockets import WebSocket, WebSocketDisconnect

from cluster.serving.live.protocol import Close


class Inbox:
    """What the caller has sent and the model has not been given yet. `put` never waits; one task takes.

    max_bytes: of memory, for messages that wait; `put` returns False for one that finds more, and does not take it.
    is_idle: nothing waits, and the task that takes is waiting for something.
    num_bytes: of memory that they take; small messages take more than they bring.
    num_sound_bytes: of sound that was put here and not `fed` to the model.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._waiting: deque[str | bytes] = deque()
        self._has_some, self._has_less = asyncio.Event(), asyncio.Event()
        self._is_awaited = False
        self.num_bytes = self.num_sound_bytes = 0

    @property
    def is_idle(self) -> bool:
        return self._is_awaited and not self._waiting

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, message: str | bytes) -> bool:
        if self.num_bytes > self._max_bytes:
            return False
        self.num_bytes += sys.getsizeof(message)
        if isinstance(message, bytes):
            self.num_sound_bytes += len(message)
        self._waiting.append(message)
        self._has_some.set()
        return True

    async def take(self) -> str | bytes:
        """The next message, when there is one."""
        while not self._waiting:
            self._is_awaited = True
            self._has_some.clear()
            await self._has_some.wait()
        self._is_awaited = False
        message = self._waiting.popleft()
        self.num_bytes -= sys.getsizeof(message)
        self._has_less.set()
        return message

    async def until_below(self, num_bytes: int) -> None:
        """Returns when the messages that wait take less memory than that."""
        while self.num_bytes >= num_bytes:
            self._has_less.clear()
            await self._has_less.wait()

    def fed(self, num_bytes: int) -> None:
        self.num_sound_bytes -= num_bytes

    def clear(self) -> None:
        self._waiting.clear()
        self.num_bytes = self.num_sound_bytes = 0
        self._has_less.set()


class Outbox:
    """What waits to be sent to the caller. `post` never waits; `run` sends.

    max_bytes: what may wait; `post` returns False for what would be more, and does not take it.
    """

    def __init__(self, websocket: WebSocket, *, max_bytes: int) -> None:
        self._websocket, self._max_bytes = websocket, max_bytes
        self._waiting: deque[str | bytes | Close | None] = deque()
        self._has_some = asyncio.Event()
        self._sending_since: float | None = None
        self._limit = asyncio.timeout(None)  # one for all messages: it would cost more than sending does
        self.num_bytes = 0

    def post(self, message: str | bytes) -> bool:
        if self.num_bytes + len(message) > self._max_bytes:
            return False
        self.num_bytes += len(message)
        self._put(message)
        return True

    def close(self, code: Close, last_message: str = "", *, now: bool = False) -> None:
        """Closes with `code` after what waits, or `now` instead of it. What is posted later is never sent."""
        if now:
            self._waiting.clear()
        if last_message:
            self._put(last_message)
        self._put(code)

    def hang_up(self) -> None:
        """Ends `run` at once: the caller has gone."""
        self._waiting.clear()
        self._put(None)
        if self._sending_since is not None and not self._limit.expired():
            self._limit.reschedule(0)

    def give_up_after(self, stuck_s: float) -> None:
        """To be called now and then: ends `run` if one message has taken so long, because the caller does not read.

        Only where the server lets us wait for that, as uvicorn does: in Ray Serve a message counts as sent when it is
        queued on the way.
        """
        since = self._sending_since
        if since is not None and time.monotonic() - since > stuck_s:
            self.hang_up()

    async def run(self) -> None:
        """Sends until the connection was closed, is gone, or the caller has not read for too long."""
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
            if isinstance(message, Close):
                await self._websocket.close(message)
                return
            if isinstance(message, bytes):
                await self._websocket.send_bytes(message)
            else:
                await self._websocket.send_text(message)
            self._sending_since = None
            self.num_bytes -= len(message)

    def _put(self, message: str | bytes | Close | None) -> None:
        self._waiting.append(message)
        self._has_some.set()
