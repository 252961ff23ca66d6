"""Clients that speak HTTP as its standards allow, and unlike most: old versions, bare forms, chunks, HEAD."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from cluster.serving.config import ServingConfig
from cluster.serving.models import ServedModels
from cluster.serving.web.app import build_app
from tests.cluster.serving.callers import exchange, head_of_upload
from tests.cluster.serving.clips import DENOISE, error_of, file_bytes, recording, samples_of

SOUND = recording(0.5)
WAV = file_bytes(SOUND)
FILE = b'Content-Disposition: form-data; name="file"'
AUDIO = b"\r\nContent-Type: audio/wav"


@pytest.fixture(scope="module")
def client(bundle: Path, run_app: Callable) -> Iterator[httpx.Client]:
    app = build_app(ServedModels([bundle]), ServingConfig(max_buffered_s=1))
    with run_app(app) as host, httpx.Client(base_url=f"http://{host}", timeout=240) as client:
        yield client


def upload(data: bytes, version: str, query: str = "", *more: str) -> bytes:
    return head_of_upload(len(data), query, version, *more) + data


def form(*parts: bytes, end: bytes = b"\r\n") -> bytes:
    return b"".join(b"--X\r\n" + part + b"\r\n" for part in parts) + b"--X--" + end


def part(head: bytes, content: bytes = WAV) -> bytes:
    return head + b"\r\n\r\n" + content


def post_form(
    client: httpx.Client, body: bytes, content_type: str = "multipart/form-data; boundary=X"
) -> httpx.Response:
    return client.post(DENOISE, content=body, headers={"Content-Type": content_type})


@pytest.mark.parametrize("response_format", ["wav", "pcm", "flac", "ogg"])
@pytest.mark.parametrize("seconds", [0.5, 3.0])  # answered whole, and while it is computed
@pytest.mark.parametrize("fields", [(), ("Connection: keep-alive",)])
def test_http_1_0_gets_a_reply_without_chunks(
    client: httpx.Client, response_format: str, seconds: float, fields: tuple[str, ...]
) -> None:
    data, query = file_bytes(recording(seconds)), f"?response_format={response_format}"
    head, body = exchange(client.base_url, upload(data, "1.0", query, *fields))
    assert head.startswith("http/1.1 200")
    assert "transfer-encoding" not in head
    length = re.search(r"content-length: (\d+)", head)
    assert length is not None
    assert int(length[1]) == len(body)
    expected = client.post(DENOISE + query, content=data).content
    if response_format == "ogg":  # each file has a number of its own
        body, expected = samples_of(body).tobytes(), samples_of(expected).tobytes()
    assert body == expected


def test_http_1_0_hears_what_is_wrong(client: httpx.Client) -> None:
    head, body = exchange(client.base_url, upload(b"RIFF\x04\0\0\0WAVE", "1.0", "?response_format=flac"))
    assert head.startswith("http/1.1 400")
    assert b"bad_audio" in body


@pytest.mark.parametrize(
    "head",
    [
        FILE + AUDIO,
        FILE,
        FILE + b"; filename*=utf-8''r%C3%A9union.wav" + AUDIO,
        FILE + b"; filename*=iso-8859-1''r%E9union.wav",
        FILE + b'; filename=""' + AUDIO,
        FILE + '; filename="réunion.wav"'.encode() + AUDIO,
        FILE + '; filename="réunion.wav"'.encode("latin-1") + AUDIO,
        FILE + b'; filename="a\\"b;c.wav"',
        b"content-disposition: FORM-DATA; NAME=file; filename=x.wav\r\nCONTENT-TYPE: Audio/WAV",
        AUDIO.lstrip() + b"\r\n" + FILE + b"; filename=x.wav\r\nContent-Transfer-Encoding: binary",
    ],
)
def test_a_file_in_a_form_is_one_whatever_its_name(client: httpx.Client, head: bytes) -> None:
    reply = post_form(client, form(part(head)))
    assert reply.status_code == 200, reply.text
    assert samples_of(reply.content).shape == SOUND.shape


def test_forms_as_other_libraries_write_them(client: httpx.Client) -> None:
    strength = part(b'Content-Disposition: form-data; name="strength"', b"0")
    for body, content_type in (
        (form(strength, part(FILE)), "multipart/form-data; boundary=X"),
        (form(part(FILE), strength, end=b""), 'Multipart/Form-Data; charset=utf-8; boundary="X"'),
        (form(part(FILE), strength, end=b"\r\n\r\nepilogue"), "multipart/form-data;boundary=X"),
        (b"\r\n" + form(part(FILE), strength), "multipart/form-data; BOUNDARY=X"),
    ):
        reply = post_form(client, body, content_type)
        assert reply.status_code == 200, (content_type, reply.text)
        np.testing.assert_allclose(samples_of(reply.content), SOUND, atol=1 / 32768)  # strength 0


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (form(part(FILE, b"noisy.wav")), 422, "-F file=@"),
        (form(part(FILE), part(FILE)), 400, "one file in the field `file`"),
        (form(part(b"Content-Disposition: form-data")), 400, "name"),
        (form(part(b'Content-Disposition: form-data; name="sound"' + AUDIO)), 400, "one file in the field"),
        (
            form(part(b'Content-Disposition: form-data; name="strength"', b"0")),
            422,
            "file: the form brings no file",
        ),
        (form(part(FILE, b"")), 400, "no bytes"),
        (b"", 422, "no file"),
        (WAV, 400, "file"),
    ],
)
def test_a_form_that_brings_no_file_hears_how_to_send_one(
    client: httpx.Client, body: bytes, status: int, words: str
) -> None:
    assert words in error_of(post_form(client, body), status)["message"]


def test_an_upload_in_chunks(client: httpx.Client) -> None:
    pieces = [WAV[first : first + 999] for first in range(0, len(WAV), 999)]
    reply = client.post(DENOISE, content=iter(pieces), headers={"Content-Type": "AUDIO/X-WAV; codec=1"})
    assert reply.content == client.post(DENOISE, content=WAV).content


def test_a_client_that_waits_for_100_is_told_to_go_on(client: httpx.Client) -> None:
    fields = ("Expect: 100-continue", "Connection: close")
    head, rest = exchange(client.base_url, upload(WAV, "1.1", "", *fields))
    assert head.startswith("http/1.1 100")
    assert rest.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/v1/models", "/docs"])
def test_head_is_a_get_without_its_body(client: httpx.Client, path: str) -> None:
    whole, head = client.get(path), client.head(path)
    assert head.status_code == whole.status_code == 200
    assert head.content == b""
    assert head.headers["content-type"] == whole.headers["content-type"]
    assert head.headers["content-length"] == str(len(whole.content))


def test_http_1_0_need_not_name_a_host_but_pages_do(client: httpx.Client) -> None:
    head, _ = exchange(client.base_url, b"GET /healthz HTTP/1.0\r\n\r\n")
    assert head.startswith("http/1.1 200")
    head, _ = exchange(client.base_url, b"GET /healthz HTTP/1.0\r\nOrigin: https://example.org\r\n\r\n")
    assert head.startswith("http/1.1 403")
