"""Files over real HTTP: what comes back, and how a request that cannot be answered is refused."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile as sf
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.enhancement import FileDenoiser, enhance_audio
from cluster.serving.config import AudioLimits, ServingConfig
from cluster.serving.models import ServedModels
from cluster.serving.web.app import build_app
from cluster.serving.web.error_replies import install_error_handlers
from cluster.serving.web.observability import RequestLog
from tests.cluster.serving.callers import half_an_upload, wait_until
from tests.cluster.serving.clips import DENOISE, error_of, file_bytes, recording, samples_of
from tests.cluster.serving.replica import file_process
from tests.ww_data.audio.made_files import by_ffmpeg, by_libsndfile, id3, sound, with_bytes, with_size
from ww_data.audio import open_audio, read_audio
from ww_models import load_bundle, read_bundle_info

CONFIG = ServingConfig(
    max_upload_bytes=4_000_000,
    max_pending=6,
    upload_stall_s=5,
    max_buffered_s=4,
    audio=AudioLimits(max_seconds=60, max_channels=3),
)


@pytest.fixture(scope="module")
def app(bundle: Path, whole_clip_bundle: Path) -> FastAPI:
    return build_app(ServedModels([bundle, whole_clip_bundle]), CONFIG)


@pytest.fixture(scope="module")
def client(app: FastAPI, run_app: Callable) -> Iterator[httpx.Client]:
    with run_app(app) as host, httpx.Client(base_url=f"http://{host}", timeout=240) as client:
        yield client


@pytest.mark.parametrize(
    ("kind", "subtype", "sample_rate", "num_channels"),
    [
        ("WAV", "PCM_16", 16_000, 1),
        ("WAV", "PCM_24", 48_000, 2),
        ("WAV", "FLOAT", 44_100, 3),
        ("WAV", "PCM_U8", 8000, 1),
        ("WAV", "PCM_16", 11_127, 1),
        ("FLAC", "PCM_16", 22_050, 2),
        ("OGG", "VORBIS", 32_000, 1),
        ("MP3", None, 44_100, 2),
        ("AIFF", "PCM_16", 22_050, 1),
        ("CAF", "PCM_24", 44_100, 2),
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
    assert response.status_code == 200, response.text[:500]
    assert response.headers["content-type"] == f"audio/{response_format}"
    sent, received = sf.info(io.BytesIO(data)), sf.info(io.BytesIO(response.content))
    assert (received.samplerate, received.channels, received.frames) == (
        sent.samplerate,
        sent.channels,
        sent.frames,
    )
    if response_format != "ogg":
        assert received.subtype == ("PCM_24" if subtype in {"PCM_24", "FLOAT"} else "PCM_16")


@pytest.mark.parametrize(
    ("file", "media_type"),
    [
        (by_ffmpeg("webm", "libopus", sound(1.0, 48_000), 48_000, live="1"), "video/webm"),
        (by_ffmpeg("webm", "libopus", sound(1.0, 48_000), 48_000, picture="libvpx"), "video/webm"),
        (by_ffmpeg("ipod", "aac", sound(1.0, 44_100, 2), 44_100), "audio/mp4"),
        (by_ffmpeg("adts", "aac", sound(1.0, 44_100), 44_100), "audio/aac"),
        (by_libsndfile("OGG", sound(0.5), subtype="OPUS") * 3, "audio/ogg"),
        (by_libsndfile("MP3", sound(0.5)) * 3, "audio/mpeg"),
        (by_libsndfile("FLAC", sound(0.5)) * 3, "audio/flac"),
        (id3(500) + by_libsndfile("WAV", sound(0.5)), "audio/wav"),
        (with_size(by_libsndfile("WAV", sound(0.5)), b"data", bytes(4)), "audio/wav"),
    ],
)
def test_all_of_the_sound_is_answered(client: httpx.Client, file: bytes, media_type: str) -> None:
    samples_TC, sample_rate = read_audio(io.BytesIO(file))
    assert len(samples_TC) >= 0.5 * sample_rate
    response = client.post(DENOISE, files={"file": ("a", file, media_type)}, data={"strength": "0"})
    assert response.status_code == 200, response.text[:500]
    assert sf.info(io.BytesIO(response.content)).samplerate == sample_rate
    np.testing.assert_allclose(samples_of(response.content), samples_TC.clip(-1, 1), atol=2**-15)


def test_a_wav_keeps_its_channel_mask(client: httpx.Client) -> None:
    file = by_libsndfile("WAVEX", sound(0.5, num_channels=3), subtype="PCM_24")
    file = with_bytes(file, 40, (0x103).to_bytes(4, "little"))
    reply = client.post(DENOISE, content=file).content
    with open_audio(io.BytesIO(reply)) as opened:
        assert (opened.channel_mask, opened.num_channels, opened.subtype) == (0x103, 3, "PCM_24")
    assert samples_of(reply).shape == (8000, 3)


def test_pcm_says_its_rate_and_channels(client: httpx.Client) -> None:
    data = file_bytes(recording(0.3, 44_100, 2), 44_100)
    wav, pcm = (
        client.post(DENOISE, content=data, params={"response_format": kind}) for kind in ("wav", "pcm")
    )
    assert pcm.headers["content-type"] == "audio/pcm;rate=44100;channels=2"
    assert pcm.content == wav.content[44:]


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
def test_strength_zero_gives_back_the_input(client: httpx.Client, subtype: str) -> None:
    data = file_bytes(3 * recording(0.5, 44_100, 2), 44_100, subtype=subtype)
    for response_format in ("flac", "wav"):
        params = {"strength": "0", "response_format": response_format}
        response = client.post(DENOISE, content=data, params=params)
        sent, received = (sf.read(io.BytesIO(x), dtype="int32")[0] for x in (data, response.content))
        assert np.array_equal(sent, received)


@pytest.mark.parametrize(("kind", "subtype"), [("wav", "PCM_16"), ("flac", "PCM_24")])
def test_a_reply_is_what_the_command_makes_of_the_file(
    client: httpx.Client, bundle: Path, tmp_path: Path, kind: str, subtype: str
) -> None:
    data = file_bytes(0.3 + recording(1.0, 44_100, 2), 44_100, kind, subtype)
    response = client.post(DENOISE, content=data, params={"strength": 0.8, "response_format": kind})
    (tmp_path / f"in.{kind}").write_bytes(data)
    FileDenoiser(load_bundle(bundle)).enhance(tmp_path / f"in.{kind}", tmp_path / f"out.{kind}", 0.8)
    ours, theirs = samples_of((tmp_path / f"out.{kind}").read_bytes()), samples_of(response.content)
    np.testing.assert_allclose(theirs, ours, atol=1.1 / 32_768 if subtype == "PCM_16" else 1e-5)


def test_the_most_that_is_taken_away_is_a_share(client: httpx.Client) -> None:
    data = file_bytes(recording(0.5))
    ways = ({"max_attenuation": "20"}, {"strength": "0.9"}, {"strength": "1"})
    by_db, by_share, whole = (
        samples_of(client.post(DENOISE, content=data, params=way).content) for way in ways
    )
    np.testing.assert_array_equal(by_db, by_share)
    assert (by_db != whole).any()
    form = {"data": {"max_attenuation": "20"}, "files": {"file": data}, "params": {"strength": "1"}}
    assert "give either strength or max_attenuation" in error_of(client.post(DENOISE, **form), 422)["message"]


@pytest.mark.parametrize("seconds", [1.0, 11.0])  # whole, and as a stream
@pytest.mark.parametrize("sample_rate", [16_000, 44_100])
def test_reply_is_what_the_model_makes(
    client: httpx.Client, bundle: Path, seconds: float, sample_rate: int
) -> None:
    samples_TC = recording(seconds, sample_rate, 2)
    data = file_bytes(samples_TC, sample_rate)
    response = client.post(
        DENOISE, content=data, headers={"content-type": "audio/wav"}, params={"strength": "0.7"}
    )
    assert ("x-real-time-factor" in response.headers) == (seconds < CONFIG.max_buffered_s)
    expected_TC = enhance_audio(load_bundle(bundle), samples_of(data), sample_rate, 0.7)
    np.testing.assert_allclose(samples_of(response.content), expected_TC.clip(-1, 1), atol=2e-4)


def test_a_model_that_needs_the_whole_clip_serves_files(
    client: httpx.Client, whole_clip_bundle: Path
) -> None:
    data, model = file_bytes(recording(3.0, num_channels=2)), load_bundle(whole_clip_bundle)
    params = {"model": read_bundle_info(whole_clip_bundle).id}
    response = client.post(DENOISE, content=data, params=params)
    assert response.headers["x-model-id"] == params["model"]
    expected_TC = enhance_audio(model, samples_of(data), 16_000)
    np.testing.assert_allclose(samples_of(response.content), expected_TC.clip(-1, 1), atol=2e-4)
    longer = file_bytes(recording(30.0))
    assert samples_of(client.post(DENOISE, content=longer, params=params).content).shape == (480_000, 1)


def test_recordings_that_come_together_are_each_as_alone(client: httpx.Client) -> None:
    files = [file_bytes(recording(0.5 + 0.3 * k, num_channels=1 + k % 3)) for k in range(6)]
    alone = [samples_of(client.post(DENOISE, content=data).content) for data in files]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda data: client.post(DENOISE, content=data).content, files))
    for expected_TC, file in zip(alone, together, strict=True):
        np.testing.assert_allclose(samples_of(file), expected_TC, atol=2 / 32_768)


def test_headers_say_who_did_it_and_how_long_it_took(client: httpx.Client, bundle: Path) -> None:
    response = client.post(DENOISE, content=file_bytes(recording()), headers={"X-Request-Id": "mine-1"})
    assert response.headers.get_list("x-request-id") == ["mine-1"]
    assert response.headers["x-model-id"] == read_bundle_info(bundle).id
    assert 0 < float(response.headers["x-real-time-factor"]) < 20
    assert re.fullmatch(
        r"decode;dur=[\d.]+, denoise;dur=[\d.]+, encode;dur=[\d.]+", response.headers["server-timing"]
    )


def test_what_is_cut_off_at_full_scale_is_said(client: httpx.Client) -> None:
    sound = recording()
    sound = 4.0 * sound / np.abs(sound).max()
    replies = [
        client.post(DENOISE, content=file_bytes(x, subtype="FLOAT"), params={"strength": "0"})
        for x in (sound, sound / 8)
    ]
    assert [reply.headers.get("x-clipped-db") for reply in replies] == ["12.0", None]


def test_a_line_of_the_log_tells_the_same(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    def lines() -> dict[str, dict]:
        return {
            line["request_id"]: line for line in (json.loads(record.message) for record in caplog.records)
        }

    with caplog.at_level("INFO", logger="cluster.serving.web.observability"):
        client.post(DENOISE, content=file_bytes(recording()), headers={"X-Request-Id": "mine-2"})
        client.get("/any/path", headers={"X-Request-Id": "mine-3"})
        wait_until(lambda: {"mine-2", "mine-3"} <= lines().keys())  # written after the reply is out
    sent, lost = lines()["mine-2"], lines()["mine-3"]
    assert (sent["path"], sent["status"]) == (DENOISE, 200)
    assert sent["audio_s"] == 0.5
    assert 0 < sent["real_time_factor"] < 20
    assert (lost["path"], lost["status"]) == ("other", 404)


def test_models_and_health(client: httpx.Client, bundle: Path, whole_clip_bundle: Path) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready"}
    model, other = client.get("/v1/models").json()["data"]
    info = read_bundle_info(bundle)
    described = {key: model[key] for key in ("id", "architecture", "sample_rate", "latency_ms", "metrics")}
    assert described == {key: getattr(info, key) for key in described}
    assert 0 < model["real_time_factor"] < 20
    assert (other["id"], other["latency_ms"]) == (read_bundle_info(whole_clip_bundle).id, None)


def test_the_description_has_an_example_of_every_error(client: httpx.Client) -> None:
    operation = client.get("/openapi.json").json()["paths"][DENOISE]["post"]
    for status in ("400", "401", "404", "413", "415", "422", "429", "503"):
        example = operation["responses"][status]["content"]["application/json"]["example"]
        assert set(example["error"]) == {"type", "code", "message", "request_id"}
    assert {"strength", "max_attenuation", "band", "response_format", "model"} == {
        item["name"] for item in operation["parameters"]
    }
    assert client.get("/docs").status_code == 200


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"", 400, "empty_audio"),
        (b"this is no audio, whatever it says", 415, "unsupported_audio"),
        (file_bytes(recording())[:400], 400, "bad_audio"),
        (file_bytes(recording(), kind="FLAC")[:2000], 400, "bad_audio"),
        (b"0&\xb2u\x8ef\xcf\x11" + bytes(500), 415, "unsupported_audio"),  # WMA
        (b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1/\n", 415, "unsupported_audio"),
        (by_ffmpeg("mp4", "aac", sound(), num_tracks=2), 400, "bad_audio"),
        (by_libsndfile("OGG", sound()) + by_libsndfile("OGG", sound(), 8000), 400, "bad_audio"),
        (file_bytes(np.zeros((0, 1), np.int16)), 400, "bad_audio"),
        (file_bytes(np.full((100, 1), np.nan, np.float32), subtype="FLOAT"), 400, "bad_audio"),
        (file_bytes(np.full((100, 1), 1e9, np.float32), subtype="FLOAT"), 400, "bad_audio"),
        (file_bytes(recording(), 250_000), 400, "bad_audio"),
        (file_bytes(recording(num_channels=4)), 413, "too_many_channels"),
        (file_bytes(np.zeros((16_000 * 61, 1), np.int16), kind="FLAC"), 413, "too_long"),
    ],
)
def test_what_is_no_recording_is_refused(client: httpx.Client, data: bytes, status: int, code: str) -> None:
    for request in ({"content": data}, {"files": {"file": ("a.wav", data)}}):
        assert error_of(client.post(DENOISE, **request), status)["code"] == code


def test_over_the_limit_of_bytes_is_413_declared_or_not(client: httpx.Client) -> None:
    too_many = b"0" * 4_100_000
    for request in ({"content": too_many}, {"content": iter([too_many])}, {"files": {"file": too_many}}):
        error = error_of(client.post(DENOISE, **request), 413)
        assert error["code"] == "too_many_bytes"
        assert "4000000" in error["message"]


def test_what_is_declared_not_to_be_audio_is_415(client: httpx.Client) -> None:
    assert "application/json" in error_of(client.post(DENOISE, json={}), 415)["message"]
    assert "WebM, AIFF, CAF" in error_of(client.post(DENOISE, content=b"no sound"), 415)["message"]
    files = {"file": ("a.png", b"x", "image/png")}
    assert "image/png" in error_of(client.post(DENOISE, files=files), 415)["message"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("strength", "1.5"),
        ("strength", "nan"),
        ("strength", "much"),
        ("max_attenuation", "-3"),
        ("max_attenuation", "nan"),
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


def test_a_format_that_cannot_hold_it_is_422(client: httpx.Client) -> None:
    data = file_bytes(recording(0.1, 192_000), 192_000)
    params = {"response_format": "flac"}
    assert client.post(DENOISE, content=data, params=params).status_code == 200
    data = file_bytes(np.zeros((200, 1), np.int16), 101_003)  # FLAC counts rates above 65535 Hz in tens
    assert error_of(client.post(DENOISE, content=data, params=params), 422)["code"] == "invalid_field"


def test_an_unknown_model_is_404_and_those_there_are_named(client: httpx.Client, bundle: Path) -> None:
    response = client.post(DENOISE, content=file_bytes(recording()), params={"model": "nope"})
    assert read_bundle_info(bundle).id in error_of(response, 404)["message"]


def test_an_unknown_model_is_refused_before_the_upload(client: httpx.Client) -> None:
    with half_an_upload(client, "?model=nope") as upload:
        assert upload.recv(1000).startswith(b"HTTP/1.1 404")


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
    assert response.status_code in {200, 400, 413, 415}, response.text[:500]
    assert client.get("/healthz").status_code == 200


def test_busy_is_503_until_somebody_leaves(app: FastAPI, client: httpx.Client) -> None:
    data, places = file_bytes(recording(0.1)), app.state.places
    wait_until(lambda: places.num_taken == 0)
    with contextlib.ExitStack() as uploads:
        for _ in range(CONFIG.max_pending):
            uploads.enter_context(half_an_upload(client))
        wait_until(lambda: places.num_taken == CONFIG.max_pending)
        busy = client.post(DENOISE, content=data)
        assert error_of(busy, 503)["type"] == "overloaded"
        assert busy.headers["retry-after"] == "1"
        assert client.get("/healthz").status_code == 200
    wait_until(lambda: places.num_taken == 0)
    assert client.post(DENOISE, content=data).status_code == 200


def test_an_upload_that_stands_still_or_drips_is_408(client: httpx.Client) -> None:
    with half_an_upload(client) as still, half_an_upload(client) as dripping:
        dripping.settimeout(0.2)
        for _ in range(100):
            dripping.sendall(b"x")
            with contextlib.suppress(TimeoutError):
                dripped = dripping.recv(1000)
                break
        for answer in (dripped, still.recv(1000)):
            assert answer.startswith(b"HTTP/1.1 408")
            assert b"upload_timeout" in answer


def test_a_file_process_that_died_is_started_anew(client: httpx.Client) -> None:
    for name in ("decoder", "engine"):
        dead = file_process(name)
        dead.kill()
        dead.wait(30)
        wait_until(lambda: client.get("/readyz").status_code == 200)
        assert file_process(name) != dead
        assert client.post(DENOISE, content=file_bytes(recording(0.1))).status_code == 200


def test_our_own_fault_is_a_bare_500_with_its_id(run_app: Callable, caplog: pytest.LogCaptureFixture) -> None:
    app = FastAPI()
    install_error_handlers(app)
    app.add_middleware(RequestLog, send_id=True)

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("secret detail")

    with run_app(app) as host:
        response = httpx.get(f"http://{host}/broken", headers={"X-Request-Id": "mine-4"})
    assert error_of(response, 500)["code"] == "internal_error"
    assert "secret" not in response.text
    (logged,) = [record for record in caplog.records if record.exc_info]
    assert logged.message == "request mine-4 failed"


def test_foreign_pages_and_names_are_refused(client: httpx.Client) -> None:
    foreign = client.post(DENOISE, content=b"x", headers={"Origin": "https://example.org"})
    assert error_of(foreign, 403)["code"] == "foreign_origin"
    assert error_of(client.get("/", headers={"Host": "example.org"}), 403)["code"] == "foreign_host"
    own = {"Origin": f"http://{client.base_url.netloc.decode()}"}
    assert client.get("/v1/models", headers=own).status_code == 200
    assert "access-control-allow-origin" not in client.get("/v1/models", headers=own).headers


@pytest.mark.parametrize(
    "wrong",
    [
        {"port": 70_000},
        {"num_replicas": 0},
        {"cpus_per_replica": -1},
        {"reply_stall_s": 0},
        {"max_transfer_s": 0},
        {"allowed_origins": ("example.org",)},
    ],
)
def test_config_is_checked(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ServingConfig(**wrong)


@pytest.mark.parametrize(
    "wrong", [{"max_seconds": 0}, {"max_channels": 0}, {"min_sample_rate": 50_000, "max_sample_rate": 8000}]
)
def test_limits_are_checked(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        dataclasses.replace(AudioLimits(), **wrong)
