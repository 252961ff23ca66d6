"""How slowly a caller may send or take a file: one who stops, or nearly, loses the place."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import TypeVar

# The least on average, after a start as long as a caller may stand still.
MIN_BYTES_PER_S = 4000

T = TypeVar("T")


class Pace:
    """Of one transfer. Only the time that is spent waiting for the caller counts, not our own work between."""

    def __init__(self, stall_s: float, max_s: float) -> None:
        """stall_s: for one part; max_s: for all of them."""
        self._stall_s, self._max_s = stall_s, max_s
        self._num_bytes, self._waited_s = 0, 0.0

    async def wait_for(self, part: Awaitable[T]) -> T:
        """Awaits one part. Raises TimeoutError, saying how, for one who is too slow."""
        at_least_s = self._stall_s + self._num_bytes / MIN_BYTES_PER_S
        left_s = min(self._stall_s, at_least_s - self._waited_s, self._max_s - self._waited_s)
        began = time.monotonic()
        try:
            return await asyncio.wait_for(part, max(0, left_s))
        except TimeoutError:
            raise TimeoutError(
                f"nothing for {self._stall_s:g} s, less than {MIN_BYTES_PER_S} bytes/s, or not done within "
                f"{self._max_s:g} s"
            ) from None
        finally:
            self._waited_s += time.monotonic() - began

    def count(self, num_bytes: int) -> None:
        """So much has passed."""
        self._num_bytes += num_bytes
