"""Live calls where sound waits: a server that is behind, clients who send too much, or do not read."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from starlette.types import Scope
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from cluster.serving.live.queues import Outbox
from cluster.serving.models import ServedModels
from tests.cluster.serving.callers import wait_until
from tests.cluster.serving.engines import WatchedEngine
from tests.cluster.serving.live_server import CONFIG, Heard, Server, denoised, held_server, serve, sound


def test_a_server_that_is_behind_says_so_and_loses_nothing(
    held: tuple[Server, WatchedEngine], bundle: Path
) -> None:
    server, engine = held
    samples = sound(7, 20 * 16_000)
    with server.connect("encoding=pcm_f32le") as connection:
        heard = Heard(connection)
        heard.until("session.created")
        engine.gate.clear()
        sender = threading.Thread(
            target=lambda: [connection.send(chunk.tobytes()) for chunk in np.array_split(samples, 200)]
        )
        sender.start()
        heard.until("overrun")
        while heard.until("stats")["buffered_ms"] < 4000:
            pass
        engine.gate.set()
        sender.join(30)
        connection.send('{"type": "flush"}')
        heard.until("flushed")
        kinds = [message["type"] for message in heard.messages]
        assert kinds[:3] == ["session.created", "overrun", "overrun.ended"]
    np.testing.assert_allclose(heard.samples, denoised(bundle, samples), atol=1e-5)


def flood(connection: ClientConnection, num_bytes: int) -> tuple[threading.Thread, list[int]]:
    """Sends zeros from a thread until all are sent or the connection ends; the list grows with each message."""
    chunk, sent = bytes(64_000), [0]

    def send() -> None:
        with contextlib.suppress(ConnectionClosed):
            while sum(sent) < num_bytes:
                connection.send(chunk)
                sent.append(len(chunk))

    thread = threading.Thread(target=send)
    thread.start()
    return thread, sent


def test_who_sends_too_much_is_held_back_where_the_server_can(held: tuple[Server, WatchedEngine]) -> None:
    server, engine = held
    engine.gate.clear()
    with server.connect("encoding=pcm_f32le") as connection:
        sender, sent = flood(connection, 64 * 2**20)
        num_sent = 0
        while num_sent < len(sent) and sender.is_alive():  # until it gets nothing out for a second
            num_sent = len(sent)
            sender.join(1)
        assert sender.is_alive(), f"{sum(sent)} bytes were taken while the model stood still"
        connection.socket.shutdown(socket.SHUT_RDWR)
        sender.join(30)


def test_who_sends_too_much_is_sent_away_where_nothing_holds_callers(models: ServedModels) -> None:
    config = dataclasses.replace(CONFIG, max_waiting_bytes=1_000_000)
    with held_server(models, config=config, holds_callers=False) as (server, engine):
        engine.gate.clear()
        with server.connect("encoding=pcm_f32le") as connection:
            sender, _ = flood(connection, 64 * 2**20)
            heard = Heard(connection)
            code, error = heard.until_closed()
            assert (code, error["code"]) == (1008, "too_fast")
            assert max(stats["buffered_ms"] for stats in [*heard.stats, {"buffered_ms": 0}]) < 19_000
            sender.join(30)
        wait_until(lambda: server.live.num_calls == 0, "the end of the session")


def test_messages_without_sound_take_room_too(models: ServedModels) -> None:
    config = dataclasses.replace(CONFIG, max_waiting_bytes=100_000)
    with held_server(models, config=config, holds_callers=False) as (server, engine):
        engine.gate.clear()
        with server.connect("sample_rate=8000") as connection:
            with contextlib.suppress(ConnectionClosed):
                for message in [bytes(48_000), *[b""] * 5000]:
                    connection.send(message)
            code, error = Heard(connection).until_closed()
    assert (code, error["code"]) == (1008, "too_fast")


@pytest.mark.parametrize(("holds_callers", "seconds"), [(True, 4), (False, 60)])
def test_a_session_ends_with_its_client_however_much_of_his_sound_waits(
    models: ServedModels, holds_callers: bool, seconds: int
) -> None:
    places: list[str] = []

    @contextlib.contextmanager
    def admitted(scope: Scope) -> Iterator[None]:
        places.append("taken")
        yield
        places.pop()

    with held_server(models, admitted=admitted, holds_callers=holds_callers) as (server, engine):
        engine.gate.clear()
        connection = server.connect("encoding=pcm_f32le")
        flood(connection, seconds * 64_000)[0].join(30)
        heard = Heard(connection)
        while heard.until("stats")["buffered_ms"] < 900 * seconds:
            pass
        assert places == ["taken"]
        connection.socket.shutdown(socket.SHUT_RDWR)
        wait_until(lambda: server.live.num_calls == 0 and not places, "the end of the session")
        assert not engine.gate.is_set()
        connection.close()


def test_a_client_that_does_not_read_is_cut_off(models: ServedModels) -> None:
    config = dataclasses.replace(CONFIG, max_unsent_bytes=50_000, stuck_s=1.0)
    with serve(models, config) as server:
        narrow = socket.socket()
        narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, port = server.url.split("/")[2].split(":")
        narrow.connect((host, int(port)))
        chunk = sound(9, 4000, 8).tobytes()
        query = "encoding=pcm_f32le&channels=8"
        with server.connect(query, sock=narrow, max_queue=1, ping_interval=None) as connection:
            wait_until(lambda: server.live.num_calls == 1, "the session")
            # From a thread: where nobody reads on either side, sending waits for ever.
            sender = threading.Thread(target=send_until_closed, args=(connection, chunk))
            sender.start()
            try:
                wait_until(lambda: server.live.num_calls == 0, "the end of the session")
            finally:
                with contextlib.suppress(OSError):  # closed already
                    narrow.shutdown(socket.SHUT_RDWR)
                sender.join(30)
            assert not sender.is_alive()


def send_until_closed(connection: ClientConnection, chunk: bytes) -> None:
    with contextlib.suppress(ConnectionClosed):
        while True:  # as much comes back: in the end more than all buffers on the way hold
            connection.send(chunk)


def test_what_waits_for_a_client_is_bounded_in_bytes_and_in_time() -> None:
    class Stuck:
        async def send_bytes(self, data: bytes) -> None:
            await asyncio.Event().wait()

    async def scenario() -> None:
        outbox = Outbox(Stuck(), max_bytes=100)  # type: ignore[arg-type]
        posted = [outbox.post(b"0" * 30) for _ in range(5)]
        assert posted == [True, True, True, False, False]
        async with asyncio.timeout(30):
            running = asyncio.create_task(outbox.run())
            await asyncio.sleep(0.2)
            outbox.give_up_after(1000)
            await asyncio.sleep(0)
            assert not running.done()
            outbox.give_up_after(0.1)
            await running
            patient = Outbox(Stuck(), max_bytes=100)  # type: ignore[arg-type]
            patient.post(b"0")
            running = asyncio.create_task(patient.run())
            await asyncio.sleep(0)
            patient.hang_up()  # for a client who has gone nobody waits
            await running
        patient.hang_up()

    asyncio.run(scenario())
