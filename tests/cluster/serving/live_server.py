"""A live endpoint on loopback, the sound that goes there, and what a client hears of it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from cluster.enhancement import enhance_audio
from cluster.serving.config import LiveConfig
from cluster.serving.live.protocol import PATH
from cluster.serving.live.stepper import Stepper
from cluster.serving.live.websocket import Admitted, LiveCalls
from cluster.serving.models import ServedModels
from tests.cluster.serving.engines import OneModel, WatchedEngine, watched
from tests.loopback import TakesAll, run_app
from ww_models import load_bundle

# The numbers of streams are given: what this machine would carry is no matter of these tests.
CONFIG = LiveConfig(max_streams=16, follows_load=False, stats_interval_s=0.1)


@dataclasses.dataclass
class Server:
    """A running application. url: of the live endpoint."""

    url: str
    live: LiveCalls
    app: FastAPI

    def connect(self, query: str = "", **arguments: Any) -> ClientConnection:
        # Without pings: a model that is loaded in this process can hold up the answer for longer than they wait.
        options = {"compression": None, "max_size": None, "ping_interval": None, **arguments}
        return connect(f"{self.url}?{query}", **options)


@contextlib.contextmanager
def serve(
    models: Any, config: LiveConfig = CONFIG, admitted: Admitted | None = None, holds_callers: bool = True
) -> Iterator[Server]:
    app, stepper = FastAPI(), Stepper()
    live = LiveCalls(app, models, stepper, config, *([admitted] if admitted else []))
    app.add_api_route("/drain", live.drain, methods=["POST"])
    live.holds_callers = holds_callers
    with run_app(app if holds_callers else TakesAll(app)) as host:
        yield Server(f"ws://{host}{PATH}", live, app)
    stepper.close()


@contextlib.contextmanager
def held_server(models: ServedModels, **arguments: Any) -> Iterator[tuple[Server, WatchedEngine]]:
    """A server whose model stands still while the gate of its engine is closed."""
    model, engine = watched(models.default)
    with serve(OneModel(model), **arguments) as server:
        yield server, engine
        engine.gate.set()


class Heard:
    """What a client received: sound (T, C), and messages without the statistics."""

    def __init__(self, connection: ClientConnection, num_channels: int = 1) -> None:
        self.connection, self.num_channels = connection, num_channels
        self.sound = b""
        self.messages: list[dict[str, Any]] = []
        self.stats: list[dict[str, Any]] = []

    @property
    def samples(self) -> np.ndarray:
        return np.frombuffer(self.sound, "<f4").reshape(-1, self.num_channels)

    def until(self, kind: str) -> dict[str, Any]:
        """Listens until a message of this kind."""
        while True:
            content = self.listen()
            if content.get("type") == kind:
                return content

    def until_samples(self, num_samples: int) -> None:
        while len(self.samples) < num_samples:
            self.listen()

    def listen(self) -> dict[str, Any]:
        """Takes one message, which it returns if it is a text."""
        message = self.connection.recv(30)
        if isinstance(message, bytes):
            self.sound += message
            return {}
        content = json.loads(message)
        (self.stats if content["type"] == "stats" else self.messages).append(content)
        return content

    def until_closed(self) -> tuple[int, dict[str, Any]]:
        """Listens to the end: the close code and the error before it, if there was one."""
        with pytest.raises(ConnectionClosed) as info:
            self.until("nothing of this kind")
        errors = [message for message in self.messages if message["type"] == "error"]
        assert len(errors) <= 1
        assert not errors or self.messages[-1] is errors[0], "an error is the last word"
        code = info.value.rcvd.code if info.value.rcvd else 1006
        return code, errors[0] if errors else {}


def sound(seed: int, num_samples: int = 4000, num_channels: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (0.1 * rng.standard_normal((num_samples, num_channels))).astype(np.float32)


def denoised(bundle: Path, samples: np.ndarray, rate: int = 16_000) -> np.ndarray:
    return enhance_audio(load_bundle(bundle), samples, rate)
