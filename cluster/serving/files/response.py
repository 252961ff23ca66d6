"""The answer to a file: whole with its times where it is short, while it is computed where it is long."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack
from typing import IO, Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cluster.serving.config import ServingConfig
from cluster.serving.files.pace import Pace
from cluster.serving.files.service import FileReply, FileService
from cluster.serving.files.upload import Upload
from cluster.serving.models import ServedModel
from cluster.sound.encoder import MEDIA_TYPES
from cluster.sound.level import saturated_db

# A short reply is kept in memory, so it must be small, too.
MAX_BUFFERED_BYTES = 16 * 2**20
# Handed over at a time, so that the caller's pace is seen.
_PART_BYTES = 1 << 16


class DenoiseResponse(Response):
    """Denoises an upload while it answers; gives up as soon as the caller has left, or takes it too slowly.

    The second is seen where sending waits for the caller, as with uvicorn alone. Under Ray Serve it never waits: the
    whole reply goes into Serve's queues, as fast as it is made.

    held: what is held for the request, given back at the end: the upload, the place in the queue, the key's use.
    """

    def __init__(
        self,
        files: FileService,
        upload: Upload,
        model: ServedModel,
        config: ServingConfig,
        held: AsyncExitStack,
    ) -> None:
        super().__init__()
        self._files, self._upload, self._model, self._config = files, upload, model, config
        self._held = held
        self._pace = Pace(config.reply_stall_s, config.max_transfer_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._held:
            await _while_connected(self._answer(scope, send), receive)

    async def _answer(self, scope: Scope, send: Send) -> None:
        audio, options = self._upload.audio, self._upload.options
        denoising = self._files.denoise(audio, self._model, options)
        async with AsyncExitStack() as stack:
            reply = await stack.enter_async_context(denoising)
            headers, parts = self._describe(reply), reply.body
            if self._is_short(reply):
                body = b"".join([part async for part in reply.body])
                headers |= {**_timing(reply), "content-length": str(len(body))}
                parts = _cut(body)
            elif reply.num_bytes is not None:
                headers["content-length"] = str(reply.num_bytes)
            elif scope["http_version"] == "1.0":
                # It knows no chunks, and a reply that breaks off would look whole if nobody said how long it is.
                kept = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 (the stack closes it)
                async for part in reply.body:
                    await asyncio.to_thread(kept.write, part)
                headers["content-length"] = str(kept.tell())
                parts = _read_parts(kept)
            await self._send(send, _start(headers))
            async for part in parts:
                await self._send(send, {"type": "http.response.body", "body": part, "more_body": True})
                self._pace.count(len(part))
            await self._send(send, {"type": "http.response.body", "body": b""})
            scope["state"]["facts"] |= {
                "model": self._model.id,
                "audio_s": round(reply.audio_s, 3),
                "real_time_factor": round(reply.real_time_factor, 5),
                "clipped_db": round(saturated_db(reply.peak), 1),
            }

    async def _send(self, send: Send, message: Any) -> None:
        await self._pace.wait_for(send(message))

    def _is_short(self, reply: FileReply) -> bool:
        most_bytes = 3 * reply.num_channels * reply.num_frames
        return reply.audio_s <= self._config.max_buffered_s and most_bytes <= MAX_BUFFERED_BYTES

    def _describe(self, reply: FileReply) -> dict[str, str]:
        media_type = MEDIA_TYPES[self._upload.options.response_format]
        if self._upload.options.response_format == "pcm":
            media_type += f";rate={reply.sample_rate};channels={reply.num_channels}"
        return {"content-type": media_type, "x-model-id": self._model.id}


def _timing(reply: FileReply) -> dict[str, str]:
    steps = ", ".join(f"{name};dur={1000 * seconds:.1f}" for name, seconds in reply.steps_s.items())
    clipped = {"x-clipped-db": f"{clipped_db:.1f}"} if (clipped_db := saturated_db(reply.peak)) else {}
    return {"x-real-time-factor": f"{reply.real_time_factor:.4f}", "server-timing": steps, **clipped}


async def _cut(body: bytes) -> AsyncIterator[bytes]:
    for first in range(0, len(body), _PART_BYTES):
        yield body[first : first + _PART_BYTES]


async def _read_parts(file: IO[bytes]) -> AsyncIterator[bytes]:
    file.seek(0)
    while part := await asyncio.to_thread(file.read, _PART_BYTES):
        yield part


def _start(headers: dict[str, str]) -> dict[str, Any]:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http.response.start", "status": 200, "headers": raw}


async def _while_connected(work: Coroutine[Any, Any, None], receive: Receive) -> None:
    """Awaits `work`, or cancels it when the caller leaves."""
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
