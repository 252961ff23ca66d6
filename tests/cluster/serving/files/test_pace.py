"""How slow a caller may be, and that a slow one harms himself alone."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from cluster.serving.config import AudioLimits, ServingConfig
from cluster.serving.files.pace import MIN_BYTES_PER_S, Pace
from cluster.serving.models import ServedModels
from cluster.serving.web.app import build_app
from tests.cluster.serving.callers import half_an_upload, slow_reader, wait_until
from tests.cluster.serving.clips import DENOISE, file_bytes, recording

CONFIG = ServingConfig(max_pending=6, audio=AudioLimits(max_channels=3))


@pytest.mark.parametrize(
    ("max_s", "part_bytes", "passes"),
    [(60.0, 2 * MIN_BYTES_PER_S, True), (60.0, 1, False), (0.5, 2 * MIN_BYTES_PER_S, False)],
)
def test_a_transfer_may_not_drip_or_last_for_ever(max_s: float, part_bytes: int, passes: bool) -> None:
    async def transfer() -> None:
        pace = Pace(stall_s=1.0, max_s=max_s)
        for _ in range(30):
            await pace.wait_for(asyncio.sleep(0.05))
            pace.count(part_bytes)

    expected = contextlib.nullcontext() if passes else pytest.raises(TimeoutError, match="bytes/s")
    with expected:
        asyncio.run(transfer())


@contextlib.contextmanager
def serving(app: FastAPI, run_app: Callable) -> Iterator[httpx.Client]:
    with run_app(app) as host, httpx.Client(base_url=f"http://{host}", timeout=20) as client:
        yield client


def large_reply_from_little() -> bytes:
    """More than the sockets between will hold: 17 MB of sound in a small file."""
    return file_bytes(np.zeros((48_000 * 59, 3), np.int16), 48_000, "FLAC")


@pytest.mark.cluster
def test_slow_readers_hold_up_nobody_else(bundle: Path, run_app: Callable) -> None:
    app = build_app(ServedModels([bundle]), CONFIG)
    data, places = large_reply_from_little(), app.state.places
    with serving(app, run_app) as client, contextlib.ExitStack() as readers:
        for _ in range(CONFIG.max_pending - 1):
            readers.enter_context(slow_reader(client, data))
        assert places.num_taken == CONFIG.max_pending - 1
        other = file_bytes(recording(num_channels=3))
        assert client.post(DENOISE, content=other).status_code == 200


@pytest.mark.cluster
def test_an_upload_and_a_reply_end_after_a_time(bundle: Path, run_app: Callable) -> None:
    app = build_app(ServedModels([bundle]), dataclasses.replace(CONFIG, max_transfer_s=1))
    places = app.state.places
    with serving(app, run_app) as client:
        with slow_reader(client, large_reply_from_little()):
            assert places.num_taken == 1
            wait_until(lambda: places.num_taken == 0)
        with half_an_upload(client) as upload:
            upload.settimeout(0.1)
            answer, deadline = b"", time.monotonic() + 30
            while not answer and time.monotonic() < deadline:
                upload.sendall(b"x" * 1000)  # faster than the least
                with contextlib.suppress(TimeoutError):
                    answer = upload.recv(1000)
        assert answer.startswith(b"HTTP/1.1 408")
