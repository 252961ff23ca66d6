"""The client for other programs: chunks in, the whole clip's output out; refusals in the server's words."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from starlette.types import Scope

from cluster.enhancement import enhance_audio
from cluster.serving.auth import presented_key
from cluster.serving.client import StreamClient, StreamError
from cluster.serving.config import LiveConfig
from cluster.serving.errors import ApiError
from cluster.serving.live.stepper import Stepper
from cluster.serving.live.websocket import LiveCalls
from cluster.serving.models import ServedModels
from tests.cluster.serving.conftest import RunApp
from tests.cluster.serving.engines import OneModel, WatchedEngine
from tests.loopback import TakesAll
from ww_models import load_bundle

KEY = "correct-horse-battery"


@contextlib.contextmanager
def admitted(scope: Scope) -> Iterator[None]:
    if presented_key(scope) != KEY:
        raise ApiError(401, "unauthorized", "this endpoint asks for an API key")
    yield


@pytest.fixture(scope="module")
def served(run_app: Any, models: ServedModels) -> Iterator[tuple[str, LiveCalls]]:
    app, stepper = FastAPI(), Stepper()
    live = LiveCalls(app, models, stepper, LiveConfig(max_streams=16, stats_interval_s=0.1), admitted)
    app.add_api_route("/drain", live.drain, methods=["POST"])
    with run_app(app) as host:
        yield f"http://{host}", live
    stepper.close()


@pytest.fixture(scope="module")
def url(served: tuple[str, LiveCalls]) -> str:
    return served[0]


def sound(num_samples: int, *num_channels: int) -> np.ndarray:
    rng = np.random.default_rng(num_samples)
    return (0.1 * rng.standard_normal((num_samples, *num_channels))).astype(np.float32)


@pytest.mark.parametrize("num_channels", [1, 2])
@pytest.mark.parametrize("encoding", ["pcm_f32le", "pcm_s16le"])
def test_chunks_come_back_denoised(url: str, bundle: Path, num_channels: int, encoding: Any) -> None:
    shape = () if num_channels == 1 else (num_channels,)
    samples = sound(30_000, *shape)
    with StreamClient(
        url, sample_rate=48_000, channels=num_channels, encoding=encoding, api_key=KEY
    ) as client:
        assert client.session["latency_ms"] > 0
        for _ in range(2):  # one call after the other on one connection
            chunks = [samples[:10], samples[10:10], samples[10:25_000], samples[25_000:]]
            clean = np.concatenate(list(client.denoise(chunks)))
            assert clean.shape == samples.shape
            heard = samples if encoding == "pcm_f32le" else np.round(samples * 32768) / np.float32(32768)
            expected = enhance_audio(load_bundle(bundle), heard.reshape(30_000, -1), 48_000)
            tolerance = 1e-5 if encoding == "pcm_f32le" else 0.5 / 32768 + 1e-5
            np.testing.assert_allclose(clean, expected.reshape(samples.shape), atol=tolerance)


def test_sending_and_receiving_apart_with_updates(url: str) -> None:
    samples = sound(32_000)
    with StreamClient(url, strength=0.0, api_key=KEY) as client:
        sender = threading.Thread(target=lambda: (client.send(samples), client.flush()))
        sender.start()
        received = []
        while (clean := client.receive()) is not None:
            received.append(clean)
        sender.join()
        np.testing.assert_array_equal(np.concatenate(received), samples)
        client.update(bypass=True)
        with pytest.raises(TimeoutError):
            client.receive(timeout_s=0.5)
        assert client.stats["seconds"] == pytest.approx(2.0, abs=0.1)
        assert not client.is_overrun


def test_the_most_that_is_taken_away_is_a_share(url: str, bundle: Path) -> None:
    samples = sound(16_000)
    with StreamClient(url, max_attenuation_db=20, api_key=KEY) as client:
        clean = np.concatenate(list(client.denoise([samples])))
        client.update(max_attenuation_db=0.0)
        client.send(samples[:4800])
        changed = client.receive()
        assert changed is not None
        client.flush()
    expected = enhance_audio(load_bundle(bundle), samples[:, None], 16_000, strength=0.9)[:, 0]
    np.testing.assert_allclose(clean, expected, atol=1e-5)
    np.testing.assert_array_equal(changed[320:], samples[320 : len(changed)])


def test_it_raises_in_the_words_of_the_server(url: str) -> None:
    for arguments, code, word in (
        ({"api_key": None}, "unauthorized", "API key"),
        ({"model": "nobody"}, "unknown_model", "nobody"),
        ({"channels": 99}, "bad_parameter", "channels"),
    ):
        with (
            pytest.raises(StreamError, match=word) as info,
            StreamClient(url, **{"api_key": KEY, **arguments}),
        ):
            pass
        assert info.value.code == code
    with StreamClient(url, api_key=KEY) as client:
        with pytest.raises(StreamError, match="NaN") as info:
            list(client.denoise([np.full(1000, np.nan)]))
        assert info.value.code == "bad_audio"


class SlowEngine(WatchedEngine):
    """With steps that take half as long as their sound."""

    def before_step(self) -> None:
        time.sleep(0.5 * self.hop_samples / self.sample_rate)


def test_it_is_never_far_ahead_of_a_slow_server(run_app: RunApp, models: ServedModels) -> None:
    model = dataclasses.replace(models.default, engine=SlowEngine(models.default))  # type: ignore[arg-type]
    app, stepper = FastAPI(), Stepper()
    config = LiveConfig(max_streams=2, max_waiting_bytes=1, stats_interval_s=0.1)
    live = LiveCalls(app, OneModel(model), stepper, config)  # type: ignore[arg-type]
    live.holds_callers = False
    samples, most_s = sound(6 * 16_000), 0.0
    with run_app(TakesAll(app)) as host, StreamClient(f"ws://{host}", strength=0) as client:
        received = []
        for clean in client.denoise([samples]):
            received.append(clean)
            most_s = max(most_s, client.stats.get("buffered_ms", 0.0) / 1000)
        np.testing.assert_array_equal(np.concatenate(received), samples)
    assert 1.0 < most_s < 2.0
    stepper.close()


@pytest.mark.filterwarnings("error::DeprecationWarning")
def test_its_connection_is_opened_as_the_library_wants_it(url: str) -> None:
    with StreamClient(url, api_key=KEY) as client:
        assert sum(map(len, client.denoise([sound(1000)]))) == 1000
    with pytest.raises(StreamError, match="ended"):
        client.flush()


def test_nobody_there_and_no_address() -> None:
    with pytest.raises(StreamError, match="cannot connect to ws://127"), StreamClient("ws://127.0.0.1:9"):
        pass
    for wrong in ("127.0.0.1:8000", "ftp://host"):
        with pytest.raises(ValueError, match="expected something like ws://"):
            StreamClient(wrong)


@pytest.mark.parametrize("scheme", ["http", "socks5"])
def test_this_machine_is_reached_directly_and_others_through_the_proxy_that_is_named(
    url: str, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, f"{scheme}://anna:secret@127.0.0.1:9")
        monkeypatch.setenv(name.upper(), f"{scheme}://anna:secret@127.0.0.1:9")
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    port = url.rpartition(":")[2]
    for host in ("127.0.0.1", "localhost", "LOCALHOST"):
        with StreamClient(f"ws://{host}:{port}", api_key=KEY) as client:
            assert sum(map(len, client.denoise([sound(1000)]))) == 1000
    for nobody in ("ws://127.8.8.8:9", "ws://[::1]:9"):
        with (
            pytest.raises(StreamError, match=r"cannot connect to \S+: .*(refused|assign)"),
            StreamClient(nobody),
        ):
            pass
    with pytest.raises(StreamError) as info, StreamClient("ws://203.0.113.7:80"):
        pass
    assert f"through the proxy {scheme}://127.0.0.1:9 " in str(info.value)
    assert "secret" not in str(info.value)


def test_a_wrong_shape_is_refused_here(url: str) -> None:
    with StreamClient(url, channels=2, api_key=KEY) as client:
        for wrong in (np.zeros(10), np.zeros((10, 3)), np.zeros((2, 3, 2))):
            with pytest.raises(ValueError, match=r"expected samples \(n, 2\)"):
                client.send(wrong)


def test_it_tells_that_the_server_goes_away(run_app: Any, models: ServedModels) -> None:
    app, stepper = FastAPI(), Stepper()
    live = LiveCalls(app, models, stepper, LiveConfig(max_streams=2))
    app.add_api_route("/drain", live.drain, methods=["POST"])
    with run_app(app) as host, StreamClient(f"ws://{host}") as client:
        drain = threading.Thread(
            target=lambda: httpx.post(f"http://{host}/drain", params={"seconds": 0.3}, timeout=30)
        )
        drain.start()
        with pytest.raises(StreamError) as info:
            client.receive()
        assert info.value.code == "draining"
        assert client.draining == {"reason": "shutdown", "seconds": 0.3}
        drain.join()
    stepper.close()
