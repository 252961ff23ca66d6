"""What the tests of serving share: a tiny bundle, and an application under a real server on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cluster.serving.models import ServedModels
from ww_models import build_model, save_bundle

RunApp = Callable[[ASGIApp], contextlib.AbstractContextManager[str]]


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal GateWave that runs in microseconds: 16 kHz, a hop of 16 ms; never written to."""
    torch.manual_seed(0)
    model = build_model("gatewave", hidden=4, depth=2, residual=True)
    folder = tmp_path_factory.mktemp("serving") / "tiny"
    return save_bundle(folder, model, metrics={"pesq": 1.5}, licence="MIT")


@pytest.fixture(scope="session")
def other_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model of the same shape, whose output differs."""
    torch.manual_seed(1)
    model = build_model("gatewave", hidden=4, depth=2, residual=True)
    return save_bundle(tmp_path_factory.mktemp("serving") / "other", model, licence="MIT")


@pytest.fixture(scope="session")
def whole_clip_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that needs the whole clip and so cannot run live."""
    torch.manual_seed(2)
    model = build_model("gatewave", hidden=4, depth=2, causal=False, normalize="utterance")
    return save_bundle(tmp_path_factory.mktemp("serving") / "whole", model, licence="MIT")


@contextlib.contextmanager
def _run_app(app: ASGIApp) -> Iterator[str]:
    """Runs an application under uvicorn in a thread; yields "127.0.0.1:PORT"."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5, ws_ping_timeout=None)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        deadline = time.monotonic() + 30
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            assert time.monotonic() < deadline, "the server did not start in time"
            time.sleep(0.01)
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive(), "the server did not end"


class TakesAll:
    """Stands between a server and an application as Ray Serve does: takes all that a client sends, read or not."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            await self.app(scope, receive, send)
            return
        messages: asyncio.Queue[Message] = asyncio.Queue()

        async def take() -> None:
            while True:
                await messages.put(message := await receive())
                if message["type"] == "websocket.disconnect":
                    return

        async with asyncio.TaskGroup() as tasks:
            taking = tasks.create_task(take())
            await self.app(scope, messages.get, send)
            taking.cancel()


@pytest.fixture(scope="session")
def run_app() -> RunApp:
    """with run_app(app) as host: http://{host}/... answers until the block ends."""
    return _run_app


@pytest.fixture(scope="session")
def models(bundle: Path) -> ServedModels:
    """The tiny bundle, loaded; tests that promote load their own."""
    return ServedModels([bundle])
