"""One way into Ray for every command: join the cluster that is there, or start a private one and end it afterwards."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from cluster.errors import one_line
from cluster.machine import guard, termination
from cluster.machine.ray_internals import (
    cluster_of_this_machine,
    end_log_monitor,
    loopback_options,
    on_loopback,
    prepare_local_start,
    without_signal_handlers,
)
from cluster.machine.scraping import found_by_prometheus, is_watched

_MAX_PATIENCE = 10.0

_owns_ray = False


def owns_ray() -> bool:
    """Whether this process has started the Ray that it is connected to, and will end it."""
    return _owns_ray


def is_on_loopback() -> bool:
    """Whether the Ray that this process is connected to, or runs in, is one of this machine alone."""
    import ray

    return ray.util.get_node_ip_address().startswith("127.")


@contextlib.contextmanager
def connect(address: str | None = None, *, num_cpus: int | None = None) -> Iterator[str]:
    """Connects this process to Ray for the length of a `with` block and yields a line that says to what.

    address: a cluster's address, or None for RAY_ADDRESS, which `ray job submit` sets. Without either, Ray is
        started on this machine with `num_cpus` cores (all by default), listening on loopback, guarded by a random
        token, with its files in a temporary folder of its own. It is ended, and the folder removed, at the end,
        also if this process is killed. WW_METRICS names a folder for a file by which Prometheus finds it.
    Raises ConnectionError if there is no cluster at the address, or Ray does not start here, also when tried again.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    if not address:
        prepare_local_start(patience(), is_watched=is_watched())
    import ray

    if ray.is_initialized():  # inside a surrounding connect(): its owner ends it
        yield f"Ray at {address}" if address else f"local Ray, {_describe_resources()}"
    else:
        guard.begin()
        yield from _join(address) if address else _start_local(num_cpus)


def _join(address: str) -> Iterator[str]:
    # Before Ray is at it: where nobody answers it waits for minutes, deaf to signals, or ends the whole process.
    where = _resolved(address)
    _check_answers(where)
    try:
        with on_loopback():
            _init(address=where)
    except Exception as error:  # Ray raises several unrelated types here
        raise _no_cluster(address, one_line(error)[:200]) from error
    _quiet_progress_bars()
    try:
        yield f"Ray at {address}, {_describe_resources()}"
    finally:
        _stop()


def _resolved(address: str) -> str:
    """The host:port that "auto" stands for; other addresses as they are."""
    try:
        return cluster_of_this_machine() if address == "auto" else address
    except ConnectionError as error:
        raise _no_cluster(address, "none runs on this machine") from error


def _check_answers(address: str) -> None:
    """Knocks at a host:port address."""
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if not separator or not port.isdigit():
        return  # a name that Ray resolves by itself
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError as error:
        raise _no_cluster(address, error.strerror or error) from error


def _no_cluster(address: str, reason: object) -> ConnectionError:
    return ConnectionError(
        f"no Ray cluster answers at {address!r} ({reason}); start one, or unset RAY_ADDRESS to work on this machine "
        "alone"
    )


def _start_local(num_cpus: int | None) -> Iterator[str]:
    global _owns_ray

    with contextlib.ExitStack() as stack:
        try:
            _start_or_try_again(stack, num_cpus)
            _owns_ray = True
            _quiet_progress_bars()
            if not _wants_worker_logs():
                end_log_monitor()
            stack.enter_context(found_by_prometheus())
            yield f"local Ray, {_describe_resources()}"
        finally:
            _owns_ray = False
            _stop()


def _stop() -> None:
    """Interrupted within it, Ray would forget half, and make its folder anew at the exit."""
    import ray

    with termination.delayed():
        ray.shutdown()


def _start_or_try_again(stack: contextlib.ExitStack, num_cpus: int | None) -> None:

    for is_last in (False, True):
        try:
            _start(stack, num_cpus)
            return
        except Exception as error:  # Ray raises several unrelated types here
            reason = one_line(error)[:200]
            _stop()
            guard.end_started()  # Ray has forgotten what it had started by then
            stack.close()
            if is_last:
                load = f"load {os.getloadavg()[0]:.1f} on {_num_cores()} cores"
                raise ConnectionError(
                    f"Ray does not start on this machine ({load}): {reason}; try again when it is less busy"
                ) from error
            print(f"Ray did not start ({reason}); once more", file=sys.stderr, flush=True)


def _start(stack: contextlib.ExitStack, num_cpus: int | None) -> None:
    """The stack gets the folder of this start, for the time after it."""
    from cluster.machine.progress import waiting

    # Sockets live below this folder and their paths may have 107 bytes at most, hence not below the project.
    folder = str(stack.enter_context(guard.temporary_folder(f"ww-ray-{os.getpid()}-", "/tmp")))
    with waiting("starting Ray on this machine"), _temporary_files_in(folder, stack), on_loopback():
        _init(address="local", num_cpus=num_cpus, include_dashboard=False, **loopback_options(folder))


def _init(**options: Any) -> None:
    import ray

    with termination.delayed(), without_signal_handlers():
        ray.init(logging_level=logging.WARNING, log_to_driver=_wants_worker_logs(), **options)


def patience() -> float:
    """How many times longer than on an idle machine something may take now: the load of a core, from 1 to 10."""
    return min(max(1.0, os.getloadavg()[0] / _num_cores()), _MAX_PATIENCE)


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def _temporary_files_in(folder: str, stack: contextlib.ExitStack) -> Iterator[None]:
    """For the processes that are started meanwhile: what they leave when they are killed goes with the folder.

    stack: gets another one where the user has named a better disk.
    """
    tempfile.gettempdir()  # this process remembers its own now
    disk = os.environ.get("TMPDIR")
    if disk:
        folder = str(stack.enter_context(guard.temporary_folder(f"ww-files-{os.getpid()}-", disk)))
    os.environ["TMPDIR"] = folder
    try:
        yield
    finally:
        if disk:
            os.environ["TMPDIR"] = disk
        else:
            del os.environ["TMPDIR"]


def _wants_worker_logs() -> bool:
    return os.environ.get("WW_WORKER_LOGS") == "1"


def _quiet_progress_bars() -> None:
    """Ray Data draws a bar per operator; the commands draw their own, one per thing that a person waits for."""
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.enable_operator_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it warns that its bars are off
    logging.getLogger("ray.train").setLevel(logging.WARNING)
    logging.getLogger("ray.tune").setLevel(logging.WARNING)


def _describe_resources() -> str:
    import ray

    total = ray.cluster_resources()
    nodes = sum(1 for node in ray.nodes() if node["Alive"])
    parts = [f"{nodes} node{'s' if nodes != 1 else ''}", f"{total.get('CPU', 0):g} CPUs"]
    if total.get("GPU"):
        parts.append(f"{total['GPU']:g} GPUs")
    return ", ".join(parts)
