"""What is known of a local cluster when the command that started it has ended: its folder, and the file in it.

Its processes are known by their mark (`cluster.machine.guard`), a random word in the environment of each: by it also
those are found that jobs have started meanwhile, and no other process that has come to the id of one that ended.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from cluster.machine import guard

_FILE, _TOKEN = "cluster.json", "token"
# A socket's path may have 107 bytes; below the folder Ray adds /ray/session_<time>_<pid>/sockets/plasma_store.<n>.
_MAX_FOLDER_BYTES = 32


class LocalClusterError(ValueError):
    """There is no such cluster, there is one already, or it does not start or end."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LocalNode:
    """One node. pool: what its label says, cpu or gpu. pid: of its raylet."""

    name: str
    pool: str
    num_cpus: int
    node_id: str
    pid: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class LocalCluster:
    """A cluster that was started. address: for drivers. jobs_url: for `ray job submit`, and the dashboard."""

    mark: str
    address: str
    jobs_url: str
    nodes: tuple[LocalNode, ...]

    def pids(self) -> list[int]:
        """Of all processes of it that run: its nodes', their workers, and what those have started."""
        return guard.marked(self.mark)


def usual_folder() -> Path:
    """This user's. In /tmp, which is this machine's alone and empty after a restart, as its processes are."""
    return Path("/tmp", f"ww-local-{os.getuid()}")


def token_file(folder: Path) -> Path:
    return folder / _TOKEN


def environment(cluster: LocalCluster, folder: Path) -> dict[str, str]:
    """What `ray job submit` needs to find the cluster and to be let in."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_file(folder)),
        "RAY_API_SERVER_ADDRESS": cluster.jobs_url,
    }


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Holds a folder, which is made if needed, so that no other command starts or ends a cluster there meanwhile."""
    if len(os.fsencode(folder)) > _MAX_FOLDER_BYTES:
        raise LocalClusterError(
            f"the path {folder} is too long for Ray's sockets: give --folder one of {_MAX_FOLDER_BYTES} bytes at most"
        )
    folder.mkdir(mode=0o700, exist_ok=True)
    there = folder.lstat()
    if not stat.S_ISDIR(there.st_mode) or there.st_uid != os.getuid():
        raise LocalClusterError(f"{folder} is no folder of yours: give another --folder")
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LocalClusterError(
                f"another command is about to start or end a cluster in {folder}: wait for it, or give another --folder"
            ) from error
        yield
    finally:
        os.close(descriptor)


def write(cluster: LocalCluster, folder: Path) -> None:
    temporary = folder / f".{_FILE}"
    temporary.write_text(json.dumps(dataclasses.asdict(cluster), indent=1), encoding="utf-8")
    temporary.replace(folder / _FILE)


def read(folder: Path) -> LocalCluster | None:
    """The cluster that was started there last and not ended; its processes may have gone all the same."""
    try:
        if folder.stat().st_uid != os.getuid():
            raise LocalClusterError(f"{folder} is another user's: give --folder one of yours")
        values = json.loads((folder / _FILE).read_bytes())
        nodes = tuple(LocalNode(**node) for node in values.pop("nodes"))
        return LocalCluster(nodes=nodes, **values)
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise LocalClusterError(
            f"{folder / _FILE} is not what cluster.local wrote ({error}): remove it"
        ) from error


def known(folder: Path) -> LocalCluster:
    """The same, where there has to be one."""
    cluster = read(folder)
    if cluster is None:
        raise LocalClusterError(f"no cluster was started in {folder}: `python -m cluster.local` starts one")
    return cluster


def make_room(folder: Path) -> None:
    """In a claimed folder: refuses one where a cluster runs, or other files lie, and clears what is left of another."""
    before = read(folder)
    if before is not None and before.pids():
        raise LocalClusterError(
            f"a cluster of {len(before.nodes)} nodes runs already, at {before.address}: end it with `python -m "
            "cluster.local down`, or give another --folder for one beside it"
        )
    if before is None and any(folder.iterdir()):
        raise LocalClusterError(f"{folder} holds other files: give --folder a new one")
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def end(folder: Path) -> int:
    """Ends all processes of the cluster there, and no others; removes the folder. How many there were."""
    cluster = known(folder)
    with claimed(folder):
        num_running = len(cluster.pids())
        guard.end_marked(cluster.mark)
        if left := cluster.pids():
            raise LocalClusterError(f"processes of the cluster do not end, although they were killed: {left}")
        shutil.rmtree(folder)
    return num_running
