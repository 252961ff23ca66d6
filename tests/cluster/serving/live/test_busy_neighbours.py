"""Live calls beside programs that want all of the machine: those who are in keep their time, others hear `busy`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from cluster.serving.live.protocol import PATH
from tests.cluster.serving.replica import replica
from ww_models import PRESETS, build_model, save_bundle

pytestmark = pytest.mark.cluster

NUM_CALLERS, CALL_S, CHUNK_S, RATE = 24, 4.0, 0.02, 16_000
PATIENCE_S = 20.0  # after the call, for what has not come by then
OVERRUN_S = 0.25  # as the server understands it


@dataclass
class Call:
    """What a caller met: the refusal's code, or how long after it was due each result came, in seconds."""

    refusal: str = ""
    late_s: list[float] = field(default_factory=list)


@contextlib.contextmanager
def busy_machine() -> Iterator[None]:
    """Two processes for each core that do nothing but compute."""
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=_spin, daemon=True) for _ in range(2 * (os.cpu_count() or 1))]
    for other in others:
        other.start()
    try:
        time.sleep(1)
        yield
    finally:
        for other in others:
            other.kill()
            other.join()


def _spin() -> None:
    while True:
        pass


async def call(url: str, start: asyncio.Event, connected: list[None]) -> Call:
    """Connects, waits for all others, then speaks at the pace of speech."""
    told = Call()
    async with connect(f"{url.replace('http', 'ws', 1)}{PATH}", compression=None, max_queue=None) as socket:
        created = json.loads(await socket.recv())
        connected.append(None)
        if created["type"] == "error":
            return Call(created["code"])
        await start.wait()
        began = time.monotonic()
        speaking = asyncio.create_task(_speak(socket, began))
        due = began + created["latency_samples"] / RATE
        with contextlib.suppress(ConnectionClosed, TimeoutError):
            async with asyncio.timeout(CALL_S + PATIENCE_S):
                async for message in socket:
                    if isinstance(message, bytes):
                        due += len(message) / 2 / RATE
                        told.late_s.append(time.monotonic() - due)
                    elif json.loads(message)["type"] == "error":
                        told.refusal = json.loads(message)["code"]
        speaking.cancel()
        if due < began + CALL_S:  # what had not come by then is at least so late
            told.late_s += [time.monotonic() - due] * round((began + CALL_S - due) / CHUNK_S)
    return told


async def _speak(socket: object, began: float) -> None:
    chunk = np.random.default_rng(0).integers(-3000, 3000, round(CHUNK_S * RATE)).astype("<i2").tobytes()
    for number in range(round(CALL_S / CHUNK_S)):
        await asyncio.sleep(began + number * CHUNK_S - time.monotonic())
        await socket.send(chunk)  # type: ignore[attr-defined]
    await socket.send('{"type": "close"}')  # type: ignore[attr-defined]


async def call_at_once(url: str) -> list[Call]:
    start, connected = asyncio.Event(), list[None]()
    calls = [asyncio.create_task(call(url, start, connected)) for _ in range(NUM_CALLERS)]
    while len(connected) < NUM_CALLERS:
        await asyncio.sleep(0.05)
    start.set()
    return await asyncio.gather(*calls)


def usual_lateness_s(calls: list[Call]) -> float:
    """Of those who were let in, once they have caught up with their start."""
    return median(median(each.late_s[len(each.late_s) // 2 :]) for each in calls if not each.refusal)


def test_those_who_are_in_keep_their_time_and_others_hear_busy(tmp_path: Path) -> None:
    """Beside the same endpoint that lets in as many as were measured to fit: machines differ, and so do their loads."""
    bundle = save_bundle(tmp_path / "model", build_model(**PRESETS["gatewave-compact"]))
    with (
        replica(bundle, max_streams=None) as (_, careful),
        replica(bundle, max_streams=NUM_CALLERS, follows_load=False) as (_, careless),
        busy_machine(),
    ):
        crowd = asyncio.run(call_at_once(careless))
        calls = asyncio.run(call_at_once(careful))
    assert not any(each.refusal for each in crowd)
    assert {each.refusal for each in calls} <= {"", "busy"}
    assert usual_lateness_s(calls) < max(OVERRUN_S, usual_lateness_s(crowd) / 2)
