"""A thousand requests that mean no good: none ends in our fault, kills a replica or leaves memory behind."""

from __future__ import annotations

import dataclasses
import json
import socket
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import soundfile as sf

from cluster.serving.config import AudioLimits
from cluster.serving.errors import ApiError
from cluster.serving.files.job import FileJob
from cluster.serving.files.messages import END, ERROR, Unpacker
from cluster.serving.files.process import FileProcess
from cluster.sound.streams import BatchedStreams
from tests.cluster.serving.clips import DENOISE, file_bytes, recording
from tests.cluster.serving.replica import memory_bytes, replica
from ww_models import load_bundle
from ww_models.streaming.onnx_engine import OnnxEngine

NUM_REQUESTS = 1000
NUM_WARM_UP = 150
MAX_GROWTH_BYTES = 24 * 2**20
NUM_CALLERS = 4

FILES = [
    file_bytes(recording(0.2, 44_100, 2), 44_100, kind, subtype)
    for kind, subtype in (
        ("WAV", "PCM_16"),
        ("WAV", "FLOAT"),
        ("FLAC", "PCM_24"),
        ("OGG", "VORBIS"),
        ("MP3", None),
    )
]
LONG_SILENCE = file_bytes(np.zeros((8_000 * 7_300, 1), np.int16), 8_000, kind="FLAC")
Rng = np.random.Generator
Attack = Callable[[Rng, str], int]


def some_file(rng: Rng) -> bytes:
    return FILES[rng.integers(len(FILES))]


def post(url: str, **request: object) -> int:
    return httpx.post(url + DENOISE, timeout=240, **request).status_code  # type: ignore[arg-type]


def cut_short(rng: Rng, url: str) -> int:
    data = some_file(rng)
    return post(url, content=data[: rng.integers(len(data))])


def random_bytes(rng: Rng, url: str) -> int:
    magic = rng.choice([b"", b"RIFF", b"fLaC", b"OggS", b"ID3\x03", b"\xff\xfb", b"RF64"])
    return post(url, content=magic + rng.bytes(int(rng.integers(5000))))


def flipped_bytes(rng: Rng, url: str) -> int:
    data = bytearray(some_file(rng))
    for place in rng.integers(
        min(len(data), 400 if rng.random() < 0.7 else len(data)), size=rng.integers(1, 20)
    ):
        data[place] = rng.integers(256)
    return post(url, content=bytes(data))


def wrong_lengths(rng: Rng, url: str) -> int:
    """A WAV header whose numbers are any."""
    data = bytearray(FILES[rng.integers(2)])
    for place, size in ((4, 4), (16, 4), (22, 2), (24, 4), (28, 4), (32, 2), (34, 2), (40, 4)):
        if rng.random() < 0.4:
            edge = rng.choice([0, 1, 2**31 - 1, 2**32 - 1, int(rng.integers(2**32))]) % (1 << 8 * size)
            data[place : place + size] = int(edge).to_bytes(size, "little")
    return post(url, content=bytes(data))


def not_finite(rng: Rng, url: str) -> int:
    samples = recording(0.1)
    samples[rng.integers(len(samples))] = rng.choice([np.nan, np.inf, -np.inf, 1e30, 3e38])
    return post(url, content=file_bytes(samples, subtype="FLOAT"))


def much_from_little(rng: Rng, url: str) -> int:
    """Two hours of silence in a small file, and FLAC files that promise what is not there."""
    data = bytearray(LONG_SILENCE if rng.random() < 0.1 else FILES[2])
    if rng.random() < 0.8:
        data[18:26] = rng.bytes(8)  # rate, channels, bits, length
    return post(url, content=bytes(data))


def big_chunk(rng: Rng, url: str) -> int:
    """A WAV file with a chunk that claims to be huge before its sound."""
    data = FILES[0]
    chunk = rng.choice([b"LIST", b"fact", b"bext", b"cart", b"PEAK", b"id3 "]) + struct.pack(
        "<I", int(rng.integers(2**32))
    )
    return post(url, content=data[:36] + chunk + rng.bytes(100) + data[36:])


def bad_form(rng: Rng, url: str) -> int:
    body = b"--x\r\nContent-Disposition: form-data; name=" + rng.choice([b'"file"', b"file", b'"', b""])
    body += b"\r\n" + rng.bytes(int(rng.integers(300))) + rng.choice([b"\r\n--x--", b"--x", b""])
    return post(url, content=body, headers={"content-type": "multipart/form-data; boundary=x"})


def many_fields(rng: Rng, url: str) -> int:
    fields = {f"f{k}": "x" * int(rng.integers(5000)) for k in range(rng.integers(1, 40))}
    return post(url, data=fields, files={"file": b"RIFF"})


def odd_options(rng: Rng, url: str) -> int:
    value = rng.choice(["nan", "inf", "1e999", "-1", "", "\x00", "1" * 3000, "ÿ", "true", "../../etc"])
    name = rng.choice(["strength", "response_format", "model", "x" * 2000])
    return post(url, content=FILES[0], params={str(name): str(value)})


def huge_headers(rng: Rng, url: str) -> int:
    headers = {f"x-{k}": "y" * 2000 for k in range(rng.integers(1, 60))}
    return post(url, content=FILES[0], headers=headers)


