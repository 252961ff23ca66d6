"""A job that cannot be placed says so with the arithmetic, quickly; one that can leaves nothing reserved."""

from __future__ import annotations

import time

import pytest
import ray

from cluster.machine.placement import MIXING_CPUS, PlacementError, ResourcesConfig, check_placement


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


def test_an_elastic_job_that_would_fill_a_node_is_refused(local_ray: str) -> None:
    filled = ResourcesConfig(num_workers=4, min_workers=1, cpus_per_worker=1.0)
    with pytest.raises(PlacementError, match="a node of 2 CPUs would be filled by 2 workers x 1 CPU"):
        check_placement(filled)


def test_an_elastic_job_is_placed_where_its_fewest_workers_fit(local_ray: str) -> None:
    check_placement(ResourcesConfig(num_workers=4, min_workers=1, cpus_per_worker=1.2))
    with pytest.raises(PlacementError, match=r"2 workers x 1\.2 CPU = 2\.4 CPU"):
        check_placement(
            ResourcesConfig(num_workers=4, min_workers=2, cpus_per_worker=1.2, placement_timeout_s=1)
        )


def test_impossible_job_fails_with_the_arithmetic(local_ray: str) -> None:
    start = time.monotonic()
    with pytest.raises(PlacementError) as error:
        check_placement(ResourcesConfig(num_workers=3, cpus_per_worker=1.0, placement_timeout_s=2))
    assert time.monotonic() - start < 30
    for words in ("3 workers x 1 CPU = 3 CPU", "2 CPU", "resources.num_workers", "2 s"):
        assert words in str(error.value)


def test_missing_gpus_are_named(local_ray: str) -> None:
    with pytest.raises(PlacementError, match=r"2 workers x 1 GPU = 2 GPU.*0 GPU \(0 free\)"):
        check_placement(
            ResourcesConfig(num_workers=2, cpus_per_worker=0.5, gpus_per_worker=1, placement_timeout_s=1)
        )


def test_possible_job_passes_and_gives_back(local_ray: str) -> None:
    before = ray.cluster_resources()["CPU"]
    check_placement(ResourcesConfig(num_workers=2, cpus_per_worker=0.5))
    deadline = time.monotonic() + 10
    while ray.available_resources().get("CPU", 0) < before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert ray.available_resources()["CPU"] == before
