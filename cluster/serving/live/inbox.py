"""What one client has sent and the model has not been given yet: in order, counted, bounded."""

from __future__ import annotations

import asyncio
import sys
from collections import deque


class Inbox:
    """`put` never waits; one task takes. For one event loop.

    max_bytes: of memory, for messages that wait; `put` returns False for one that finds more than that.
    is_idle: nothing waits, and whoever takes is waiting for something.
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
        """A text or sound from the client; False if too much waits already, and this was not taken."""
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
        """So much of the sound has gone to the model."""
        self.num_sound_bytes -= num_bytes

    def clear(self) -> None:
        """Drops what waits: nobody wants it any more."""
        self._waiting.clear()
        self.num_bytes = self.num_sound_bytes = 0
        self._has_less.set()
