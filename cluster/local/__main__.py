"""A Ray cluster of several nodes on this machine, for trying things out: each node is a raylet of its own.

start (or nothing) starts it and returns; it runs on until `down`. `status` says which nodes run, and how to submit a
job; `down` ends all that belongs to it, jobs included, and nothing else: another Ray of the machine stays.
It listens on 127.0.0.1 alone, at ports that are free, and takes work only with its token, which lies in a file that
only you can read (RAY_AUTH_TOKEN, where it is set). Nodes bear a label, wave-wizard/nodes=cpu or gpu, as on Kubernetes,
by which resources.worker_nodes and resources.mixing_nodes of jobs.train choose. None offers a GPU.

example: python -m cluster.local --nodes 3 --gpu-nodes 1
         python -m cluster.local status
         python -m cluster.local down
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from cluster.errors import one_line
from cluster.local import state
from cluster.local.start import Shape, start
from cluster.local.state import LocalCluster, LocalClusterError
from cluster.machine import termination


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """The description as it stands, and each option's default."""


def parser() -> argparse.ArgumentParser:
    usual = Shape()
    parser = argparse.ArgumentParser(
        prog="python -m cluster.local", description=__doc__, formatter_class=_HelpFormatter
    )
    parser.add_argument("action", nargs="?", choices=("start", "status", "down"), default="start")

    def count(flag: str, default: int, text: str) -> None:
        parser.add_argument(flag, metavar="N", type=int, default=default, help=text)

    count("--nodes", usual.num_nodes, "nodes, the head included")
    count(
        "--cpus",
        usual.cpus_per_node,
        "CPUs that each node offers; Ray only counts them, so together they may be more than the machine has",
    )
    count(
        "--gpu-nodes", usual.num_gpu_nodes, "how many of the nodes, the head excluded, belong to the pool gpu"
    )
    parser.add_argument(
        "--idle-head", action="store_true", help="the head offers no CPUs: it runs the drivers of jobs alone"
    )
    count(
        "--object-store-mib", usual.object_store_mib, "shared memory of each node for Ray's objects, in MiB"
    )
    parser.add_argument(
        "--folder",
        metavar="DIR",
        type=Path,
        default=state.usual_folder(),
        help="where its files lie; another one is for another cluster beside it",
    )
    return parser


def run_start(arguments: argparse.Namespace) -> None:
    shape = Shape(
        num_nodes=arguments.nodes,
        cpus_per_node=arguments.cpus,
        num_gpu_nodes=arguments.gpu_nodes,
        has_idle_head=arguments.idle_head,
        object_store_mib=arguments.object_store_mib,
    )
    print(f"starting Ray on this machine, nodes: {shape.num_nodes}", flush=True)
    cluster = start(arguments.folder, shape, lambda line: print(line, flush=True))
    print(f"Ray runs at {cluster.address}, dashboard: {cluster.jobs_url}")
    print(ways_to_use(cluster, arguments.folder), flush=True)


def run_status(arguments: argparse.Namespace) -> None:
    """Exits with 1 where a node has ended."""
    cluster = state.known(arguments.folder)
    pids = set(cluster.pids())
    if not pids:
        raise LocalClusterError(
            f"the cluster that was started in {arguments.folder} has ended: `python -m cluster.local` starts another"
        )
    print(f"Ray at {cluster.address}, dashboard: {cluster.jobs_url}, {len(pids)} processes")
    for node in cluster.nodes:
        runs = "runs" if node.pid in pids else "has ended"
        print(
            f"  {node.name:8} {node.num_cpus:3} CPUs  {node.pool}  {runs}  pid {node.pid}  {node.node_id[:12]}"
        )
    print(ways_to_use(cluster, arguments.folder), flush=True)
    if not all(node.pid in pids for node in cluster.nodes):
        sys.exit(1)


def run_down(arguments: argparse.Namespace) -> None:
    print(f"ended: {state.end(arguments.folder)} processes", flush=True)


def ways_to_use(cluster: LocalCluster, folder: Path) -> str:
    """Lines to copy."""
    exports = " ".join(
        f"{name}={shlex.quote(value)}" for name, value in state.environment(cluster, folder).items()
    )
    where = "" if folder == state.usual_folder() else f" --folder {shlex.quote(str(folder))}"
    return (
        f"first:   export {exports}\n"
        "a job:   ray job submit --working-dir . -- python -m jobs.train --data DIR --preset tiny --workers 2\n"
        f"from here, on its nodes: RAY_ADDRESS={cluster.address} python -m jobs.train ...\n"
        f"status:  python -m cluster.local status{where}\n"
        f"end it:  python -m cluster.local down{where}"
    )


def main() -> None:
    """Exits as the commands of `jobs` do: 2 for wrong use, 130 or 143 if it was told to end."""
    arguments = parser().parse_args()
    arguments.folder = arguments.folder.absolute()
    termination.obey()
    run = {"start": run_start, "status": run_status, "down": run_down}[arguments.action]
    try:
        run(arguments)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(termination.EXIT_CODE if termination.was_received() else 130)
    except (ValueError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
