"""The callers of benchmarks/serving.py: live calls at the pace of speech, short files, and long ones in the background.

Each kind of caller is one process of its own, so that the CPU time that it takes can be told from the server's.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import io
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import numpy as np
import psutil
import soundfile
import torch
from websockets.asyncio.client import ClientConnection, connect

from cluster.serving.live.protocol import PATH
from cluster.serving.models import load_model
from ww_models import load_bundle, stream
from ww_models.streaming.onnx_export import Precision

WARM_UP_S = 1.0
FILE_PATH = "/v1/audio/denoise"
_SPAWN = multiprocessing.get_context("spawn")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LiveLoad:
    """What so many sessions heard at a time.

    p50_ms, p99_ms, max_ms: from when a chunk of one hop was due to be sent until all that it completes was there,
        beyond the algorithmic latency. A chunk that the client sends late counts as sent when it was due.
    late_p99_ms: how late the client sent; what is large here is the client's fault, or that of a full machine.
    client_cores, server_cores: CPU seconds per second of this process, and of all that the benchmark runs besides.
    """

    num_sessions: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    late_p99_ms: float
    num_overruns: int
    client_cores: float
    server_cores: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileTimes:
    """Seconds for a file, medians: over HTTP; of the bare engine, step by step; of torch over the whole clip."""

    http_s: float
    engine_s: float
    torch_s: float


def live_load(url: str, num_sessions: int, seconds: float, sample_rate: int | None) -> LiveLoad:
    """Runs in a fresh process. RuntimeError where a session is refused, ends early or loses sound."""
    benchmark = psutil.Process()
    with ProcessPoolExecutor(1, mp_context=_SPAWN) as pool:
        pid = pool.submit(os.getpid).result()
        load = pool.submit(_run_sessions, url, num_sessions, seconds, sample_rate)
        time.sleep(WARM_UP_S)
        began_s, before_s = time.perf_counter(), _cpu_s(benchmark, but=pid)
        result = load.result()
        cores = (_cpu_s(benchmark, but=pid) - before_s) / (time.perf_counter() - began_s)
        return dataclasses.replace(result, server_cores=cores)


def file_times(url: str, bundle: Path, precision: Precision, num_rounds: int, clip_s: float) -> FileTimes:
    """Runs in a fresh process, in which the contestants take turns."""
    with ProcessPoolExecutor(1, mp_context=_SPAWN) as pool:
        return pool.submit(_time_files, url, bundle, precision, num_rounds, clip_s).result()


@contextlib.contextmanager
def long_files(
    url: str, path: Path, num_files: int, *, wait_s: float = 60.0
) -> Iterator[Callable[[], float]]:
    """Sends a file so many times at once, from the beginning of the block to its end.

    Begins when all are being answered; yields what tells how many bytes of replies have come. RuntimeError if they
    do not begin in time, or if they end before the block does.
    """
    num_bytes, num_begun = _SPAWN.Value("q", 0), _SPAWN.Value("i", 0)
    process = _SPAWN.Process(target=_send_files, args=(url, path, num_files, num_begun, num_bytes))
    process.start()
    try:
        deadline = time.monotonic() + wait_s
        while num_begun.value < num_files:
            if not process.is_alive() or time.monotonic() > deadline:
                raise RuntimeError(f"{num_begun.value} of {num_files} files are being answered; see above")
            time.sleep(0.1)
        yield lambda: num_bytes.value
        if not process.is_alive():
            raise RuntimeError("the files were done before the measurement; take fewer --seconds")
    finally:
        process.kill()
        process.join()


def noise(seconds: float, sample_rate: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.int16]]:
    return np.random.default_rng(seed).integers(-3000, 3000, round(seconds * sample_rate)).astype("<i2")


def _run_sessions(url: str, num_sessions: int, seconds: float, sample_rate: int | None) -> LiveLoad:
    gc.freeze()
    return asyncio.run(_all_sessions(url, num_sessions, seconds, sample_rate))


async def _all_sessions(url: str, num_sessions: int, seconds: float, sample_rate: int | None) -> LiveLoad:
    query = f"?sample_rate={sample_rate}" if sample_rate else ""
    address = url.replace("http", "ws", 1) + PATH + query
    async with contextlib.AsyncExitStack() as stack:
        sessions = [
            _Session(
                await stack.enter_async_context(
                    connect(address, compression=None, max_queue=None, proxy=None)
                ),
                each,
            )
            for each in range(num_sessions)
        ]
        for session in sessions:
            await session.begin()
        began_s, cpu_s = time.perf_counter(), time.process_time()
        start_s = began_s + 0.2  # their chunks are spread over the time of one
        async with asyncio.timeout(2 * seconds + 30):
            async with asyncio.TaskGroup() as tasks:
                for each, session in enumerate(sessions):
                    phase_s = each / num_sessions * session.chunk_s
                    tasks.create_task(session.send(start_s + phase_s, WARM_UP_S + seconds))
                    tasks.create_task(session.receive())
        cores = (time.process_time() - cpu_s) / (time.perf_counter() - began_s)
    latencies_ms = 1000 * np.concatenate([session.latencies_s() for session in sessions])
    late_ms = 1000 * np.concatenate([session.late_s for session in sessions])
    return LiveLoad(
        num_sessions=num_sessions,
        p50_ms=float(np.percentile(latencies_ms, 50)),
        p99_ms=float(np.percentile(latencies_ms, 99)),
        max_ms=float(latencies_ms.max()),
        late_p99_ms=float(np.percentile(late_ms, 99)),
        num_overruns=sum(session.num_overruns for session in sessions),
        client_cores=cores,
        server_cores=0.0,
    )


class _Session:
    """One call: a chunk of a hop each time that one is due, whatever has come back by then."""

    def __init__(self, connection: ClientConnection, seed: int) -> None:
        self._connection, self._seed = connection, seed
        self.due_s: list[float] = []
        self.late_s: list[float] = []
        self.done_s: list[float] = []
        self.num_overruns = 0

    async def begin(self) -> None:
        created = self._said(await self._connection.recv())
        self._chunk_samples, self._latency_samples = created["frame_samples"], created["latency_samples"]
        self.chunk_s = self._chunk_samples / created["input_sample_rate"]
        self._chunk = noise(self.chunk_s, created["input_sample_rate"], self._seed).tobytes()

    async def send(self, start_s: float, seconds: float) -> None:
        for index in range(round(seconds / self.chunk_s)):
            due_s = start_s + index * self.chunk_s
            await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
            self.due_s.append(due_s)
            self.late_s.append(time.perf_counter() - due_s)
            await self._connection.send(self._chunk)
        await self._connection.send('{"type": "close"}')

    async def receive(self) -> None:
        num_samples, flushed = 0, None
        async for message in self._connection:
            if isinstance(message, str):
                said = self._said(message)
                self.num_overruns += said["type"] == "overrun"
                flushed = said if said["type"] == "flushed" else flushed
                continue
            now_s = time.perf_counter()
            num_samples += len(message) // 2
            # After chunk k all but the latency of (k + 1) chunks is due.
            num_done = (num_samples + self._latency_samples) // self._chunk_samples
            self.done_s += [now_s] * (min(num_done, len(self.due_s)) - len(self.done_s))
        if flushed is None or num_samples != flushed["samples_in"]:
            raise RuntimeError(
                f"a session lost sound: {num_samples} samples came back; the server: {flushed}"
            )

    def latencies_s(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        warm_up = round(WARM_UP_S / self.chunk_s)
        return (np.array(self.done_s) - np.array(self.due_s))[warm_up:]

    def _said(self, message: str | bytes) -> dict[str, Any]:
        said: dict[str, Any] = json.loads(message)
        if said["type"] == "error":
            raise RuntimeError(f"the server refuses a session: {said['message']}")
        return said


def _time_files(url: str, bundle: Path, precision: Precision, num_rounds: int, clip_s: float) -> FileTimes:
    torch.set_num_threads(1)
    model, engine = load_bundle(bundle).requires_grad_(False), load_model(bundle, precision).file_engine
    assert engine is not None, "a model that needs the whole clip has no engine"
    clip = noise(clip_s, model.sample_rate)
    samples_BT = clip[None].astype(np.float32) / np.float32(32768)
    clip_B1T = torch.from_numpy(samples_BT)[None]
    body = _wav(clip, model.sample_rate)

    def through_engine() -> None:
        streamer = stream(engine)
        streamer.feed(samples_BT)
        streamer.flush()

    with httpx.Client(base_url=url, timeout=120, trust_env=False) as client:

        def through_http() -> None:
            reply = client.post(FILE_PATH, content=body, headers={"Content-Type": "audio/wav"})
            reply.raise_for_status()
            assert len(reply.content) >= clip.nbytes, "the reply is shorter than the file"

        contestants = (through_http, through_engine, lambda: model(clip_B1T))
        rounds = [[_seconds(each) for each in contestants] for _ in range(num_rounds + 1)]
    http_s, engine_s, torch_s = (median(times) for times in zip(*rounds[1:], strict=True))
    return FileTimes(http_s=http_s, engine_s=engine_s, torch_s=torch_s)


def _send_files(url: str, path: Path, num_files: int, num_begun: Any, num_bytes: Any) -> None:
    async def send(client: httpx.AsyncClient) -> None:
        headers = {"Content-Type": "audio/wav", "Content-Length": str(path.stat().st_size)}
        async with client.stream("POST", FILE_PATH, content=_read(path), headers=headers) as reply:
            if reply.is_error:
                raise RuntimeError(
                    f"a file was answered {reply.status_code}: {(await reply.aread()).decode()}"
                )
            num_begun.value += 1
            async for part in reply.aiter_raw():
                num_bytes.value += len(part)

    async def send_all() -> None:
        async with httpx.AsyncClient(base_url=url, timeout=None, trust_env=False) as client:
            await asyncio.gather(*(send(client) for _ in range(num_files)))

    asyncio.run(send_all())


async def _read(path: Path) -> Any:
    with path.open("rb") as file:
        while part := file.read(1 << 18):
            yield part


def _wav(samples_T: np.ndarray[Any, np.dtype[np.int16]], sample_rate: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples_T, sample_rate, format="WAV")
    return file.getvalue()


def _seconds(work: Callable[[], object]) -> float:
    start_s = time.perf_counter()
    work()
    return time.perf_counter() - start_s


def _cpu_s(process: psutil.Process, *, but: int) -> float:
    """CPU seconds of all processes below this one, but one of them."""
    total_s = 0.0
    for each in process.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = each.cpu_times()
            total_s += (times.user + times.system) * (each.pid != but)
    return total_s
