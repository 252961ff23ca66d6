"""The cluster of tests/two_nodes.py as a test holds it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.cluster.environment import private_environment

ROOT = Path(__file__).resolve().parents[2]


class TwoNodes:
    """A running cluster. address: for drivers; environment: with its token, and where `ray job submit` reaches it."""

    def __init__(self, process: subprocess.Popen[str], environment: dict[str, str]) -> None:
        self._process = process
        addresses = json.loads(self._answer())
        self.address: str = addresses["address"]
        self.environment = environment | {"RAY_API_SERVER_ADDRESS": addresses["jobs"]}

    def kill_newest(self) -> None:
        """Ends the raylet of the node that was added last by SIGKILL."""
        self._order("kill")

    def add(self) -> None:
        """Adds a node like the first."""
        self._order("add")

    def _order(self, order: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(f"{order}\n")
        self._process.stdin.flush()
        assert self._answer() == "done"

    def _answer(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, "the cluster has ended"
        return line.strip()


@contextlib.contextmanager
def two_nodes(**settings: str) -> Iterator[TwoNodes]:
    """Two nodes of two CPUs each. settings: of Ray, as environment variables."""
    environment = private_environment()
    environment |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "a-secret-for-this-test-0123456789abcdef",
        "RAY_worker_niceness": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        # As on a node started by ray_cluster.yaml: jobs find the environment's python first.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        **settings,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.two_nodes"],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield TwoNodes(process, environment)
    finally:
        children = psutil.Process(process.pid).children(recursive=True)
        assert process.stdin
        process.stdin.close()
        try:
            process.wait(timeout=240)
        finally:
            for child in children:
                if child.is_running():
                    child.kill()
            process.kill()
