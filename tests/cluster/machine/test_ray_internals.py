"""What is done with private names of Ray, as far as it can be seen without Ray."""

from __future__ import annotations

import socket
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


def test_of_two_proxies_that_were_told_one_port_the_second_learns_it_before_either_listens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ray.serve._private import http_util

    monkeypatch.setattr(http_util, "set_socket_reuse_port", http_util.set_socket_reuse_port)
    ray_internals.take_port_alone()
    with socket.socket() as first, socket.socket() as second:
        for each in (first, second):
            assert http_util.set_socket_reuse_port(each)
        first.bind(("127.0.0.1", 0))
        with pytest.raises(OSError, match="in use"):
            second.bind(first.getsockname())
        first.listen(100)  # uvicorn does, later


def test_a_port_that_was_left_a_moment_ago_is_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.serve._private import http_util

    monkeypatch.setattr(http_util, "set_socket_reuse_port", http_util.set_socket_reuse_port)
    ray_internals.take_port_alone()
    address = ("127.0.0.1", 0)
    for _ in range(2):
        with socket.socket() as server:
            http_util.set_socket_reuse_port(server)
            server.bind(address)
            address = server.getsockname()
            client = socket.create_connection(address)
            connection, _peer = server.accept()
            connection.close()  # the server's side first: its port is in TIME_WAIT
            client.close()
