"""Engines of models that wait, fail or dawdle where a test says so, and what serves such a model."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable

from cluster.serving.models import ServedModel
from ww_models.streaming.engine import Samples, State


class WatchedEngine:
    """The engine of a model, which counts its steps, and waits or fails where the test says so."""

    def __init__(self, model: ServedModel) -> None:
        engine = model.engine
        assert engine is not None
        self._engine = engine
        self.sample_rate, self.hop_samples = engine.sample_rate, engine.hop_samples
        self.lead_samples, self.lag_samples = engine.lead_samples, engine.lag_samples
        self.latency_samples = engine.latency_samples
        self.batch_sizes: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.fails = False

    def initial_state(self, batch: int) -> State:
        return self._engine.initial_state(batch)

    def bind(self, chunk: Samples, state: State, output: Samples, next_state: State) -> Callable[[], None]:
        run = self._engine.bind(chunk, state, output, next_state)

        def watched() -> None:
            self.before_step()
            self.batch_sizes.append(len(chunk))
            run()

        return watched

    def before_step(self) -> None:
        assert self.gate.wait(30)
        if self.fails:
            raise RuntimeError("secret detail")


def watched(model: ServedModel) -> tuple[ServedModel, WatchedEngine]:
    engine = WatchedEngine(model)
    return dataclasses.replace(model, engine=engine), engine  # type: ignore[arg-type]


class OneModel:
    """What `LiveCalls` needs of ServedModels."""

    def __init__(self, model: ServedModel) -> None:
        self.default = model

    def all(self) -> list[ServedModel]:
        return [self.default]

    def get(self, model_id: str | None) -> ServedModel:
        return self.default
