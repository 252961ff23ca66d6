"""The replica's side of files: hands an upload to the decoder and the engine, and gets the reply's bytes.

The replica itself touches no sample: it makes three sockets, hands their ends out and reads the last one. Whoever
goes away, by a fault, a limit or a caller who has left, closes an end, and the others stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import socket
import tempfile
import time
from collections.abc import AsyncIterator
from typing import BinaryIO

from cluster.serving.config import ServingConfig
from cluster.serving.errors import ApiError, busy
from cluster.serving.file_messages import END, ERROR, HEAD, SOUND, START
from cluster.serving.file_process import FileProcess
from cluster.serving.models import ServedModel, ServedModels

START_TIMEOUT_S = 60.0
# Rows of a model's batch in the engine, one for each channel of each recording.
NUM_ROWS = 16


@dataclasses.dataclass(kw_only=True)
class FileReply:
    """What is known of a reply before its bytes: length in samples and, where the format tells, bytes.

    steps_s: seconds that each step took; complete when the last of the bytes was read.
    """

    sample_rate: int
    num_channels: int
    num_frames: int
    num_bytes: int | None
    steps_s: dict[str, float]
    body: AsyncIterator[bytes]

    @property
    def audio_s(self) -> float:
        return self.num_frames / self.sample_rate

    @property
    def real_time_factor(self) -> float:
        """Seconds it took per second of audio, decoding and encoding included."""
        return sum(self.steps_s.values()) / self.audio_s


class FileService:
    """Starts both processes and keeps them: one that died is started anew for the next file."""

    def __init__(self, models: ServedModels, config: ServingConfig) -> None:
        self._models, self._limits = models, dataclasses.asdict(config.audio)
        self._num_rows = max(NUM_ROWS, config.audio.max_channels)
        self._decoder = FileProcess("cluster.serving.decoder")
        self._engine = FileProcess("cluster.serving.file_engine")
        self._known: set[str] = set()
        self._engine_pid = 0
        self.synchronise()

    @property
    def pids(self) -> tuple[int, int]:
        """Of the decoder and the engine, as they run now."""
        return self._decoder.pid, self._engine.pid

    def wait_until_ready(self) -> None:
        """Raises RuntimeError if a process does not start."""
        self._decoder.wait_until_ready(START_TIMEOUT_S)
        self._engine.wait_until_ready(START_TIMEOUT_S)

    def is_ready(self) -> bool:
        """Whether both processes run and have their models."""
        return self._decoder.is_ready() and self._engine.is_ready()

    def synchronise(self) -> None:
        """Starts what has died, and makes the engine know the models that are served, and no others."""
        self._decoder.ensure_alive()
        pid = self._engine.ensure_alive()
        is_new, self._engine_pid = pid != self._engine_pid, pid
        known = set() if is_new else self._known
        served = {model.id: model for model in self._models.all()}
        if served.keys() == known and not is_new:
            return
        for model in served.values():
            if model.id not in known:
                self._load(model)
        self._engine.order({"keep": list(served)})
        if is_new:
            self._engine.order({"ready": "say so"})
        self._known = set(served)

    def _load(self, model: ServedModel) -> None:
        if model.engine is None:
            self._engine.order({"load": model.id, "bundle": str(model.bundle.resolve())})
            return
        with tempfile.TemporaryFile() as graph:
            graph.write(model.engine.graph)
            graph.flush()
            spec = dataclasses.asdict(model.engine.spec)
            self._engine.order({"load": model.id, "spec": spec, "rows": self._num_rows}, graph.fileno())

    @contextlib.asynccontextmanager
    async def denoise(
        self, audio: BinaryIO, model: ServedModel, response_format: str, strength: float
    ) -> AsyncIterator[FileReply]:
        """The reply to an open file, for the length of the block; leaving it ends the work.

        Raises ApiError for what is wrong with the file. The body raises it for what goes wrong later.
        """
        reader, writer = await self._begin(audio, model, response_format, strength)
        try:
            began = time.perf_counter()
            kind, content = await _read(reader)
            start = json.loads(content)
            if kind != START:
                raise ApiError(**start)
            steps_s = {"decode": time.perf_counter() - began}
            yield FileReply(
                sample_rate=start["sample_rate"],
                num_channels=start["num_channels"],
                num_frames=start["num_frames"],
                num_bytes=start["num_bytes"],
                steps_s=steps_s,
                body=_body(reader, steps_s),
            )
        finally:
            writer.close()

    async def _begin(
        self, audio: BinaryIO, model: ServedModel, response_format: str, strength: float
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        job = {"job": model.id, "response_format": response_format, "strength": strength}
        with contextlib.ExitStack() as theirs:
            sound_in, sound_out = (theirs.enter_context(end) for end in socket.socketpair())
            ours, reply = socket.socketpair()
            theirs.enter_context(reply)
            try:
                self.synchronise()
                if model.id not in self._known:  # it was replaced since the request came: its last file
                    self._load(model)
                self._engine.order(job, sound_out.fileno(), reply.fileno())
                self._decoder.order(self._limits, audio.fileno(), sound_in.fileno())
            except OSError as error:
                ours.close()
                raise busy("the processes for files are not ready") from error
        return await asyncio.open_unix_connection(sock=ours)

    def close(self) -> None:
        self._decoder.close()
        self._engine.close()


async def _body(reader: asyncio.StreamReader, steps_s: dict[str, float]) -> AsyncIterator[bytes]:
    while True:
        kind, content = await _read(reader)
        if kind == SOUND:
            yield content
        elif kind == END:
            steps_s.update(json.loads(content))
            return
        elif kind == ERROR:
            raise ApiError(**json.loads(content))


async def _read(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    try:
        kind, size = HEAD.unpack(await reader.readexactly(HEAD.size))
        return kind, await reader.readexactly(size)
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        raise busy("the process that denoises files ended; it is being started again") from error
