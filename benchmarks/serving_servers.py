"""Those that benchmarks/serving.py compares: the same application under plain uvicorn and in Ray Serve.

Each runs in a process of its own: Ray Serve reads how it is to forward requests from the environment, when imported.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import httpx

from cluster.serving.config import ServingConfig
from cluster.serving.deploy.haproxy import proxy_before_replicas

CORES = 2
_SETTLING_S = 3.0  # until Ray's idle workers are there, as in any cluster that was not started just now


def run_uvicorn(bundle: Path, config: ServingConfig, benchmark: Connection) -> None:
    """One process, no Ray."""
    import uvicorn

    from cluster.serving.deploy.deployment import bindable_port
    from cluster.serving.models import ServedModels
    from cluster.serving.web.app import build_app

    app = build_app(ServedModels([bundle], precision=config.precision), config)
    port = bindable_port(config.host, config.port)
    settings = uvicorn.Config(
        app,
        host=config.host,
        port=port,
        log_level="warning",
        timeout_graceful_shutdown=5,
        ws_ping_timeout=None,  # who sends much before he reads is slow to answer, not gone
    )
    server = uvicorn.Server(settings)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not _is_ready(f"http://{config.host}:{port}") and thread.is_alive():
        time.sleep(0.1)
    _serve_until_closed(f"http://{config.host}:{port}", benchmark)
    server.should_exit = True
    thread.join()


def run_ray_serve(bundle: Path, config: ServingConfig, benchmark: Connection) -> None:
    """One replica in a Ray of its own."""
    from cluster.machine.session import connect

    with connect(num_cpus=CORES):
        from cluster.serving.deploy.deployment import serve_bundles

        with serve_bundles(bundle, config) as address:
            time.sleep(_SETTLING_S)
            _serve_until_closed(address, benchmark)


def run_behind_haproxy(bundle: Path, config: ServingConfig, benchmark: Connection) -> None:
    """The same as jobs.serve starts it: HAProxy takes the place of the proxy that Ray Serve has in Python."""
    with proxy_before_replicas("haproxy"):
        run_ray_serve(bundle, config, benchmark)


SERVERS: dict[str, Callable[[Path, ServingConfig, Connection], None]] = {
    "uvicorn": run_uvicorn,
    "HAProxy": run_behind_haproxy,
    "Ray Serve": run_ray_serve,
}


@contextlib.contextmanager
def running(server: str, bundle: Path, config: ServingConfig) -> Iterator[str]:
    """Starts one of SERVERS and yields its address once it answers; RuntimeError if it does not."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=SERVERS[server], args=(bundle, config, theirs))
    process.start()
    theirs.close()
    try:
        if not ours.poll(config.start_timeout_s + 60):
            raise RuntimeError(f"{server} did not start in time")
        try:
            url = ours.recv()
        except EOFError:
            raise RuntimeError(f"{server} did not start; see above") from None
        yield url
    finally:
        ours.close()
        process.join(60)
        if process.is_alive():
            os.kill(process.pid or 0, signal.SIGINT)  # Ray's processes end with theirs
            process.join(10)
            process.kill()


def _serve_until_closed(url: str, benchmark: Connection) -> None:
    """Tells the address; returns when the benchmark has closed its end, or is gone."""
    benchmark.send(url)
    with contextlib.suppress(EOFError):
        benchmark.recv()


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", trust_env=False).is_success
    except httpx.TransportError:
        return False
