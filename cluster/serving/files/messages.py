"""How the processes that work on a file talk: messages with a kind and a length, over stream sockets.

    decoder  --- start, sound..., end -->  engine  --- start, sound..., end -->  replica

Either may send `error` in place of what is to come. A connection that ends before `end` or `error` says that the
process behind it died. Sockets hold little, so a slow process holds up those before it, and nothing piles up.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

from cluster.serving.errors import ApiError

# start, end, error: JSON. sound: float32 (n, C) from the decoder, bytes of the reply's file from the engine.
START, SOUND, END, ERROR = 1, 2, 3, 4

HEAD = struct.Struct("<BI")  # kind, bytes that follow
MAX_BYTES = 1 << 24

Message = tuple[int, bytes]


def pack(kind: int, content: dict[str, Any] | bytes) -> bytes:
    """One message: a JSON object, or bytes as they are."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return HEAD.pack(kind, len(body)) + body


def pack_error(error: ApiError) -> bytes:
    return pack(ERROR, error.as_json())


class Unpacker:
    """Cuts what comes over a socket into messages."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, received: bytes) -> Iterator[Message]:
        """The messages that are whole by now. ValueError for what is none."""
        self._bytes += received
        while len(self._bytes) >= HEAD.size:
            kind, size = HEAD.unpack_from(self._bytes)
            if not (START <= kind <= ERROR and size <= MAX_BYTES):
                raise ValueError(f"not a message: kind {kind}, {size} bytes")
            end = HEAD.size + size
            if len(self._bytes) < end:
                return
            body = bytes(memoryview(self._bytes)[HEAD.size : end])
            del self._bytes[:end]
            yield kind, body
