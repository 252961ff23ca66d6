"""Whether a job fits on the cluster: found out before it starts, said with the arithmetic, never by hanging."""

from __future__ import annotations

from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.settings.resources import MIXING_CPUS, NODES_LABEL, ResourcesConfig


class PlacementError(ValueError):
    """The cluster cannot hold what was asked for."""


def on_this_node() -> NodeAffinitySchedulingStrategy:
    """For an actor that must not be lost with a node of the workers: it lives with this process, or not at all.

    Soft affinity would not do: Ray now and then places such an actor on another node although this one is there.
    """
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def nodes_of(pool: str) -> list[dict[str, Any]]:
    """The nodes that are alive: of a pool, or all of them for ""."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    return [node for node in alive if not pool or node["Labels"].get(NODES_LABEL) == pool]


def selector_of(pool: str) -> dict[str, str]:
    """For Ray: where something may run."""
    return {NODES_LABEL: pool} if pool else {}


def check_placement(resources: ResourcesConfig) -> None:
    """Reserves the workers' resources for a moment; raises PlacementError, with the arithmetic, if that fails.

    The reservation is tried for real, for free resources of several nodes do not add up to room for a worker. Of an
    elastic run it is that of the fewest workers, and no node may be one that workers alone would fill.
    """
    share, num_workers = resources.worker_resources(), resources.least_workers
    total, free = ray.cluster_resources(), ray.available_resources()
    if resources.is_elastic and not resources.mixes_elsewhere:
        _check_room_to_mix(resources)
    needed = ", ".join(
        f"{num_workers} workers x {amount:g} {name} = {num_workers * amount:g} {name}"
        for name, amount in share.items()
    )
    needed += f", and {MIXING_CPUS:g} CPU to mix sound"
    there = ", ".join(f"{total.get(name, 0):g} {name} ({free.get(name, 0):g} free)" for name in share)
    pools = [resources.worker_nodes] * num_workers + [resources.mixing_nodes]
    group = placement_group(
        [share] * num_workers + [{"CPU": MIXING_CPUS}],
        resources.placement_strategy,
        bundle_label_selector=[selector_of(pool) for pool in pools],
    )
    try:
        if not group.wait(timeout_seconds=resources.placement_timeout_s):
            raise PlacementError(
                f"the training run needs {needed}, but the cluster has {there} on {_counts(pools)}, and no room came "
                f"free within {resources.placement_timeout_s:g} s; lower resources.num_workers, "
                "resources.cpus_per_worker or resources.gpus_per_worker, or add nodes"
            )
    finally:
        remove_placement_group(group)


def _counts(pools: list[str]) -> str:
    """The number of nodes, and of those of each pool that was asked for."""
    counts = [
        f"{len(nodes_of(pool))} of them with {NODES_LABEL}={pool}" for pool in dict.fromkeys(pools) if pool
    ]
    return ", ".join([f"{len(nodes_of(''))} node(s)", *counts])


def _check_room_to_mix(resources: ResourcesConfig) -> None:
    """Workers that fill a node would wait for sound for ever, should it be the last that is left."""
    cpus = resources.cpus_per_worker
    for node in nodes_of(resources.worker_nodes):
        there = node["Resources"].get("CPU", 0.0)
        if cpus and not resources.leaves_room(there, cpus):
            raise PlacementError(
                f"a node of {there:g} CPUs would be filled by {resources.num_on_node(there, cpus)} workers x {cpus:g} "
                f"CPU, but mixing sound takes {MIXING_CPUS:g} CPU: choose another resources.cpus_per_worker, or 0 to "
                "have it chosen"
            )
