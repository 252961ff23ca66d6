"""Starts the nodes. They outlive the command once all of them run; until then they end with it, however it ends."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.errors import one_line
from cluster.local.state import (
    LocalCluster,
    LocalClusterError,
    LocalNode,
    claimed,
    make_room,
    token_file,
    write,
)
from cluster.machine import guard
from cluster.machine.ray_internals import LOOPBACK_ENVIRONMENT, prepare_local_start
from cluster.machine.session import patience
from cluster.settings.resources import NODES_LABEL

# For a run that is told to end to save where it stands; Ray's own default of 3 s is too short for that.
_JOB_STOP_WAIT_S = 60
_FILES = "ray"  # of the head: Ray's name for them below RAY_TMPDIR
_ADDRESS_FILE = "ray_current_cluster"  # by which a job that runs on a node finds the cluster


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """How many nodes, the first of which is the head, and what each of them has.

    cpus_per_node: CPUs that a node offers. Ray counts them and no more, so all together may be more than there are.
    num_gpu_nodes: the last so many are the pool gpu, all others cpu. They have no GPUs: it is for where work goes.
    has_idle_head: the head offers no CPUs, so it runs the drivers of jobs and nothing else.
    object_store_mib: shared memory of each node for Ray's objects, in MiB.
    """

    num_nodes: int = 3
    cpus_per_node: int = 2
    num_gpu_nodes: int = 0
    has_idle_head: bool = False
    object_store_mib: int = 300

    def __post_init__(self) -> None:
        for option, value, least in (
            ("--nodes", self.num_nodes, 1),
            ("--cpus", self.cpus_per_node, 1),
            ("--object-store-mib", self.object_store_mib, 80),  # of less Ray makes none
        ):
            if value < least:
                raise LocalClusterError(f"{option} must be at least {least}; got {value}")
        if not 0 <= self.num_gpu_nodes < self.num_nodes:
            raise LocalClusterError(
                f"--gpu-nodes must lie between 0 and {self.num_nodes - 1}, since the head is none; got "
                f"{self.num_gpu_nodes}"
            )

    def pool(self, index: int) -> str:
        return "gpu" if index >= self.num_nodes - self.num_gpu_nodes else "cpu"

    def num_cpus(self, index: int) -> int:
        return 0 if index == 0 and self.has_idle_head else self.cpus_per_node


def start(folder: Path, shape: Shape, say: Callable[[str], None]) -> LocalCluster:
    """Starts a cluster whose files lie in a folder. say: gets a line for each step.

    Raises LocalClusterError if one runs there already, or if a node does not start, also when all are started once
    more: then nothing of it remains.
    """
    with claimed(folder):
        make_room(folder)
        guard.begin()
        guard.remove_at_end(folder)
        try:
            _set_environment(folder)
            cluster = _start_or_try_again(folder, shape, say)
            write(cluster, folder)
        except BaseException:
            guard.end_started()
            shutil.rmtree(folder, ignore_errors=True)
            raise
        guard.let_go()
    return cluster


def _start_or_try_again(folder: Path, shape: Shape, say: Callable[[str], None]) -> LocalCluster:
    for is_last in (False, True):
        try:
            return _start_nodes(folder, shape, say)
        except Exception as error:  # Ray raises several unrelated types here
            reason = one_line(error)[:300]
            guard.end_started()
            for files in folder.glob(f"{_FILES}*"):
                shutil.rmtree(files)
            if is_last:
                load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
                raise LocalClusterError(
                    f"a node did not start ({load}): {reason}; nothing of the cluster remains, try again when the "
                    "machine is less busy"
                ) from error
            say(f"a node did not start ({reason}); once more")
    raise AssertionError


def _set_environment(folder: Path) -> None:
    """What nodes, workers and the drivers of jobs inherit. Before Ray is imported, which reads it."""
    token = os.environ.get("RAY_AUTH_TOKEN") or secrets.token_hex(32)
    with open(token_file(folder), "x", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        file.write(token)
    (folder / "tmp").mkdir()
    os.environ.pop("RAY_ADDRESS", None)  # of another cluster
    os.environ.update(
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN=token,
        RAY_TMPDIR=str(folder),
        DASHBOARD_METRIC_PORT=str(_free_port()),  # Ray's own is the same for each cluster of the machine
        PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",  # jobs say `python`
        **LOOPBACK_ENVIRONMENT,
    )
    os.environ.setdefault("TMPDIR", str(folder / "tmp"))  # what killed workers leave goes with the cluster
    os.environ.setdefault("RAY_JOB_STOP_WAIT_TIME_S", str(_JOB_STOP_WAIT_S))
    prepare_local_start(patience())


def _start_nodes(folder: Path, shape: Shape, say: Callable[[str], None]) -> LocalCluster:
    from ray.cluster_utils import Cluster

    begin_s = time.monotonic()
    ray_cluster, nodes = Cluster(shutdown_at_exit=False), list[LocalNode]()
    for index in range(shape.num_nodes):
        # Of each node, as of each machine: with one folder for all, a node that unpacks a job's files would take them
        # away from processes of the others.
        files = folder / (f"{_FILES}{index}" if index else _FILES)
        files.mkdir()
        options: dict[str, Any] = {
            "num_cpus": shape.num_cpus(index),
            "labels": {NODES_LABEL: shape.pool(index)},
            "node_ip_address": "127.0.0.1",
            "object_store_memory": shape.object_store_mib * 2**20,
            "dashboard_agent_listen_port": 0,  # any that is free, as are its other ports
            "temp_dir": str(files),
            "include_log_monitor": True,
        }
        if index == 0:
            options |= {"include_dashboard": True, "dashboard_port": _free_port()}
        else:
            (files / _ADDRESS_FILE).write_text(str(ray_cluster.address))  # as `ray start` does
        started = ray_cluster.add_node(**options)
        node = LocalNode(
            name="head" if index == 0 else f"node {index}",
            pool=shape.pool(index),
            num_cpus=shape.num_cpus(index),
            node_id=started.node_id,
            pid=started.all_processes["raylet"][0].process.pid,
        )
        nodes.append(node)
        after_s = time.monotonic() - begin_s
        say(
            f"{index + 1}/{shape.num_nodes}: {node.name} runs, {node.num_cpus} CPUs, {node.pool} ({after_s:.0f} s)"
        )
    return LocalCluster(
        mark=os.environ[guard.MARK],
        address=str(ray_cluster.address),
        jobs_url=f"http://{ray_cluster.webui_url}",
        nodes=tuple(nodes),
    )


def _free_port() -> int:
    """One of loopback where nobody listens. Below those that the system gives to whoever asks for any: what starts
    meanwhile does not get it.
    """
    for port in random.sample(range(20_000, 32_000), 100):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise LocalClusterError("of 100 ports of loopback from 20000 to 32000 none is free: end something")
