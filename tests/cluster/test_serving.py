"""The endpoint over real HTTP on Ray Serve, and its application alone where a test must reach inside."""

from __future__ import annotations

import asyncio
import io
import re
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile as sf
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.enhancement import enhance_audio
from cluster.serving import ServingConfig, ServingError, check_serving, serve_bundle
from cluster.serving.app import build_app
from ww_models import BundleError, Denoiser, build_model, load_bundle, read_bundle_info, save_bundle

DENOISE = "/v1/audio/denoise"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = build_model("gatewave", hidden=4, depth=2)
    return save_bundle(
        tmp_path_factory.mktemp("serving") / "tiny", model, metrics={"pesq": 1.5}, licence="MIT"
    )


@pytest.fixture(scope="module")
def client(local_ray: str, bundle: Path) -> Iterator[httpx.Client]:
    config = ServingConfig(
        port=0, cpus_per_replica=0.5, max_upload_bytes=1_000_000, max_audio_s=10, max_channels=3
    )
    with serve_bundle(bundle, config) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


def recording(seconds: float = 0.5, sample_rate: int = 16_000, num_channels: int = 1) -> np.ndarray:
    rng = np.random.default_rng(int(sample_rate * seconds) + num_channels)
    return 0.1 * rng.standard_normal((int(seconds * sample_rate), num_channels)).astype(np.float32)


def file_bytes(
    samples_TC: np.ndarray, sample_rate: int = 16_000, kind: str = "WAV", subtype: str | None = None
) -> bytes:
    buffer = io.BytesIO()
    sf.write(buffer, samples_TC, sample_rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def error_of(response: httpx.Response, status: int) -> dict[str, str]:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"type", "code", "message", "request_id"}
    assert response.headers.get_list("x-request-id") == [error["request_id"]]
    assert not re.search(r"Traceback|0x[0-9a-f]{4,}|/[a-z]+/[a-z_]+\.py", error["message"])
    return error


@pytest.mark.parametrize(
    ("kind", "subtype", "sample_rate", "num_channels"),
    [
        ("WAV", "PCM_16", 16_000, 1),
        ("WAV", "PCM_24", 48_000, 2),
        ("WAV", "FLOAT", 44_100, 3),
        ("WAV", "PCM_U8", 8000, 1),
        ("FLAC", "PCM_16", 22_050, 2),
        ("OGG", "VORBIS", 32_000, 1),
        ("MP3", None, 44_100, 2),
    ],
)
@pytest.mark.parametrize("response_format", ["wav", "flac", "ogg"])
def test_reply_has_the_rate_channels_and_length_of_the_input(
    client: httpx.Client,
    kind: str,
    subtype: str | None,
    sample_rate: int,
    num_channels: int,
    response_format: str,
) -> None:
    data = file_bytes(recording(0.3, sample_rate, num_channels), sample_rate, kind, subtype)
    response = client.post(
        DENOISE, files={"file": (f"a.{kind.lower()}", data)}, data={"response_format": response_format}
    )
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == f"audio/{response_format}"
    sent, received = sf.info(io.BytesIO(data)), sf.info(io.BytesIO(response.content))
    assert (received.samplerate, received.channels, received.frames) == (
        sent.samplerate,
        sent.channels,
        sent.frames,
    )
    if response_format != "ogg":
        assert received.subtype == ("PCM_24" if subtype in {"PCM_24", "FLOAT"} else "PCM_16")


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
def test_strength_zero_gives_back_the_input(client: httpx.Client, subtype: str) -> None:
    data = file_bytes(recording(0.5, 44_100, 2), 44_100, subtype=subtype)
    response = client.post(DENOISE, content=data, params={"strength": "0", "response_format": "flac"})
    sent, received = (sf.read(io.BytesIO(x), dtype="int32")[0] for x in (data, response.content))
    assert np.array_equal(sent, received)


def test_reply_is_what_the_model_makes(client: httpx.Client, bundle: Path) -> None:
    data = file_bytes(recording(1.0))
    response = client.post(
        DENOISE, content=data, headers={"content-type": "audio/wav"}, params={"strength": "0.7"}
    )
    expected_TC = enhance_audio(
        load_bundle(bundle), sf.read(io.BytesIO(data), dtype="float32", always_2d=True)[0], 16_000, 0.7
    )
    received_TC = sf.read(io.BytesIO(response.content), dtype="float32", always_2d=True)[0]
    np.testing.assert_allclose(received_TC, expected_TC.clip(-1, 1), atol=2e-4)


