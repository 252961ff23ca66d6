"""API keys: who is let in, how often, over HTTP and WebSocket; and which pages."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from cluster.serving.auth import ENVIRONMENT_VARIABLE, KeyRing, read_keys
from cluster.serving.config import ServingConfig
from cluster.serving.errors import ApiError
from cluster.serving.live.protocol import PATH, SUBPROTOCOL
from cluster.serving.models import ServedModels
from cluster.serving.web.app import build_app
from tests.cluster.serving.clips import DENOISE, error_of, file_bytes, recording

ANNA, PHONE, RARE = "anna-0123456789abcdef", "phone-0123456789abcdef", "rare-0123456789abcdef"
KEYS = f"""
# who may use the test
anna  {ANNA}
phone {PHONE}  max_concurrent=1   # one call at a time
rare  {RARE}   requests_per_minute=2
"""
PAGE = "https://example.org"


@pytest.fixture(scope="module")
def host(bundle: Path, run_app: Callable, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text(KEYS)
    config = ServingConfig(api_keys=read_keys(path, {}), allowed_origins=(PAGE,))
    with run_app(build_app(ServedModels([bundle]), config)) as host:
        yield host


@pytest.fixture
def client(host: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://{host}", timeout=240) as client:
        yield client


def with_key(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        with_key("anna"),
        with_key(ANNA[:-1]),
        with_key(ANNA + "x"),
        {"Authorization": ANNA},
        {"Authorization": "Bearer"},
        {"Authorization": b"Bearer \xff\xfe"},
    ],
)
def test_without_a_valid_key_it_is_401_before_anything_is_read(client: httpx.Client, headers: dict) -> None:
    for response in (
        client.post(DENOISE, content=file_bytes(recording()), headers=headers),
        client.get("/v1/models", headers=headers),
    ):
        assert error_of(response, 401)["code"] == "unauthorized"
        assert response.headers["www-authenticate"] == "Bearer"
        assert ANNA not in response.text


def test_with_a_key_it_works_and_health_and_page_need_none(client: httpx.Client) -> None:
    response = client.post(DENOISE, content=file_bytes(recording()), headers=with_key(ANNA))
    assert response.status_code == 200
    for path in ("/healthz", "/readyz", "/docs", "/"):
        assert client.get(path).status_code == 200


def test_beyond_its_rate_a_key_is_429_with_the_time_to_wait(client: httpx.Client) -> None:
    answers = [client.get("/v1/models", headers=with_key(RARE)) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert error_of(answers[2], 429)["type"] == "overloaded"
    assert 1 <= int(answers[2].headers["retry-after"]) <= 30


@contextlib.contextmanager
def call(host: str, key: str, *, in_header: bool) -> Iterator[ClientConnection]:
    how = (
        {"additional_headers": with_key(key)} if in_header else {"subprotocols": [SUBPROTOCOL, f"key.{key}"]}
    )
    with connect(f"ws://{host}{PATH}", **how) as connection:
        yield connection


@pytest.mark.parametrize("in_header", [True, False])
def test_a_call_takes_its_key_from_header_or_subprotocol(
    host: str, client: httpx.Client, in_header: bool
) -> None:
    with call(host, PHONE, in_header=in_header) as connection:
        assert json.loads(connection.recv())["type"] == "session.created"
        assert connection.subprotocol == (None if in_header else SUBPROTOCOL)
        assert client.get("/v1/models", headers=with_key(PHONE)).status_code == 429  # one thing at a time
        connection.send(json.dumps({"type": "close"}))
        kinds = [json.loads(message)["type"] for message in connection]  # up to the close
        assert kinds[-1] == "flushed"
    deadline = time.monotonic() + 30
    while client.get("/v1/models", headers=with_key(PHONE)).status_code != 200:
        assert time.monotonic() < deadline, "a call that is over still counts"
        time.sleep(0.02)
    with call(host, "wrong-0123456789abcdef", in_header=in_header) as refused:
        assert json.loads(refused.recv())["code"] == "unauthorized"
        with pytest.raises(ConnectionClosed) as closed:
            refused.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008


def test_pages_that_were_named_may_and_others_may_not(host: str, client: httpx.Client) -> None:
    named = client.get("/v1/models", headers={**with_key(ANNA), "Origin": PAGE})
    assert named.headers["access-control-allow-origin"] == PAGE
    asked = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}
    assert client.options(DENOISE, headers=asked).status_code == 200
    foreign = client.get("/v1/models", headers={**with_key(ANNA), "Origin": "https://example.com"})
    assert error_of(foreign, 403)["code"] == "foreign_origin"
    with pytest.raises(InvalidStatus) as refused:
        connect(f"ws://{host}{PATH}", origin="https://example.com", additional_headers=with_key(ANNA))
    assert refused.value.response.status_code == 403


def test_only_digests_are_kept() -> None:
    keys = read_keys(None, {ENVIRONMENT_VARIABLE: f"anna {ANNA}, phone {PHONE} max_concurrent=3"})
    assert [(key.name, key.max_concurrent) for key in keys] == [("anna", None), ("phone", 3)]
    assert ANNA not in repr(keys)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("anna", "expected NAME KEY"),
        ("anna short", "at least 16"),
        ("anna 0123456789abcdef0123 max_concurent=1", "max_concurent=1"),
        ("anna 0123456789abcdef0123 max_concurrent=0", "max_concurrent=0"),
        ("anna 0123456789abcdef/123", "letters, digits"),
        (f"anna {ANNA}\nanna {PHONE}", "twice"),
        ("# nothing", "holds no key"),
    ],
)
def test_a_wrong_key_file_is_said_without_the_key(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "keys"
    path.write_text(line)
    with pytest.raises(ValueError, match=words) as error:
        read_keys(path, {})
    assert "0123456789abcdef" not in str(error.value)


def test_a_key_file_of_an_editor_is_read_or_named(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"anna {ANNA}", encoding="utf-8-sig")
    assert [key.name for key in read_keys(path, {})] == ["anna"]
    path.write_text(f"anna {ANNA}", encoding="utf-16")
    with pytest.raises(ValueError, match=f"{path} is not UTF-8"):
        read_keys(path, {})
    with pytest.raises(ValueError, match=f"{tmp_path} cannot be read"):
        read_keys(tmp_path, {})


def test_a_bucket_fills_with_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("cluster.serving.auth.time.monotonic", lambda: now[0])
    ring = KeyRing(read_keys(None, {ENVIRONMENT_VARIABLE: f"rare {RARE} requests_per_minute=6"}))
    scope = {"type": "http", "headers": [(b"authorization", f"Bearer {RARE}".encode())]}

    def num_admitted(tries: int) -> int:
        admitted = 0
        for _ in range(tries):
            with contextlib.suppress(ApiError), ring.admitted(scope):
                admitted += 1
        return admitted

    assert num_admitted(10) == 6
    now[0] += 25
    assert num_admitted(10) == 2
    now[0] += 3600
    assert num_admitted(10) == 6
