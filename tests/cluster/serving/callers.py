"""Callers who take their time, over real sockets, and waiting for what comes of it."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator

import httpx

from tests.cluster.serving.clips import DENOISE


def wait_until(condition: Callable[[], bool], what: str = "it") -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come about"
        time.sleep(0.02)


def head_of_upload(num_bytes: int, query: str = "", version: str = "1.1", *more: str) -> bytes:
    """more: lines of it."""
    lines = [f"POST {DENOISE}{query} HTTP/{version}", "Host: localhost", "Content-Type: audio/wav", *more]
    return "\r\n".join([*lines, f"Content-Length: {num_bytes}", "", ""]).encode()


def exchange(url: httpx.URL, request: bytes, half_close: bool = False) -> tuple[str, bytes]:
    """Sends bytes as they are; the head of the reply, in lower case, and its body, read until the server closes.

    half_close: says that nothing more will come, while it waits for the reply.
    """
    with socket.create_connection((url.host, url.port), timeout=60) as connection:
        connection.sendall(request)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        reply = b""
        while received := connection.recv(1 << 16):
            reply += received
    head, _, body = reply.partition(b"\r\n\r\n")
    return head.decode().lower(), body


@contextlib.contextmanager
def half_an_upload(client: httpx.Client, query: str = "") -> Iterator[socket.socket]:
    """A connection whose request has begun and waits for the rest of its body."""
    head = head_of_upload(1_000_000, query)
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=30) as connection:
        connection.sendall(head + b"RIFF")
        yield connection


@contextlib.contextmanager
def slow_reader(client: httpx.Client, data: bytes) -> Iterator[socket.socket]:
    """A connection that has sent a file, got the first byte of its reply and takes no more."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(30)
        connection.connect((client.base_url.host, client.base_url.port))
        connection.sendall(head_of_upload(len(data)) + data)
        assert connection.recv(1) == b"H"
        yield connection