def test_headers_say_who_did_it_and_how_long_it_took(client: httpx.Client, bundle: Path) -> None:
    response = client.post(DENOISE, content=file_bytes(recording()), headers={"X-Request-Id": "mine-1"})
    assert response.headers.get_list("x-request-id") == ["mine-1"]
    assert response.headers["x-model-id"] == read_bundle_info(bundle).id
    assert 0 < float(response.headers["x-real-time-factor"]) < 20
    assert re.fullmatch(
        r"decode;dur=[\d.]+, enhance;dur=[\d.]+, encode;dur=[\d.]+", response.headers["server-timing"]
    )


def test_models_and_health(client: httpx.Client, bundle: Path) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    (model,) = client.get("/v1/models").json()["data"]
    info = read_bundle_info(bundle)
    assert (model["id"], model["architecture"], model["sample_rate"]) == (info.id, "gatewave", 16_000)
    assert (model["num_parameters"], model["metrics"]) == (info.num_parameters, {"pesq": 1.5})
    assert model["latency_ms"] == pytest.approx(info.latency_ms)
    assert model["real_time_factor"] > 0
    assert DENOISE in client.get("/openapi.json").json()["paths"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not audio",
        b"RIFF\x00\x00\x00\x00WAVE",
        file_bytes(recording())[:-9000],
        file_bytes(recording()[:0]),
    ],
    ids=["empty", "text", "header", "cut", "no samples"],
)
def test_bad_audio_is_400(client: httpx.Client, data: bytes) -> None:
    for request in ({"content": data}, {"files": {"file": ("a.wav", data)}}):
        assert error_of(client.post(DENOISE, **request), 400)["type"] == "invalid_request"


def test_samples_that_are_no_numbers_are_400(client: httpx.Client) -> None:
    data = file_bytes(np.full((100, 1), np.nan, np.float32), subtype="FLOAT")
    assert "NaN" in error_of(client.post(DENOISE, content=data), 400)["message"]


def test_an_odd_sample_rate_is_400(client: httpx.Client) -> None:
    data = file_bytes(recording(), 250_000)
    assert "192000 Hz" in error_of(client.post(DENOISE, content=data), 400)["message"]


def test_over_a_limit_is_413_and_says_the_limit(client: httpx.Client) -> None:
    too_many = b"0" * 1_100_000
    for request in ({"content": too_many}, {"content": iter([too_many])}, {"files": {"file": too_many}}):
        error = error_of(client.post(DENOISE, **request), 413)
        assert error["code"] == "too_many_bytes"
        assert "1000000" in error["message"]
    silence = file_bytes(np.zeros((16_000 * 600, 1), np.int16), kind="FLAC")  # ten minutes in a few kilobytes
    assert "10 s" in error_of(client.post(DENOISE, content=silence), 413)["message"]
    many = file_bytes(recording(num_channels=4))
    assert error_of(client.post(DENOISE, content=many), 413)["code"] == "too_many_channels"


def test_what_is_declared_not_to_be_audio_is_415(client: httpx.Client) -> None:
    assert "application/json" in error_of(client.post(DENOISE, json={}), 415)["message"]
    files = {"file": ("a.png", b"x", "image/png")}
    assert "image/png" in error_of(client.post(DENOISE, files=files), 415)["message"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("strength", "1.5"),
        ("strength", "nan"),
        ("strength", "much"),
        ("response_format", "mp3"),
        ("strenght", "1"),
    ],
)
def test_a_wrong_option_is_422_and_named(client: httpx.Client, name: str, value: str) -> None:
    data = file_bytes(recording())
    for request in (
        {"content": data, "params": {name: value}},
        {"files": {"file": data}, "data": {name: value}},
    ):
        assert error_of(client.post(DENOISE, **request), 422)["message"].startswith(f"{name}: ")


def test_a_form_without_file_is_422(client: httpx.Client) -> None:
    data = file_bytes(recording())
    assert error_of(client.post(DENOISE, files={"audio": data}), 422)["message"].startswith("file: ")
    broken = client.post(DENOISE, content=b"x", headers={"content-type": "multipart/form-data"})
    error_of(broken, 400)


