"""The settings of what a training run takes of a cluster, and how they are chosen for the CPUs there are."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

MIXING_CPUS = 0.5  # what Ray sets aside for each task that mixes sound
NODES_LABEL = "wave-wizard/nodes"  # of Ray's nodes: their pool, cpu or gpu


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResourcesConfig:
    """What one training run takes of the cluster.

    num_workers: processes that train together, each on its share of every batch.
    min_workers: where nodes may come and go, so few workers will do; training resumes with as many as there is room
        for, from the last checkpoint, over the same batches. 0: always num_workers.
    cpus_per_worker: CPUs that Ray sets aside for each worker. 0 chooses: one each where that leaves a CPU for mixing,
        otherwise a fraction, so that Ray Data's tasks find room on a machine with as many cores as workers.
    gpus_per_worker: GPUs for each worker; 0 trains on the CPU.
    torch_threads: threads of one worker's arithmetic; 0 chooses its share of its node's CPUs.
    placement_timeout_s: how long to wait for these resources to become free (raise it where a cluster must
        first start nodes).
    worker_nodes: the pool of the nodes that train, as their label `wave-wizard/nodes` says, e.g. gpu. Empty: any node
        with the CPUs and GPUs that are asked for.
    mixing_nodes: the pool of the nodes that mix sound, e.g. cpu. Empty: any.
    """

    num_workers: int = 1
    min_workers: int = 0
    cpus_per_worker: float = 0.0
    gpus_per_worker: float = 0.0
    torch_threads: int = 0
    placement_timeout_s: float = 20.0
    worker_nodes: str = ""
    mixing_nodes: str = ""

    def __post_init__(self) -> None:
        if self.num_workers < 1:
            raise ValueError(f"num_workers must be at least 1; got {self.num_workers}")
        if not 0 <= self.min_workers <= self.num_workers:
            raise ValueError(
                f"min_workers must lie between 0 and num_workers={self.num_workers}; got {self.min_workers}"
            )
        for name in ("cpus_per_worker", "gpus_per_worker", "torch_threads", "placement_timeout_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative; got {getattr(self, name)}")

    @property
    def is_elastic(self) -> bool:
        return 0 < self.min_workers < self.num_workers

    @property
    def mixes_elsewhere(self) -> bool:
        """Whether no node both trains and mixes sound."""
        return bool(self.worker_nodes and self.mixing_nodes) and self.worker_nodes != self.mixing_nodes

    @property
    def least_workers(self) -> int:
        """The fewest that training runs on."""
        return self.min_workers or self.num_workers

    def resolved(self, total_cpus: float, node_cpus: Sequence[float] = ()) -> ResourcesConfig:
        """The same with `cpus_per_worker` chosen for a cluster of `total_cpus` CPUs, where it is 0.

        node_cpus: of each node. An elastic run may end up on any of them: a worker's share leaves room on each.
        """
        cpus = self.cpus_per_worker
        if cpus == 0:
            # Workers may reserve all but one CPU; on small machines not quite half, or mixing would wait for ever.
            spare = max(total_cpus - 1, 0.45 * total_cpus)
            cpus = min(1.0, math.floor(1e4 * spare / self.num_workers) / 1e4) if total_cpus else 1.0
            if self.is_elastic:
                cpus = self._fitting_all(node_cpus, cpus)
        return dataclasses.replace(self, cpus_per_worker=cpus)

    def _fitting_all(self, node_cpus: Sequence[float], cpus: float) -> float:
        """At most `cpus` for a worker, so that whichever node is filled with them has room to mix sound.

        In binary fractions: Ray divides a node's CPUs by a worker's, and these come out even.
        """
        cpus = max(math.floor(cpus * 256), 1) / 256
        for there in node_cpus:
            if there > MIXING_CPUS and not self.leaves_room(there, cpus):
                less = (there - MIXING_CPUS) / self.num_on_node(there, cpus)
                return self._fitting_all(node_cpus, less)  # of which more may fit on another node
        return cpus

    def num_on_node(self, node_cpus: float, cpus_per_worker: float) -> int:
        return min(self.num_workers, math.floor(node_cpus / cpus_per_worker))

    def leaves_room(self, node_cpus: float, cpus_per_worker: float) -> bool:
        """Whether a node that is filled with workers has room to mix sound. One that can hold none does not matter."""
        there = self.num_on_node(node_cpus, cpus_per_worker)
        return not there or node_cpus - there * cpus_per_worker >= MIXING_CPUS

    @property
    def placement_strategy(self) -> str:
        """GPUs talk fastest within a node; CPU workers would only share its cores."""
        return "PACK" if self.gpus_per_worker else "SPREAD"

    def worker_resources(self) -> dict[str, float]:
        """One worker's share, as Ray names it."""
        share = {"CPU": self.cpus_per_worker}
        if self.gpus_per_worker:
            share["GPU"] = self.gpus_per_worker
        return share
