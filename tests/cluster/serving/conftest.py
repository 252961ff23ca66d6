"""What the tests of serving share: models, and applications under a real server on loopback."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from starlette.types import ASGIApp

from cluster.serving.models import ServedModels
from tests.cluster.serving.engines import WatchedEngine
from tests.cluster.serving.live_server import Server, held_server, serve
from tests.loopback import run_app as run_on_loopback
from ww_models import build_model, save_bundle

RunApp = Callable[[ASGIApp], contextlib.AbstractContextManager[str]]


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


@pytest.fixture(scope="session")
def run_app() -> RunApp:
    """with run_app(app) as host: http://{host}/... answers until the block ends."""
    return run_on_loopback


@pytest.fixture(scope="session")
def models(bundle: Path) -> ServedModels:
    """The tiny bundle, loaded; tests that promote load their own."""
    return ServedModels([bundle])


@pytest.fixture(scope="module")
def server(models: ServedModels) -> Iterator[Server]:
    """A live endpoint; its sessions end with the test that opened them."""
    with serve(models) as server:
        yield server


@pytest.fixture
def held(models: ServedModels) -> Iterator[tuple[Server, WatchedEngine]]:
    with held_server(models) as held:
        yield held
