"""A job that cannot be placed says so with the arithmetic, quickly; one that can leaves nothing reserved."""

from __future__ import annotations

import time

import pytest
import ray

from cluster.machine.placement import PlacementError, check_placement
from cluster.settings.resources import ResourcesConfig


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


def test_a_pool_without_nodes_is_named(local_ray: str) -> None:
    nowhere = ResourcesConfig(cpus_per_worker=0.5, worker_nodes="gpu", placement_timeout_s=1)
    with pytest.raises(
        PlacementError, match=r"on 1 node\(s\), 0 of them with wave-wizard/nodes=gpu, and no room"
    ):
        check_placement(nowhere)


def test_possible_job_passes_and_gives_back(local_ray: str) -> None:
    before = ray.cluster_resources()["CPU"]
    check_placement(ResourcesConfig(num_workers=2, cpus_per_worker=0.5))
    deadline = time.monotonic() + 10
    while ray.available_resources().get("CPU", 0) < before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert ray.available_resources()["CPU"] == before
