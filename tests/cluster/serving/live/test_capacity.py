"""The number of streams that a process admits follows from what it measures."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI

from cluster.serving.config import LiveConfig
from cluster.serving.live import websocket
from cluster.serving.live.capacity import (
    MAX_STREAMS,
    PYTHON_PROXY_COST,
    Capacity,
    given_capacity,
    measure_capacity,
)
from cluster.serving.live.stepper import Stepper
from cluster.serving.live.websocket import LiveCalls
from cluster.serving.models import ServedModels
from ww_models.streaming.engine import Samples, State


class SlowEngine:
    """A hop of 16 ms whose step takes so long for each stream, and does nothing."""

    sample_rate, hop_samples, lead_samples, lag_samples, latency_samples = 16_000, 256, 0, 0, 255

    def __init__(self, step_s: float) -> None:
        self.step_s = step_s

    def initial_state(self, batch: int) -> State:
        return {"nothing": np.zeros((batch, 1), np.float32)}

    def bind(self, chunk: Samples, state: State, output: Samples, next_state: State) -> Callable[[], None]:
        return lambda: time.sleep(self.step_s * len(chunk))


def measure_max_streams(engine: Any, **options: float) -> int:
    return measure_capacity(engine, **options).max_streams


def test_slow_steps_leave_room_for_few() -> None:
    # 0.7 of 16 ms are 11.2 ms; a busy machine only makes it fewer.
    assert 1 <= measure_max_streams(SlowEngine(0.002)) <= 5
    assert measure_max_streams(SlowEngine(0.02)) == 1
    assert measure_max_streams(SlowEngine(0.002), max_load=0.3) <= 2


def test_fast_steps_leave_room_for_more_than_one(models: ServedModels) -> None:
    assert models.default.engine is not None
    assert 1 < measure_max_streams(models.default.engine) <= MAX_STREAMS


def test_a_proxy_in_python_leaves_room_for_fewer(models: ServedModels) -> None:
    assert models.default.engine is not None
    behind_it = measure_max_streams(models.default.engine, connection_cost=PYTHON_PROXY_COST)
    assert 1 <= behind_it < measure_max_streams(models.default.engine) / 2


def test_it_is_measured_once_how_many_streams_fit(
    models: ServedModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []

    def measure(engine: Any, *_: object) -> Capacity:
        begun.append(1)
        time.sleep(0.1)
        return given_capacity(engine, 7, 0.7)

    monkeypatch.setattr(websocket, "measure_capacity", measure)
    live = LiveCalls(FastAPI(), models, Stepper(), LiveConfig())
    later = dataclasses.replace(models.default)
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(live.max_streams, [later] * 4)) == [7] * 4
    assert len(begun) == 2, "each model once"
