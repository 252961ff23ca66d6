"""A cluster of `python -m cluster.local` as a test holds it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil

from cluster.local.state import LocalCluster, environment, known, token_file
from tests.cluster.environment import private_environment

ROOT = Path(__file__).resolve().parents[2]


def local(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the command for the cluster of a folder."""
    command = [sys.executable, "-m", "cluster.local", *arguments, "--folder", str(folder)]
    return subprocess.run(
        command, cwd=ROOT, env=private_environment(), capture_output=True, text=True, timeout=400
    )


class Running:
    """A running cluster: what its command left of it, and the environment in which `ray job submit` reaches it."""

    def __init__(self, folder: Path, said: str) -> None:
        self.folder, self.said = folder, said
        self.cluster: LocalCluster = known(folder)
        self.environment = private_environment() | environment(self.cluster, folder)

    def node_ids(self, pool: str) -> set[str]:
        return {node.node_id for node in self.cluster.nodes if node.pool == pool}

    def processes(self) -> list[psutil.Process]:
        found = []
        for pid in self.cluster.pids():
            with contextlib.suppress(psutil.Error):
                found.append(psutil.Process(pid))
        return found

    def titles(self) -> list[str]:
        """Of its processes: workers of Ray bear the name of what they do."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                found.append(" ".join(process.cmdline()))
        return found

    def ask(self, what: str) -> list[dict[str, Any]]:
        """Tasks or actors, as Ray's dashboard knows them."""
        reply = httpx.get(
            f"{self.cluster.jobs_url}/api/v0/{what}",
            params={"limit": 10_000, "detail": 1},
            headers={"Authorization": f"Bearer {token_file(self.folder).read_text()}"},
            timeout=60,
        )
        found: list[dict[str, Any]] = reply.json()["data"]["result"]["result"]
        return found


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """The name of a folder that is not there yet, short enough for Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="ww-", dir="/tmp") as parent:
        yield Path(parent, "c")


@contextlib.contextmanager
def local_cluster(*options: str) -> Iterator[Running]:
    with short_folder() as folder:
        started = local(folder, *options)
        assert started.returncode == 0, started.stdout + started.stderr
        try:
            yield Running(folder, started.stdout)
        finally:
            ended = local(folder, "down")
            assert ended.returncode == 0, ended.stdout + ended.stderr
