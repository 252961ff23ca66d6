"""What is done with private names of Ray, as far as it can be seen without Ray."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ray.data._internal.execution.execution_callback import ExecutionCallback

from cluster.machine import ray_internals


def test_the_pause_answers_to_every_event_of_an_execution() -> None:
    events = {name for name in vars(ExecutionCallback) if not name.startswith("_")}
    assert "on_execution_step" in events
    assert events <= set(dir(ray_internals.PauseBetweenTurns))


def test_turns_of_ray_data_are_short_unless_blocks_lie_ready_and_nothing_happens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lengths_s: list[float] = []
    monkeypatch.setattr(ray_internals.time, "monotonic", lambda: 0.0)
    monkeypatch.setattr(ray_internals.time, "sleep", lengths_s.append)
    pause = ray_internals.PauseBetweenTurns()
    for made, ready in [(0, 0)] * 3 + [(1, 1)] * 2 + [(5, 4)] * 6 + [(5, 3)] * 2 + [(6, 0)] * 2:
        output = SimpleNamespace(
            num_completed_tasks=made, total_enqueued_output_blocks=lambda ready=ready: ready
        )
        pause.on_execution_step(SimpleNamespace(_output_node=(None, output)))
    at_work = [0.05] * 5
    at_rest = [0.05, 0.1, 0.2, 0.4, 0.4, 0.4]  # the first one found something new
    assert lengths_s == at_work + at_rest + [0.05, 0.1] + [0.05] * 2
