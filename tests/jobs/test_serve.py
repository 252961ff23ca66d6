"""`python -m jobs.serve`: prints its address, serves, and leaves nothing behind when it is told to end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import psutil
import pytest
import yaml

from cluster.promotion.store import ModelStore
from cluster.serving.client import StreamClient
from cluster.serving.config import EVIDENCE_FILE
from cluster.serving.deploy import haproxy
from cluster.serving.deploy.deployment import ServingError, bindable_port
from cluster.serving.deploy.promotion import promote_at
from jobs import serve
from tests.cluster.serving.callers import exchange, head_of_upload, wait_until
from tests.cluster.serving.clips import file_bytes, recording, samples_of
from tests.cluster.sockets import assert_on_loopback, processes_of
from tests.jobs.conftest import Done
from ww_models import build_model, read_bundle_info, save_bundle

ROOT = Path(__file__).resolve().parents[2]


# The command, which waits less long for an endpoint that is gone.
IMPATIENT = """
import sys
from jobs import cli, serve

watch = serve.watch
serve.watch = lambda stop, patience_s: watch(stop, 2)
cli.main(serve.parser(), serve.run, sys.argv[1:])
"""


def start(
    served: Path, *arguments: str, option: str = "--bundle", program: Sequence[str] = ("-m", "jobs.serve")
) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.Popen(
        [sys.executable, *program, option, str(served), "--cpus", "0.1", *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.cluster
def test_it_leaves_nothing_behind_when_it_is_killed(bundle: Path, tmp_path: Path) -> None:
    """Beside another endpoint of this machine, which is not touched and goes on to follow its store."""
    store = ModelStore(tmp_path / "store")
    store.add(bundle, None)
    processes = [start(bundle, "--port", "0"), start(tmp_path / "store", "--port", "0", option="--store")]
    try:
        lines = [process.stdout.readline() for process in processes if process.stdout]
        urls = [line.split(" at ")[1].split()[0] for line in lines]
        killed, other = processes
        folders = [*Path("/tmp").glob(f"ww-ray-{killed.pid}-*")]
        started = processes_of(killed.pid)
        assert any(process.name() == "haproxy" for process in started) == haproxy.is_installed()
        for process in started:
            with contextlib.suppress(psutil.Error):
                folders += [
                    Path(file).parents[-3]  # /tmp/ww-...
                    for file in process.cmdline()
                    if file.startswith("/tmp/ww-haproxy-")
                ]
        killed.send_signal(signal.SIGKILL)
        _, alive = psutil.wait_procs(started, timeout=60)
        assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
        host, port = urlsplit(urls[0]).hostname, urlsplit(urls[0]).port
        assert host is not None
        assert port is not None
        assert bindable_port(host, port) == port
        deadline = time.monotonic() + 60
        while left := [folder for folder in folders if folder.exists()]:
            assert time.monotonic() < deadline, left
            time.sleep(0.1)
        _check_that_it_follows(store, urls[1])
        other.send_signal(signal.SIGTERM)
        _, errors = other.communicate(timeout=360)
        assert other.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()


def test_it_serves_and_takes_promotions_until_it_is_told_to_end(bundle: Path, tmp_path: Path) -> None:
    process = start(bundle, "--port", "0")
    try:
        assert process.stdout is not None
        first, second = process.stdout.readline(), process.stdout.readline()
        assert first.startswith("serving "), first + (process.stderr.read() if process.stderr else "")
        url = first.split(" at ")[1].split()[0]
        assert f"{url}/v1/audio/denoise" in second
        assert second.startswith("try: curl -F file=@")
        assert httpx.get(f"{url}/healthz", timeout=30).json() == {"status": "ok"}
        _check_unusual_clients(httpx.URL(url))
        names = {child.name() for child in psutil.Process(process.pid).children(recursive=True)}
        assert ("haproxy" in names) == haproxy.is_installed()
        assert_on_loopback(process.pid, urlsplit(url).netloc)
        better = save_bundle(tmp_path / "better", build_model("gatewave", hidden=4, depth=2))
        with pytest.raises(ServingError, match="worse"):
            promote_at(url, [tmp_path / "worse"])
        for keep, expected in ((True, [better, bundle]), (False, [better])):
            assert [path for _, path in promote_at(url, [better], keep=keep)] == [
                str(path) for path in expected
            ]
            served = httpx.get(f"{url}/v1/models", timeout=30).json()["data"]
            assert {model["id"] for model in served} == {read_bundle_info(path).id for path in expected}
        _check_that_a_call_may_finish(url, process)
    finally:
        process.send_signal(signal.SIGTERM)  # once more, as impatient people do
        _, errors = process.communicate(timeout=360)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert "*** SIG" not in errors
    assert not list(Path("/tmp").glob(f"ww-ray-{process.pid}-*")), "it left Ray's files behind"
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/healthz", timeout=5)


@pytest.mark.cluster
@pytest.mark.soak
@pytest.mark.parametrize("proxy", ["auto", "ray"])
def test_two_that_start_at_once_get_a_port_each(bundle: Path, proxy: str) -> None:
    """Both find the same one free, and take it long after that."""
    processes = [start(bundle, "--proxy", proxy) for _ in range(2)]
    try:
        lines = [process.stdout.readline() for process in processes if process.stdout]
        urls = [httpx.URL(line.split(" at ")[1].split()[0]) for line in lines]
        assert urls[0].port != urls[1].port
        for url in urls:
            for name in (b"X-Request-Id", b"X-Session-Id"):
                odd = b"GET /healthz HTTP/1.0\r\n" + name + b": r\xe9union\r\n\r\n"
                head, _ = exchange(url, odd)
                assert head.startswith("http/1.1 200"), head
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            _, errors = process.communicate(timeout=360)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()


@pytest.mark.cluster
def test_an_endpoint_that_does_not_answer_any_more_ends_it(bundle: Path) -> None:
    """As when its memory went to others: Ray waits for a new controller of Serve, which does not come.

    It listens on an address on which HAProxy would not find the replicas; like ::1, which not every machine has.
    """
    process = start(bundle, "--port", "0", "--host", "127.0.0.2", program=("-c", IMPATIENT))
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split(" at ")[1].split()[0]
        sent = {"file": ("x.wav", file_bytes(recording(1)))}
        assert httpx.post(f"{url}/v1/audio/denoise", files=sent, timeout=60).status_code == 200
        started = processes_of(process.pid)
        (controller,) = [one for one in started if "ServeController" in " ".join(one.cmdline())]
        controller.suspend()
        _, errors = process.communicate(timeout=360)
        assert process.returncode == 1, errors
        assert [line for line in errors.splitlines() if line.startswith("error: ")] == [
            "error: nothing has served for 120 s: Ray does not answer"
        ]
        _, alive = psutil.wait_procs(started, timeout=60)
        assert not [each for each in alive if each.status() != psutil.STATUS_ZOMBIE]
    finally:
        process.kill()


def _check_that_it_follows(store: ModelStore, url: str) -> None:
    better = save_bundle(store.storage.path("better"), build_model("gatewave", hidden=4, depth=2))
    better_id = store.add(better, None).bundle_id

    def served() -> dict[str, Any]:
        (model,) = httpx.get(f"{url}/v1/models", timeout=30).json()["data"]
        return dict(model)

    wait_until(lambda: served()["id"] == better_id, "what was promoted")
    evidence = Path(served()["evidence"])
    assert evidence == store.bundle(better_id) / EVIDENCE_FILE
    assert json.loads(evidence.read_text())["bundle_id"] == better_id


def _check_that_a_call_may_finish(url: str, process: subprocess.Popen[str]) -> None:
    """For longer than Ray Serve would leave a replica its connections."""
    hops = [np.zeros(320, np.float32)] * 400  # 8 s

    def in_real_time() -> Iterator[np.ndarray]:
        for number, hop in enumerate(hops):
            if number == 50:
                process.send_signal(signal.SIGTERM)
            yield hop
            time.sleep(0.02)

    with StreamClient(url) as client:
        heard = np.concatenate(list(client.denoise(in_real_time())))
        assert client.draining is not None
    assert len(heard) == 320 * len(hops)


def _check_unusual_clients(url: httpx.URL) -> None:
    if haproxy.is_installed():
        odd = b"GET /healthz HTTP/1.0\r\nX-Request-Id: r\xe9union\r\n\r\n"
        assert exchange(url, odd)[0].startswith("http/1.1 200")
    data = file_bytes(recording(31))  # longer than what is answered whole
    for version, half_close in (("1.0", False), ("1.1", True), ("1.0", True)):
        if half_close and not haproxy.is_installed():
            continue
        head, body = exchange(
            url, head_of_upload(len(data), "?response_format=flac", version) + data, half_close
        )
        assert head.startswith("http/1.1 200"), head
        if version == "1.0":
            assert "transfer-encoding" not in head
            assert f"content-length: {len(body)}" in head
            assert samples_of(body).shape == (31 * 16_000, 1)


def test_a_signal_that_another_thread_receives_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    stop, is_waiting, is_too_late = threading.Event(), threading.Event(), threading.Event()

    def what_is_wrong() -> str:
        is_waiting.set()
        return ""

    def signal_itself() -> None:
        is_waiting.wait()
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
        if not stop.wait(20):
            is_too_late.set()
            stop.set()

    monkeypatch.setattr(serve, "what_is_wrong", what_is_wrong)
    before = signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        thread = threading.Thread(target=signal_itself)
        thread.start()
        assert serve.watch(stop, patience_s=60, look_every_s=0.1) == ""
        thread.join()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not is_too_late.is_set()


def test_an_endpoint_that_is_gone_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "what_is_wrong", lambda: "it was deleted")
    assert serve.watch(threading.Event(), patience_s=0.2, look_every_s=0.01) == "it was deleted"
    hanging = threading.Event()
    monkeypatch.setattr(serve, "what_is_wrong", lambda: str(hanging.wait()))
    assert serve.watch(threading.Event(), patience_s=0.2, look_every_s=0.01) == "Ray does not answer"
    hanging.set()


def test_one_failure_between_others_that_work_does_not_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    stop, answers = threading.Event(), iter(["restarting", ""] * 10)

    def what_is_wrong() -> str:
        answer = next(answers, None)
        if answer is None:
            stop.set()
        return answer or ""

    monkeypatch.setattr(serve, "what_is_wrong", what_is_wrong)
    assert serve.watch(stop, patience_s=1.5, look_every_s=0.1) == ""


def test_a_config_is_written_instead_of_serving(
    run_job: Callable[..., Done], bundle: Path, tmp_path: Path
) -> None:
    file = tmp_path / "serve.yaml"
    done = run_job("serve", "--bundle", bundle, "--max-replicas", 3, "--write-config", file)
    assert done.code == 0
    (application,) = yaml.safe_load(file.read_text())["applications"]
    (deployment,) = application["deployments"]
    assert deployment["user_config"] == {"bundles": [str(bundle)]}
    assert deployment["autoscaling_config"]["max_replicas"] == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--bundle", "nowhere"], "nowhere does not exist"),
        (["--bundle", "{bundle}", "--port", "99999"], "port"),
        (["--bundle", "{bundle}", "--api-keys", "no-such-file"], "no-such-file"),
        (["--bundle", "{bundle}", "--allow-origin", "example.org"], "https://example.org"),
        (["--bundle", "{bundle}", "--port", "0", "--host", "203.0.113.7"], "cannot listen on 203.0.113.7"),
        (["--bundle", "{bundle}", "--port", "0", "--proxy", "haproxy"], "RAY_ADDRESS names a cluster"),
    ],
)
def test_wrong_use_is_one_line_before_ray_starts(
    run_job: Callable[..., Done],
    monkeypatch: pytest.MonkeyPatch,
    bundle: Path,
    arguments: list[str],
    words: str,
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(serve, "connect", never)
    monkeypatch.setenv("RAY_ADDRESS", "203.0.113.7:6379")
    done = run_job("serve", *(argument.format(bundle=bundle) for argument in arguments))
    assert done.code == 2
    assert words in done.error
    assert done.err == f"{done.error}\n"
