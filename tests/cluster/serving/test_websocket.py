"""Live calls over real sockets: the protocol of docs/serving.md, and its limits."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Scope
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from cluster.enhancement import enhance_audio
from cluster.serving import websocket
from cluster.serving.errors import ApiError
from cluster.serving.live_config import LiveConfig
from cluster.serving.models import ServedModel, ServedModels
from cluster.serving.outbox import Outbox
from cluster.serving.protocol import PATH
from cluster.serving.stepper import Stepper
from cluster.serving.websocket import Admitted, LiveCalls, add_websocket
from ww_models import load_bundle, read_bundle_info
from ww_models.step_engine import Samples, State

from .conftest import TakesAll

HOP = 256
# The numbers of streams are given: what this machine would carry is no matter of these tests.
CONFIG = LiveConfig(max_streams=16, stats_interval_s=0.1)
Serve = Callable[..., contextlib.AbstractContextManager["Server"]]


@dataclasses.dataclass
class Server:
    """A running application. url: of the live endpoint."""

    url: str
    live: LiveCalls
    app: FastAPI

    def connect(self, query: str = "", **arguments: Any) -> ClientConnection:
        return connect(f"{self.url}?{query}", compression=None, max_size=None, **arguments)


@pytest.fixture(scope="session")
def serve(run_app: Any) -> Serve:
    @contextlib.contextmanager
    def serve(
        models: Any, config: LiveConfig = CONFIG, admitted: Admitted | None = None, holds_clients: bool = True
    ) -> Iterator[Server]:
        app, stepper = FastAPI(), Stepper()
        live = add_websocket(app, models, stepper, config, *([admitted] if admitted else []))
        app.add_api_route("/drain", live.drain, methods=["POST"])
        live.holds_clients = holds_clients
        with run_app(app if holds_clients else TakesAll(app)) as host:
            yield Server(f"ws://{host}{PATH}", live, app)
        stepper.close()

    return serve


@pytest.fixture(scope="module")
def server(serve: Serve, models: ServedModels) -> Iterator[Server]:
    with serve(models) as server:
        yield server


def sound(seed: int, num_samples: int = 4000, num_channels: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (0.1 * rng.standard_normal((num_samples, num_channels))).astype(np.float32)


class Heard:
    """What a client received: sound (T, C), and messages without the statistics."""

    def __init__(self, connection: ClientConnection, num_channels: int = 1) -> None:
        self.connection, self.num_channels = connection, num_channels
        self.sound = b""
        self.messages: list[dict[str, Any]] = []
        self.stats: list[dict[str, Any]] = []

    @property
    def samples(self) -> np.ndarray:
        return np.frombuffer(self.sound, "<f4").reshape(-1, self.num_channels)

    def until(self, kind: str) -> dict[str, Any]:
        """Listens until a message of this kind."""
        while True:
            content = self.listen()
            if content.get("type") == kind:
                return content

    def until_samples(self, num_samples: int) -> None:
        while len(self.samples) < num_samples:
            self.listen()

    def listen(self) -> dict[str, Any]:
        """Takes one message, which it returns if it is a text."""
        message = self.connection.recv(30)
        if isinstance(message, bytes):
            self.sound += message
            return {}
        content = json.loads(message)
        (self.stats if content["type"] == "stats" else self.messages).append(content)
        return content

    def until_closed(self) -> tuple[int, dict[str, Any]]:
        """Listens to the end: the close code and the error before it, if there was one."""
        with pytest.raises(ConnectionClosed) as info:
            self.until("nothing of this kind")
        errors = [message for message in self.messages if message["type"] == "error"]
        assert len(errors) <= 1
        assert not errors or self.messages[-1] is errors[0], "an error is the last word"
        code = info.value.rcvd.code if info.value.rcvd else 1006
        return code, errors[0] if errors else {}


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come about"
        time.sleep(0.005)


def denoised(bundle: Path, samples: np.ndarray, rate: int = 16_000) -> np.ndarray:
    return enhance_audio(load_bundle(bundle), samples, rate)


def test_two_sessions_at_once_each_get_their_own_whole_clip(server: Server, bundle: Path) -> None:
    sounds = [(16_000, sound(1, 9000, 1)), (44_100, sound(2, 20_000, 2))]
    results: dict[int, np.ndarray] = {}

    def call(rate: int, samples: np.ndarray) -> None:
        channels = samples.shape[1]
        with server.connect(f"encoding=pcm_f32le&sample_rate={rate}&channels={channels}") as connection:
            heard = Heard(connection, channels)
            created = heard.until("session.created")
            assert created["input_sample_rate"] == rate
            assert created["model_sample_rate"] == 16_000
            assert created["channels"] == channels
            for chunk in np.array_split(samples, 37):
                connection.send(chunk.tobytes())
            connection.send(json.dumps({"type": "close"}))
            flushed = heard.until("flushed")
            assert flushed["samples_in"] == flushed["samples_out"] == len(samples)
            assert heard.until_closed() == (1000, {})
            results[rate] = heard.samples

    threads = [threading.Thread(target=call, args=arguments) for arguments in sounds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for rate, samples in sounds:
        np.testing.assert_allclose(results[rate], denoised(bundle, samples, rate), atol=1e-5)


@pytest.mark.parametrize("rate", [8000, 16_000, 44_100, 48_000])
def test_the_latency_in_session_created_is_true(server: Server, rate: int) -> None:
    with server.connect(f"encoding=pcm_f32le&sample_rate={rate}") as connection:
        heard = Heard(connection)
        created = heard.until("session.created")
        latency_samples = created["latency_samples"]
        assert created["latency_ms"] == pytest.approx(1000 * latency_samples / rate, abs=0.01)
        assert created["frame_ms"] == 16.0
        num_in = 0
        for size in (rate // 3, 7, rate // 100, 1, rate // 4):
            connection.send(sound(size, size).tobytes())
            num_in += size
            heard.until_samples(num_in - latency_samples)
        assert len(heard.samples) <= num_in


def test_a_flush_ends_a_stream_and_the_next_sound_begins_another(server: Server, bundle: Path) -> None:
    samples = sound(3, 3000)
    with server.connect("encoding=pcm_f32le&sample_rate=48000") as connection:
        heard = Heard(connection)
        for number in range(3):
            connection.send(samples.tobytes())
            connection.send('{"type": "flush"}')
            flushed = heard.until("flushed")
            assert flushed == {"type": "flushed", "samples_in": 3000, "samples_out": 3000}
            assert len(heard.samples) == 3000 * (number + 1)
        connection.send('{"type": "flush"}')
        assert heard.until("flushed")["samples_out"] == 0
        expected = denoised(bundle, samples, 48_000)
        np.testing.assert_allclose(heard.samples, np.concatenate([expected] * 3), atol=1e-5)


def test_16_bits_are_the_default_at_the_rate_of_the_model(server: Server, bundle: Path) -> None:
    samples = np.rint(32768 * sound(4)) / 32768
    with server.connect() as connection:
        heard = Heard(connection)
        created = heard.until("session.created")
        assert (created["encoding"], created["input_sample_rate"]) == ("pcm_s16le", 16_000)
        connection.send((32768 * samples).astype("<i2").tobytes())
        connection.send('{"type": "flush"}')
        heard.until("flushed")
    received = np.frombuffer(heard.sound, "<i2")[:, None] / 32768
    np.testing.assert_allclose(received, denoised(bundle, samples.astype(np.float32)), atol=0.6 / 32768)


def test_an_update_is_answered_and_goes_over_without_a_click(server: Server, bundle: Path) -> None:
    t = np.arange(16_000)[:, None] / 16_000
    samples = (0.5 * np.sin(2 * np.pi * 200 * t)).astype(np.float32)
    clean = denoised(bundle, samples)
    with server.connect("encoding=pcm_f32le") as connection:
        heard = Heard(connection)
        connection.send(samples[:8000].tobytes())
        heard.until_samples(7000)
        connection.send('{"type": "session.update", "strength": 0.5}')
        assert heard.until("session.updated") == {
            "type": "session.updated",
            "strength": 0.5,
            "bypass": False,
        }
        num_before = len(heard.samples)
        connection.send('{"type": "session.update", "bypass": true}')
        assert heard.until("session.updated")["bypass"] is True
        num_changed = len(heard.samples) + 320  # 20 ms later all is the input
        connection.send(samples[8000:].tobytes())
        connection.send('{"type": "flush"}')
        heard.until("flushed")
    np.testing.assert_allclose(heard.samples[:num_before], clean[:num_before], atol=1e-5)
    np.testing.assert_array_equal(heard.samples[num_changed:], samples[num_changed:])
    step = max(np.abs(np.diff(signal, axis=0)).max() for signal in (samples, clean))
    ramp_step = np.abs(clean - samples).max() / 320
    assert np.abs(np.diff(heard.samples, axis=0)).max() <= step + 1.01 * ramp_step


def test_statistics_come_by_themselves_and_a_ping_is_answered(server: Server) -> None:
    with server.connect("encoding=pcm_s16le") as connection:
        heard = Heard(connection)
        loud = np.full(8000, 32767, "<i2")
        loud[::2] = -32768
        connection.send(loud.tobytes())
        connection.send('{"type": "ping"}')
        heard.until("pong")
        while not heard.stats or heard.stats[-1]["seconds"] < 0.4:
            heard.until("stats")
        stats = heard.stats[-1]
        assert set(stats) == {
            "type",
            "real_time_factor",
            "processing_ms_p50",
            "processing_ms_p99",
            "buffered_ms",
            "clipped_samples",
            "seconds",
        }
        assert 0 < stats["processing_ms_p50"] <= stats["processing_ms_p99"]
        assert stats["buffered_ms"] == 0


def test_a_short_stream_has_its_statistics_before_it_is_flushed(serve: Serve, models: ServedModels) -> None:
    config = dataclasses.replace(CONFIG, stats_interval_s=60)
    with serve(models, config) as server, server.connect() as connection:
        heard = Heard(connection)
        for number in (1, 2):
            connection.send(bytes(2 * 8000))
            connection.send('{"type": "flush"}')
            heard.until("flushed")
            assert [stats["seconds"] for stats in heard.stats] == [
                pytest.approx(0.5 * each, abs=0.05) for each in range(1, number + 1)
            ]
            assert heard.stats[-1]["real_time_factor"] > 0
            assert heard.stats[-1]["processing_ms_p99"] > 0
        connection.send('{"type": "flush"}')
        heard.until("flushed")
        assert len(heard.stats) == 2, "no news, no statistics"


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("encoding=mp3", "encoding"),
        ("sample_rate=47999", "sample_rate"),
        ("sample_rate=1000", "sample_rate"),
        ("sample_rate=much", "sample_rate"),
        ("channels=0", "channels"),
        ("channels=9", "channels"),
        ("strength=1.1", "strength"),
        ("strength=nan", "strength"),
        ("strenght=1", "strenght"),
    ],
)
def test_a_wrong_parameter_is_named(server: Server, query: str, word: str) -> None:
    with server.connect(query) as connection:
        code, error = Heard(connection).until_closed()
    assert (code, error["code"], error["parameter"]) == (1008, "bad_parameter", word)
    assert word in error["message"]
    assert error["session_id"]


def test_an_unknown_model_and_one_that_cannot_run_live_are_refused(
    serve: Serve, bundle: Path, whole_clip_bundle: Path
) -> None:
    models = ServedModels([bundle, whole_clip_bundle])
    whole_id = read_bundle_info(whole_clip_bundle).id
    with serve(models) as server:
        for model, code in (("nobody", "unknown_model"), (whole_id, "not_live")):
            with server.connect(f"model={model}") as connection:
                closed, error = Heard(connection).until_closed()
            assert (closed, error["code"]) == (1008, code)
            assert model in error["message"]


@pytest.mark.parametrize(
    ("query", "message", "closed", "code"),
    [
        ("", b"\0" * 3, 1007, "bad_audio"),
        ("channels=2", b"\0" * 6, 1007, "bad_audio"),
        ("encoding=pcm_f32le", np.array([0, np.nan], "<f4").tobytes(), 1007, "bad_audio"),
        ("encoding=pcm_f32le", np.array([np.inf], "<f4").tobytes(), 1007, "bad_audio"),
        ("", b"\0" * (CONFIG.max_message_bytes + 2), 1009, "message_too_big"),
        ("", "no JSON", 1003, "bad_message"),
        ("", "[" * 100_000, 1003, "bad_message"),
        ("", '{"type": "sing"}', 1003, "bad_message"),
        ("", '{"type": 3}', 1003, "bad_message"),
        ("", '{"type": "session.update"}', 1003, "bad_message"),
        ("", '{"type": "session.update", "strength": NaN}', 1003, "bad_message"),
        ("", '{"type": "session.update", "strength": true}', 1003, "bad_message"),
        ("", '{"type": "session.update", "strenght": 1}', 1003, "bad_message"),
        ("", '{"type": "session.update", "bypass": 1}', 1003, "bad_message"),
    ],
)
def test_what_is_no_sound_and_no_message_ends_the_session_with_a_reason(
    server: Server, query: str, message: str | bytes, closed: int, code: str
) -> None:
    with server.connect(query) as connection:
        heard = Heard(connection)
        heard.until("session.created")
        connection.send(message)
        found, error = heard.until_closed()
    assert (found, error["code"]) == (closed, code)
    wait_until(lambda: server.live.num_sessions == 0, "the end of the session")


@settings(max_examples=30)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=600),
            st.text(max_size=60),
            st.sampled_from(["flush", "ping", "close"]).map(lambda kind: json.dumps({"type": kind})),
            st.dictionaries(st.sampled_from(["type", "strength", "bypass"]), st.integers() | st.text()).map(
                json.dumps
            ),
        ),
        max_size=8,
    )
)
def test_no_messages_are_ever_our_fault(server: Server, messages: list[str | bytes]) -> None:
    with server.connect("encoding=pcm_f32le") as connection:
        heard = Heard(connection)
        with contextlib.suppress(ConnectionClosed):
            for message in messages:
                connection.send(message)
            connection.send('{"type": "close"}')
        code, error = heard.until_closed()
    assert code in {1000, 1003, 1007}, error
    assert bool(error) == (code != 1000)


def test_who_says_nothing_is_sent_away(serve: Serve, models: ServedModels) -> None:
    config = dataclasses.replace(CONFIG, idle_s=0.5)
    with serve(models, config) as server, server.connect() as idle, server.connect() as busy:
        heard = Heard(idle)
        heard.until("session.created")

        def keep_busy() -> None:
            with contextlib.suppress(ConnectionClosed):
                while True:
                    busy.send('{"type": "ping"}')
                    time.sleep(0.05)

        thread = threading.Thread(target=keep_busy)
        thread.start()
        code, error = heard.until_closed()
        assert (code, error["code"]) == (1008, "idle")
        busy.ping().wait(5)
        assert server.live.num_sessions == 1
        busy.close()
        thread.join()


def test_one_session_too_many_is_told_when_to_come_again(serve: Serve, models: ServedModels) -> None:
    with serve(models, dataclasses.replace(CONFIG, max_streams=3)) as server:
        with server.connect("channels=2") as first, server.connect() as second:
            for connection in (first, second):
                Heard(connection).until("session.created")
            assert server.live.load == pytest.approx(1)
            with server.connect() as third:
                code, error = Heard(third).until_closed()
            assert (code, error["code"]) == (1013, "busy")
            assert error["retry_after_s"] > 0
        wait_until(lambda: server.live.num_sessions == 0, "the end of both sessions")
        with server.connect("channels=3") as later:
            Heard(later).until("session.created")


def test_who_may_not_enter_hears_why_and_the_key_may_come_as_a_subprotocol(
    serve: Serve, models: ServedModels
) -> None:
    held: list[str] = []

    @contextlib.contextmanager
    def admitted(scope: Scope) -> Iterator[None]:
        if "key.open-sesame" not in scope["subprotocols"]:
            raise ApiError(401, "unauthorized", "this endpoint asks for an API key")
        held.append("in")
        yield
        held.append("out")

    with serve(models, admitted=admitted) as server:
        with server.connect() as connection:
            code, error = Heard(connection).until_closed()
        assert (code, error["code"]) == (1008, "unauthorized")
        with server.connect(subprotocols=["wave-wizard", "key.open-sesame"]) as connection:
            Heard(connection).until("session.created")
            assert connection.subprotocol == "wave-wizard"
            assert held == ["in"]
        wait_until(lambda: held == ["in", "out"], "the end of the session")


def test_a_connection_that_breaks_leaves_nothing_behind(server: Server) -> None:
    connection = server.connect()
    Heard(connection).until("session.created")
    connection.send(sound(5).tobytes())
    connection.socket.shutdown(socket.SHUT_RDWR)
    wait_until(lambda: server.live.num_sessions == 0, "the end of the session")
    connection.close()


def test_a_promotion_leaves_sessions_on_their_model(serve: Serve, bundle: Path, other_bundle: Path) -> None:
    models, samples = ServedModels([bundle]), sound(6, 8000)
    with serve(models) as server, server.connect("encoding=pcm_f32le") as connection:
        heard = Heard(connection)
        assert heard.until("session.created")["model"] == read_bundle_info(bundle).id
        connection.send(samples[:5000].tobytes())
        heard.until_samples(4000)
        models.replace([other_bundle])
        connection.send(samples[5000:].tobytes())
        connection.send('{"type": "flush"}')
        with server.connect("encoding=pcm_f32le") as later:
            heard_later = Heard(later)
            assert heard_later.until("session.created")["model"] == read_bundle_info(other_bundle).id
            later.send(samples.tobytes())
            later.send('{"type": "flush"}')
            heard_later.until("flushed")
        heard.until("flushed")
    np.testing.assert_allclose(heard.samples, denoised(bundle, samples), atol=1e-5)
    np.testing.assert_allclose(heard_later.samples, denoised(other_bundle, samples), atol=1e-5)
    assert np.abs(heard.samples - heard_later.samples).max() > 1e-3


class HeldEngine:
    """The engine of a model, whose steps wait at a gate, or fail."""

    def __init__(self, model: ServedModel) -> None:
        assert model.engine is not None
        self._engine = model.engine
        for name in ("sample_rate", "hop_samples", "lead_samples", "lag_samples", "latency_samples"):
            setattr(self, name, getattr(model.engine, name))
        self.gate, self.fails = threading.Event(), False
        self.gate.set()

    def initial_state(self, batch: int) -> State:
        return self._engine.initial_state(batch)

    def bind(self, chunk: Samples, state: State, output: Samples, next_state: State) -> Callable[[], None]:
        run = self._engine.bind(chunk, state, output, next_state)

        def held() -> None:
            assert self.gate.wait(30)
            if self.fails:
                raise RuntimeError("secret detail")
            run()

        return held


class OneModel:
    """What `add_websocket` needs of ServedModels."""

    def __init__(self, model: ServedModel) -> None:
        self.default = model

    def all(self) -> list[ServedModel]:
        return [self.default]

    def get(self, model_id: str | None) -> ServedModel:
        return self.default


@contextlib.contextmanager
def held_server(serve: Serve, models: ServedModels, **arguments: Any) -> Iterator[tuple[Server, HeldEngine]]:
    engine = HeldEngine(models.default)
    model = dataclasses.replace(models.default, engine=engine)  # type: ignore[arg-type]
    with serve(OneModel(model), **arguments) as server:
        yield server, engine
        engine.gate.set()


@pytest.fixture
def held(serve: Serve, models: ServedModels) -> Iterator[tuple[Server, HeldEngine]]:
    with held_server(serve, models) as held:
        yield held


def test_a_server_that_is_behind_says_so_and_loses_nothing(
    held: tuple[Server, HeldEngine], bundle: Path
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


def test_who_sends_too_much_is_held_back_where_the_server_can(held: tuple[Server, HeldEngine]) -> None:
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


def test_who_sends_too_much_is_sent_away_where_nothing_holds_clients(
    serve: Serve, models: ServedModels
) -> None:
    config = dataclasses.replace(CONFIG, max_waiting_bytes=1_000_000)
    with held_server(serve, models, config=config, holds_clients=False) as (server, engine):
        engine.gate.clear()
        with server.connect("encoding=pcm_f32le") as connection:
            sender, _ = flood(connection, 64 * 2**20)
            heard = Heard(connection)
            code, error = heard.until_closed()
            assert (code, error["code"]) == (1008, "too_fast")
            assert max(stats["buffered_ms"] for stats in [*heard.stats, {"buffered_ms": 0}]) < 19_000
            sender.join(30)
        wait_until(lambda: server.live.num_sessions == 0, "the end of the session")


def test_messages_without_sound_take_room_too(serve: Serve, models: ServedModels) -> None:
    config = dataclasses.replace(CONFIG, max_waiting_bytes=100_000)
    with held_server(serve, models, config=config, holds_clients=False) as (server, engine):
        engine.gate.clear()
        with server.connect("sample_rate=8000") as connection:
            with contextlib.suppress(ConnectionClosed):
                for message in [bytes(48_000), *[b""] * 5000]:
                    connection.send(message)
            code, error = Heard(connection).until_closed()
    assert (code, error["code"]) == (1008, "too_fast")


@pytest.mark.parametrize(("holds_clients", "seconds"), [(True, 4), (False, 60)])
def test_a_session_ends_with_its_client_however_much_of_his_sound_waits(
    serve: Serve, models: ServedModels, holds_clients: bool, seconds: int
) -> None:
    places: list[str] = []

    @contextlib.contextmanager
    def admitted(scope: Scope) -> Iterator[None]:
        places.append("taken")
        yield
        places.pop()

    with held_server(serve, models, admitted=admitted, holds_clients=holds_clients) as (server, engine):
        engine.gate.clear()
        connection = server.connect("encoding=pcm_f32le")
        flood(connection, seconds * 64_000)[0].join(30)
        heard = Heard(connection)
        while heard.until("stats")["buffered_ms"] < 900 * seconds:
            pass
        assert places == ["taken"]
        connection.socket.shutdown(socket.SHUT_RDWR)
        wait_until(lambda: server.live.num_sessions == 0 and not places, "the end of the session")
        assert not engine.gate.is_set()
        connection.close()


def test_it_is_measured_once_how_many_streams_fit(
    models: ServedModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []

    def measure(*_: object) -> int:
        begun.append(1)
        time.sleep(0.1)
        return 7

    monkeypatch.setattr(websocket, "measure_max_streams", measure)
    live = add_websocket(FastAPI(), models, Stepper(), LiveConfig())
    later = dataclasses.replace(models.default)
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(live.max_streams, [later] * 4)) == [7] * 4
    assert len(begun) == 2, "each model once"


def test_our_own_fault_ends_the_session_without_internals(held: tuple[Server, HeldEngine]) -> None:
    server, engine = held
    for fails in (True, False):  # and the next one works again
        engine.fails = fails
        with server.connect("encoding=pcm_f32le") as connection:
            heard = Heard(connection)
            connection.send(sound(8).tobytes())
            if not fails:
                heard.until_samples(3000)
                continue
            code, error = heard.until_closed()
            assert (code, error["code"]) == (1011, "internal_error")
            assert "secret" not in error["message"]


def test_a_client_that_does_not_read_is_cut_off(serve: Serve, models: ServedModels) -> None:
    config = dataclasses.replace(CONFIG, max_unsent_bytes=50_000, stuck_s=1.0)
    with serve(models, config) as server:
        narrow = socket.socket()
        narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, port = server.url.split("/")[2].split(":")
        narrow.connect((host, int(port)))
        chunk = sound(9, 4000, 8).tobytes()
        query = "encoding=pcm_f32le&channels=8"
        with server.connect(query, sock=narrow, max_queue=1, ping_interval=None) as connection:
            wait_until(lambda: server.live.num_sessions == 1, "the session")
            # From a thread: where nobody reads on either side, sending waits for ever.
            sender = threading.Thread(target=send_until_closed, args=(connection, chunk))
            sender.start()
            try:
                wait_until(lambda: server.live.num_sessions == 0, "the end of the session")
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
        outbox = Outbox(Stuck(), max_bytes=100, stuck_s=0.2)  # type: ignore[arg-type]
        posted = [outbox.post(b"0" * 30) for _ in range(5)]
        assert posted == [True, True, True, False, False]
        async with asyncio.timeout(30):
            await outbox.run()  # returns, since nothing goes out
            patient = Outbox(Stuck(), max_bytes=100, stuck_s=1000)  # type: ignore[arg-type]
            patient.post(b"0")
            running = asyncio.create_task(patient.run())
            await asyncio.sleep(0)
            patient.hang_up()  # for a client who has gone nobody waits
            await running
        patient.hang_up()

    asyncio.run(scenario())


def test_draining_lets_calls_end_and_nobody_in(serve: Serve, models: ServedModels) -> None:
    with serve(models) as server, server.connect() as first, server.connect() as second:
        calls = [Heard(first), Heard(second)]
        for heard in calls:
            heard.until("session.created")
        url = server.url.replace("ws://", "http://").replace(PATH, "/drain")
        drain = threading.Thread(
            target=lambda: httpx.post(url, params={"seconds": 1.5, "reason": "redeploy"}, timeout=30)
        )
        drain.start()
        for heard in calls:
            notice = heard.until("draining")
            assert notice == {"type": "draining", "reason": "redeploy", "seconds": 1.5}
        with server.connect() as late:
            code, error = Heard(late).until_closed()
            assert (code, error["code"]) == (1001, "draining")
        first.send(sound(10).tobytes())
        first.send('{"type": "close"}')
        assert calls[0].until_closed() == (1000, {})
        assert calls[1].until_closed() == (1001, {}), "time is up"
        drain.join(30)
        assert server.live.num_sessions == 0
