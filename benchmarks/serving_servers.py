"""The two that benchmarks/serving.py compares: the same application under plain uvicorn and in Ray Serve."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import uvicorn

from cluster.serving.app import build_app
from cluster.serving.config import ServingConfig
from cluster.serving.deployment import bindable_port, serve_bundles
from cluster.serving.models import ServedModels
from cluster.session import connect

CORES = 2


@contextlib.contextmanager
def under_uvicorn(bundle: Path, config: ServingConfig) -> Iterator[str]:
    """One process, no Ray; yields its address."""
    port = bindable_port(config.host, config.port)
    process = multiprocessing.get_context("spawn").Process(target=_run_uvicorn, args=(bundle, config, port))
    process.start()
    url = f"http://{config.host}:{port}"
    try:
        deadline = time.monotonic() + config.start_timeout_s
        while not _is_ready(url):
            if not process.is_alive() or time.monotonic() > deadline:
                raise RuntimeError("the application did not start under uvicorn; see above")
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.join(10)
        process.kill()
        process.join()


@contextlib.contextmanager
def under_ray_serve(bundle: Path, config: ServingConfig) -> Iterator[str]:
    """One replica in a Ray of its own, as jobs.serve starts it; yields its address."""
    with connect(num_cpus=CORES), serve_bundles(bundle, config) as url:
        time.sleep(3)  # until Ray's idle workers are there, as in any cluster that was not started just now
        yield url


def _run_uvicorn(bundle: Path, config: ServingConfig, port: int) -> None:
    app = build_app(ServedModels([bundle], precision=config.precision), config)
    uvicorn.run(app, host=config.host, port=port, log_level="warning", timeout_graceful_shutdown=2)


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").is_success
    except httpx.TransportError:
        return False