def test_unknown_paths_and_methods_are_json_too(client: httpx.Client) -> None:
    assert error_of(client.get("/nope"), 404)["code"] == "not_found"
    assert error_of(client.get(DENOISE), 405)["code"] == "method_not_allowed"


@settings(max_examples=25, deadline=None)
@given(junk=st.binary(max_size=200), place=st.integers(0, 60), kind=st.sampled_from(["WAV", "FLAC", "OGG"]))
def test_damaged_files_never_end_in_a_500(client: httpx.Client, junk: bytes, place: int, kind: str) -> None:
    data = file_bytes(recording(0.05), kind=kind)
    response = client.post(DENOISE, content=data[:place] + junk + data[place + len(junk) :])
    assert response.status_code in {200, 400, 413}, response.text
    assert client.get("/healthz").status_code == 200


def test_a_taken_port_is_said_before_anything_starts(bundle: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(ServingError, match=rf"127\.0\.0\.1:{port} .*in use"):
            check_serving(bundle, ServingConfig(port=port))
    assert check_serving(bundle, ServingConfig(port=port)).port == port
    assert check_serving(bundle, ServingConfig(port=0)).port > 0


def test_a_damaged_bundle_is_refused_before_anything_starts(bundle: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(bundle, tmp_path / "damaged"))
    weights = damaged / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\x00\x01\x02\x03")
    for path in (damaged, tmp_path):
        with pytest.raises(BundleError):
            check_serving(path, ServingConfig(port=0))


def test_a_second_endpoint_is_refused(client: httpx.Client, bundle: Path) -> None:
    with pytest.raises(ServingError, match="already"), serve_bundle(bundle, ServingConfig(port=0)):
        pass
    assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    "wrong",
    [
        {"port": 70_000},
        {"num_replicas": 0},
        {"max_audio_s": 0},
        {"cpus_per_replica": -1},
        {"num_workers": 9, "max_pending": 8},
        {"min_sample_rate": 50_000, "max_sample_rate": 8000},
    ],
)
def test_config_is_checked(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ServingConfig(**wrong)


class Gate:
    """A model that waits in the middle of its work until the test lets it go on."""

    def __init__(self, model: Denoiser) -> None:
        self.entered, self.open = threading.Event(), threading.Event()
        self._denoise = model.denoise
        model.denoise = self.wait  # type: ignore[method-assign]
        self.open.set()

    def wait(self, scaled: torch.Tensor) -> torch.Tensor:
        self.entered.set()
        assert self.open.wait(30)
        return self._denoise(scaled)


def test_busy_is_503_and_a_left_caller_keeps_its_slot_until_the_work_is_done(bundle: Path) -> None:
    model = load_bundle(bundle)
    gate = Gate(model)
    app = build_app(model, read_bundle_info(bundle), ServingConfig(max_pending=1))
    data = file_bytes(recording(0.1))

    async def scenario() -> None:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            gate.entered.clear()
            gate.open.clear()
            first = asyncio.create_task(client.post(DENOISE, content=data))
            assert await asyncio.to_thread(gate.entered.wait, 30)
            second = await client.post(DENOISE, content=data)
            assert error_of(second, 503)["type"] == "overloaded"
            assert second.headers["retry-after"] == "1"
            assert (await client.get("/healthz")).status_code == 200  # the event loop is free
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            error_of(await client.post(DENOISE, content=data), 503)
            gate.open.set()
            for _ in range(100):
                response = await client.post(DENOISE, content=data)
                if response.status_code == 200:
                    return
                await asyncio.sleep(0.05)
            raise AssertionError("the slot never became free")

    asyncio.run(scenario())


def test_our_own_faults_are_500_without_internals(bundle: Path) -> None:
    model = load_bundle(bundle)
    app = build_app(model, read_bundle_info(bundle), ServingConfig())

    def fail(scaled: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("secret detail")

    model.denoise = fail  # type: ignore[method-assign]

    async def scenario() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post(DENOISE, content=file_bytes(recording(0.1)))

    error = error_of(asyncio.run(scenario()), 500)
    assert error["type"] == "internal"
    assert "secret" not in error["message"]


def test_no_room_on_the_cluster_is_said_with_the_arithmetic(local_ray: str, bundle: Path) -> None:
    config = ServingConfig(port=0, num_replicas=3, cpus_per_replica=1)
    with pytest.raises(ServingError, match=r"3 replica\(s\) x 1 CPU = 3 CPU"), serve_bundle(bundle, config):
        pass
