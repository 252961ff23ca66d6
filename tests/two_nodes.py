"""Starts a Ray cluster of two nodes on this machine, guarded by a token, until its standard input is closed.

Where `cluster.local` keeps to loopback, its nodes have addresses of their own and listen on all networks, as those of a
cluster of several machines do.

Prints one line of JSON: the addresses for drivers and for `ray job submit`. Then it takes orders, a line each, and says
"done" to each: "kill" ends the raylet of the newest node by SIGKILL, "add" adds a node. Run by tests in a process of
its own, since a process can belong to one cluster only. RAY_AUTH_MODE and RAY_AUTH_TOKEN come from the environment.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

from ray._private.node import Node
from ray.cluster_utils import Cluster

from tests.cluster.sockets import free_ports

# Of a node's agents; left to Ray, they would be the same for each Ray on the machine.
AGENT_PORTS = (
    "dashboard_agent_listen_port",
    "metrics_agent_port",
    "metrics_export_port",
    "runtime_env_agent_port",
)


def node_settings(*further_ports: str) -> dict[str, int]:
    """A modest object store and ports of its own, which Ray wants to differ from each other."""
    names = AGENT_PORTS + further_ports
    return {"object_store_memory": 300 * 2**20, **dict(zip(names, free_ports(len(names)), strict=True))}


def add_other_node(cluster: Cluster) -> Node:
    """One with an address of its own, so that no driver takes it for its own node."""
    address = f"127.0.0.{2 + len(cluster.worker_nodes)}"
    return cluster.add_node(num_cpus=2, node_ip_address=address, **node_settings())


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="ww-ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        os.environ["RAY_TMPDIR"] = folder
        Path(folder, "ray").mkdir()  # where Ray notes the current cluster before it has made it
        cluster = Cluster()
        head = cluster.add_node(
            num_cpus=2,
            include_dashboard=True,
            temp_dir=f"{folder}/ray",
            **node_settings("dashboard_port"),
        )
        newest = add_other_node(cluster)
        cluster.wait_for_nodes()
        print(json.dumps({"address": head.address, "jobs": f"http://{head.webui_url}"}), flush=True)
        for order in sys.stdin:
            if order.strip() == "kill":
                newest.kill_raylet()
            else:
                newest = add_other_node(cluster)
            print("done", flush=True)
        cluster.shutdown()


if __name__ == "__main__":
    main()
