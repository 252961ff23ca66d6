"""The share of a worker that is chosen for the CPUs there are."""

from __future__ import annotations

import pytest

from cluster.settings.resources import MIXING_CPUS, ResourcesConfig


@pytest.mark.parametrize(
    ("workers", "cpus", "expected"),
    [(1, 2, 1.0), (2, 2, 0.5), (4, 2, 0.25), (2, 8, 1.0), (4, 4, 0.75), (8, 64, 1.0), (1, 1, 0.45)],
)
def test_workers_always_leave_room_for_mixing(workers: int, cpus: int, expected: float) -> None:
    resolved = ResourcesConfig(num_workers=workers).resolved(cpus)
    assert resolved.cpus_per_worker == pytest.approx(expected)
    assert resolved.cpus_per_worker * workers + MIXING_CPUS < cpus


@pytest.mark.parametrize("node_cpus", [[2, 2], [1], [4, 2], [64, 64, 3], [8], [0, 4]])
@pytest.mark.parametrize("workers", [2, 3, 8])
def test_an_elastic_run_leaves_room_for_mixing_on_whichever_node_is_left(
    node_cpus: list[float], workers: int
) -> None:
    elastic = ResourcesConfig(num_workers=workers, min_workers=1)
    share = elastic.resolved(sum(node_cpus), node_cpus).cpus_per_worker
    for cpus in node_cpus:
        num_on_node = min(workers, cpus // share)  # as Ray counts
        assert (num_on_node >= 1) == (cpus > 0)
        assert not cpus or cpus - num_on_node * share >= MIXING_CPUS
