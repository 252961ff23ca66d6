"""The replica's side of files: hands an upload to the decoder and the engine, and gets the reply's bytes.

The replica itself touches no sample: it makes three sockets, hands their ends out and reads the last one. A
process that ends, by a fault, a limit or a caller who has left, closes its ends, and the others stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import socket
import tempfile
import time
from collections.abc import AsyncIterator
from typing import BinaryIO

from cluster.serving.config import ServingConfig
from cluster.serving.errors import ApiError, busy
from cluster.serving.files.messages import END, ERROR, HEAD, SOUND, START
from cluster.serving.files.process import FileProcess
from cluster.serving.files.upload import DenoiseOptions
from cluster.serving.models import ServedModel, ServedModels

logger = logging.getLogger(__name__)

START_TIMEOUT_S = 60.0


@dataclasses.dataclass(kw_only=True)
class FileReply:
    """What is known of a reply before its bytes: length in samples and, where the format tells, bytes.

    steps_s: seconds that each step took; peak: of the result, full scale is 1. Both are whole when the last of the
    bytes was read.
    """

    sample_rate: int
    num_channels: int
    num_frames: int
    num_bytes: int | None
    steps_s: dict[str, float]
    peak: float = 0.0
    body: AsyncIterator[bytes] = dataclasses.field(init=False)

    @property
    def audio_s(self) -> float:
        return self.num_frames / self.sample_rate

    @property
    def real_time_factor(self) -> float:
        """Seconds it took per second of audio, decoding and encoding included."""
        return sum(self.steps_s.values()) / self.audio_s


class FileService:
    """Starts both processes and keeps them: one that died is restarted for the next file."""

    def __init__(self, models: ServedModels, config: ServingConfig) -> None:
        self._models = models
        # Places for all who may come, children and rows (a channel each), so that nobody waits for a slow reader.
        self._decoding = {"limits": dataclasses.asdict(config.audio), "max_children": config.max_pending}
        self._num_rows = config.max_pending * config.audio.max_channels
        self._decoder = FileProcess("cluster.serving.files.decoder")
        self._engine = FileProcess("cluster.serving.files.engine")
        # What the engine of that process id knows.
        self._engine_pid, self._known, self._is_asked = 0, set[str](), False
        self.synchronise()

    def wait_until_ready(self) -> None:
        """Raises RuntimeError if a process does not start."""
        self._decoder.wait_until_ready(START_TIMEOUT_S)
        self._engine.wait_until_ready(START_TIMEOUT_S)

    def is_ready(self) -> bool:
        """Whether both processes run and have their models."""
        return self._decoder.is_ready() and self._engine.is_ready()

    def synchronise(self) -> None:
        """Starts what has died, and makes the engine know the models that are served, and no others.

        What fails, as when a process dies just now, is done by the next call.
        """
        try:
            self._decoder.ensure_alive()
            self._update_engine()
        except OSError as error:
            logger.warning("the processes for files take no orders: %s", error)

    def _update_engine(self) -> None:
        pid = self._engine.ensure_alive()
        if pid != self._engine_pid:
            self._engine_pid, self._known, self._is_asked = pid, set(), False
        served = {model.id: model for model in self._models.all()}
        for model in served.values():
            self._load(model)
        if self._known - served.keys():
            self._engine.order({"keep": list(served)})
            self._known = set(served)
        if not self._is_asked:
            self._engine.order({"ready": "say so"})
            self._is_asked = True

    def _load(self, model: ServedModel) -> None:
        """Makes the engine know it, where it does not."""
        if model.id in self._known:
            return
        engine = model.file_engine
        if engine is None:
            self._engine.order({"load": model.id, "bundle": str(model.bundle.resolve())})
        else:
            order = {"load": model.id, "spec": dataclasses.asdict(engine.spec), "rows": self._num_rows}
            with tempfile.TemporaryFile() as graph:
                graph.write(engine.graph)
                graph.flush()
                self._engine.order(order, graph.fileno())
        self._known.add(model.id)

    @contextlib.asynccontextmanager
    async def denoise(
        self, audio: BinaryIO, model: ServedModel, options: DenoiseOptions
    ) -> AsyncIterator[FileReply]:
        """The reply to an open file, for the length of the block; leaving it ends the work.

        Raises ApiError for what is wrong with the file. The body raises it for what goes wrong later.
        """
        reader, writer = await self._begin(audio, model, options)
        try:
            began = time.perf_counter()
            kind, content = await _read(reader)
            start = json.loads(content)
            if kind != START:
                raise ApiError(**start)
            reply = FileReply(**start, steps_s={"decode": time.perf_counter() - began})
            reply.body = _body(reader, reply)
            yield reply
        finally:
            writer.close()

    async def _begin(
        self, audio: BinaryIO, model: ServedModel, options: DenoiseOptions
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        how = options.model_dump(include={"response_format", "band"})
        job = {"job": model.id, "strength": options.share, **how}
        with contextlib.ExitStack() as theirs:
            sound_in, sound_out = (theirs.enter_context(end) for end in socket.socketpair())
            ours, reply = socket.socketpair()
            theirs.enter_context(reply)
            try:
                self.synchronise()
                self._load(model)  # again, if it was replaced since the request came
                self._engine.order(job, sound_out.fileno(), reply.fileno())
                self._decoder.order(self._decoding, audio.fileno(), sound_in.fileno())
            except OSError as error:
                ours.close()
                raise busy("the processes for files are not ready") from error
        return await asyncio.open_unix_connection(sock=ours)

    def close(self) -> None:
        self._decoder.close()
        self._engine.close()


async def _body(reader: asyncio.StreamReader, reply: FileReply) -> AsyncIterator[bytes]:
    while True:
        kind, content = await _read(reader)
        if kind == SOUND:
            yield content
        elif kind == END:
            end = json.loads(content)
            reply.steps_s |= end["steps_s"]
            reply.peak = end["peak"]
            return
        elif kind == ERROR:
            raise ApiError(**json.loads(content))


async def _read(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    try:
        kind, size = HEAD.unpack(await reader.readexactly(HEAD.size))
        return kind, await reader.readexactly(size)
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        raise busy("the process that denoises files ended; it is being started again") from error