def raw_bytes(rng: Rng, url: str) -> int:
    """Something that is hardly HTTP, or a body that ends before it should."""
    address = httpx.URL(url)
    head = f"POST {DENOISE} HTTP/1.1\r\nHost: localhost\r\n".encode()
    request = [
        rng.bytes(200),
        head + b"Content-Length: -5\r\n\r\n",
        head + b"Content-Length: 99999\r\n\r\nRIFF",
        head + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        head + b"Transfer-Encoding: chunked\r\n\r\nffffffff\r\nRIFF",
        head + b"X: " + b"a" * 100_000 + b"\r\n\r\n",
    ][rng.integers(6)]
    with socket.create_connection((address.host, address.port or 80), timeout=30) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        try:
            answer = connection.recv(4096)
        except ConnectionResetError:
            return 0
    return int(answer.split()[1]) if answer.startswith(b"HTTP/") else 0


ATTACKS: list[Attack] = [
    cut_short,
    random_bytes,
    flipped_bytes,
    flipped_bytes,
    wrong_lengths,
    not_finite,
    much_from_little,
    big_chunk,
    bad_form,
    many_fields,
    odd_options,
    huge_headers,
    raw_bytes,
]


@pytest.fixture(scope="module")
def running(bundle: Path) -> Iterator[tuple[psutil.Process, str]]:
    with replica(bundle) as started:
        yield started


def attack(url: str, seed: int) -> tuple[str, int]:
    rng = np.random.default_rng(seed)
    chosen = ATTACKS[seed % len(ATTACKS)]
    return chosen.__name__, chosen(rng, url)


@pytest.mark.cluster
def test_a_thousand_hostile_requests_do_no_harm(running: tuple[psutil.Process, str]) -> None:
    process, url = running
    with ThreadPoolExecutor(NUM_CALLERS) as callers:
        answers = list(callers.map(lambda seed: attack(url, seed), range(NUM_WARM_UP)))
        before = {child.pid for child in process.children()}
        memory_before = memory_bytes(process)
        answers += callers.map(lambda seed: attack(url, seed), range(NUM_WARM_UP, NUM_REQUESTS))
    faults = Counter(answer for answer in answers if answer[1] >= 500 and answer[1] != 503)
    assert not faults
    assert {200, 400, 413, 415, 422} <= {status for _, status in answers}, "the requests are too much alike"
    assert {pid for pid in before if psutil.pid_exists(pid)} == before, "a process of the replica died"
    grown = memory_bytes(process) - memory_before
    assert grown <= MAX_GROWTH_BYTES, f"{grown / 2**20:.0f} MiB more than before"
    assert httpx.get(f"{url}/readyz", timeout=30).status_code == 200
    assert post(url, content=FILES[0]) == 200


def decoded(decoder: FileProcess, path: Path, limits: AudioLimits) -> list[int]:
    """The kinds of message that the decoder sends for a file, up to where it closes the connection."""
    ours, theirs = socket.socketpair()
    with ours, path.open("rb") as audio:
        with theirs:
            order = {"limits": dataclasses.asdict(limits), "max_children": 1}
            decoder.order(order, audio.fileno(), theirs.fileno())
        ours.settimeout(60)
        unpacker, kinds = Unpacker(), []
        while received := ours.recv(1 << 16):
            kinds += [kind for kind, _ in unpacker.feed(received)]
    return kinds


@pytest.mark.cluster
def test_what_takes_too_long_to_decode_ends_alone(tmp_path: Path) -> None:
    long, short = tmp_path / "long", tmp_path / "short"
    silence = np.zeros((1 << 18, 8), np.int16)
    with sf.SoundFile(long, "w", 16_000, 8, "PCM_16", format="FLAC") as file:
        for _ in range(400):  # small to send, seconds to decode
            file.write(silence)
    short.write_bytes(FILES[0])
    decoder = FileProcess("cluster.serving.files.decoder")
    try:
        decoder.wait_until_ready(60)
        assert decoded(decoder, long, AudioLimits(max_decode_s=1)) == []
        assert decoded(decoder, short, AudioLimits(max_decode_s=1))[-1] == END
        assert decoder.is_alive()
    finally:
        decoder.close()


def test_a_decoder_that_died_was_given_a_damaged_file(bundle: Path) -> None:
    model = load_bundle(bundle)
    job = FileJob(BatchedStreams(OnnxEngine.from_model(model), 1), "wav", 1.0, "full")
    job.on_decoder_lost()
    (answer,) = Unpacker().feed(bytes(job.outbox))
    error = ApiError(**json.loads(answer[1]))
    assert (answer[0], error.status, error.code) == (ERROR, 400, "bad_audio")
    assert job.has_ended


def test_memory_beyond_the_limit_is_a_400(tmp_path: Path) -> None:
    path = tmp_path / "upload"
    path.write_bytes(FILES[0])
    program = (
        "import sys, numpy as np, cluster.serving.files.decoder as decoder\n"
        "limits = decoder.AudioLimits()\n"
        "decoder.sound_blocks = lambda *_: [np.ones(limits.max_decode_bytes // 2, np.float32)]\n"
        "decoder.confine(limits)\n"
        "sys.stdout.buffer.write(b''.join(decoder.decode(sys.argv[1], limits)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, check=True)
    (answer,) = Unpacker().feed(done.stdout)
    assert answer[0] == ERROR
    assert json.loads(answer[1])["status"] == 400
