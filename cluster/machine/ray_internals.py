"""The one place that touches private names of Ray. After an upgrade of Ray look at each: why it is here, what to check.

Light processes import this too, some of them before Ray may be imported: functions import what they need.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

logger = logging.getLogger(__name__)

_REPORTER_INTERVAL = "REPORTER_UPDATE_INTERVAL_MS"
# Undocumented, and read when Ray is imported or started. Check: `ray/_private`, `ray/train/v2/_internal/constants.py`.
_LOCAL_ENVIRONMENT = {
    "RAY_worker_niceness": "0",  # Ray's own default of 15 starves workers beside any ordinary busy process
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    # On one machine whatever runs beside the workers takes its time from them. Nobody takes a node away here, and
    # nobody asks for Train's metrics, nor for those of the node and each of its processes every five seconds.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    _REPORTER_INTERVAL: "600000",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the future default; without it every start prints a warning
    # Ray's processes write their titles over their environment, by which the guard knows whom to end.
    "SPT_NOENV": "1",
}
# Seconds that a start may take on an idle machine, several times what it does take. Names in small letters are read by
# Ray's C++, with this prefix. Check: `ray/_private/node.py`, `ray/serve/_private/constants.py`.
_START_TIMES_S = {
    "RAY_gcs_server_port_wait_time_s": 30,
    "RAY_worker_register_timeout_seconds": 60,
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": 30,
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": 30,
    "RAY_SERVE_HAPROXY_STARTUP_TIMEOUT_S": 30,
}

_MIN_TURN_S, _MAX_TURN_S = 0.05, 0.4
_PLENTY_READY = 2  # blocks, with which nobody waits for the next turn
_BLOCKS_READY = 6  # that a task may have finished before Ray Data takes note: it does so once in a turn


def prepare_local_start(patience: float, *, is_watched: bool = False) -> None:
    """Before Ray is imported to be started on this machine; what the user has set wins.

    patience: how many times longer than on an idle machine things may take. is_watched: whether anybody asks for
    metrics of the node: CPU, memory, disk, GPUs.
    """
    if is_watched:
        os.environ.setdefault(_REPORTER_INTERVAL, "10000")
    times = {name: str(round(seconds * patience)) for name, seconds in _START_TIMES_S.items()}
    # Ray guards a new local cluster with a token; giving it one keeps it from writing one to the home folder.
    for name, value in {**_LOCAL_ENVIRONMENT, **times, "RAY_AUTH_TOKEN": secrets.token_hex(32)}.items():
        os.environ.setdefault(name, value)
    # It warns that there is a token, for people who did not expect one. Check: does a start still warn?
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)


def loopback_options(folder: str) -> dict[str, Any]:
    """For `ray.init`, which has no public option for its folder and address. Check: its docstring lists both."""
    return {"_temp_dir": folder, "_node_ip_address": "127.0.0.1"}


# Of all processes of a cluster whose nodes are at 127.0.0.1: has each of them take that for what it is, where
# `on_loopback` holds in one process. Ray has the variable for systems on which a cluster is one machine. Check: that
# `services.get_node_ip_address` still asks for it; the test that lists the sockets of cluster.local.
LOOPBACK_ENVIRONMENT = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


@contextlib.contextmanager
def on_loopback() -> Iterator[None]:
    """Around `ray.init`, which puts an address of the machine in the place of 127.0.0.1: a Ray that it starts would
    listen on all networks, and one that listens on loopback alone would not be found.

    Check: the tests that list every listening socket of the commands.
    """
    from ray._private import services

    resolve = services.resolve_ip_for_localhost
    services.resolve_ip_for_localhost = lambda host: host
    try:
        yield
    finally:
        services.resolve_ip_for_localhost = resolve


@contextlib.contextmanager
def without_signal_handlers() -> Iterator[None]:
    """Around `ray.init`, which has SIGTERM end the process in ways of its own: its C++ prints a trace and aborts.

    Check: who calls the one and reads the other; tests/cluster/machine/test_session.py.
    """
    from ray._private import ray_constants, utils

    install, has_none = utils.set_sigterm_handler, ray_constants.RAY_DISABLE_FAILURE_SIGNAL_HANDLER
    utils.set_sigterm_handler = lambda handler: None
    ray_constants.RAY_DISABLE_FAILURE_SIGNAL_HANDLER = True
    try:
        yield
    finally:
        utils.set_sigterm_handler = install
        ray_constants.RAY_DISABLE_FAILURE_SIGNAL_HANDLER = has_none


def cluster_of_this_machine() -> str:
    """The host:port of the Ray that "auto" stands for. ConnectionError where none runs."""
    from ray._private import services

    with on_loopback():
        return str(services.canonicalize_bootstrap_address("auto"))


def end_log_monitor() -> None:
    """Ends the process that reads all workers' logs for the driver, which does not ask for them.

    `ray start` has an option for it, `ray.init` has none. Check: tests/cluster/machine/test_session.py.
    """
    from ray._private import worker

    with contextlib.suppress(Exception):  # no harm if it stays
        worker._global_node.kill_log_monitor(check_alive=False)  # type: ignore[attr-defined]


def spare_processes(trainer: Any) -> None:
    """Has a TorchTrainer leave out what a Ray of one's own can spare; on few cores it would slow the workers.

    One actor asks every second whether the run's controller is alive, to free its resources for others, of whom there
    are none; one deals out `datasets=`, which our workers do not take. Check: tests/cluster/training/test_run.py.
    """
    from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

    spared, create = (PlacementGroupCleanerCallback, DatasetsCallback), trainer._create_default_callbacks
    trainer._create_default_callbacks = lambda: [each for each in create() if not isinstance(each, spared)]


def leave_interrupts(trainer: Any) -> None:
    """Has `trainer.fit()` leave Ctrl-C to us, where Ray Train would handle it and end the process.

    A KeyboardInterrupt leaves through the caller's `connect()`, which ends the workers; the last checkpoint stands.
    Check: `DataParallelTrainer._register_sigint_handler`.
    """
    trainer._register_sigint_handler = lambda controller: None


def ease_scheduling(context: Any) -> None:
    """Has an execution with this DataContext take less of the CPU. Check: the names are still read in `ray/data`."""
    context._max_num_blocks_in_streaming_gen_buffer = _BLOCKS_READY
    context.custom_execution_callback_classes = [PauseBetweenTurns]


class PauseBetweenTurns:
    """Lets no turn of Ray Data's scheduling loop be shorter than 50 ms, and while nothing happens make longer ones.

    While mixed blocks wait for the trainer the loop finds its tasks "ready" at once, may not read them, and starts
    over: it was seen to take half a core from the trainers beside it. What a turn costs is the same if there is nothing
    to do in it: beside a trainer on a CPU, which takes a block every second or two, a twentieth of a core.

    An ExecutionCallback by its methods. Check: that class, and StreamingExecutor's `_output_node` with the two counts.
    """

    def __init__(self) -> None:
        self._last_s = time.monotonic()
        self._turn_s, self._seen = _MIN_TURN_S, (0, 0)

    def on_execution_step(self, executor: Any) -> None:
        _, output = executor._output_node
        made, ready = output.num_completed_tasks, output.total_enqueued_output_blocks()
        at_rest = ready >= _PLENTY_READY and (made, ready) == self._seen
        self._turn_s = min(2 * self._turn_s, _MAX_TURN_S) if at_rest else _MIN_TURN_S
        self._seen = made, ready
        time.sleep(max(0.0, self._last_s + self._turn_s - time.monotonic()))
        self._last_s = time.monotonic()

    def _ignore(self, *event: Any) -> None:
        pass

    before_execution_starts = after_execution_succeeds = after_execution_fails = _ignore


def take_port_alone() -> None:
    """In Ray Serve's own proxy, before it listens: it lets others listen on its port, and of two endpoints that start
    at once each would get half of the callers.

    It has a variable against that, but would then not get a port that was left a moment ago. Check: the name, and what
    it is called with, in `ray/serve/_private/http_util.py`; tests/jobs/test_serve.py.
    """
    from ray.serve._private import http_util

    def reuse_address(sock: socket.socket) -> bool:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.__class__ = _ListensOnceBound
        return True

    http_util.set_socket_reuse_port = reuse_address


class _ListensOnceBound(socket.socket):
    """Between binding and listening, which comes later, another such socket could be bound to the port, and nobody
    looks at the error that it meets when it listens.
    """

    __slots__ = ()

    def bind(self, address: Any) -> None:
        super().bind(address)
        self.listen()


def keep_replica_on_loopback() -> None:
    """In a replica of Ray Serve, before it is ready: other deployments could reach it from all networks.

    There are none. Check: the name, and the address, in `ray/serve/_private/replica.py`.
    """
    from ray.serve._private import replica

    listen = replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, address: listen(
        server, address.replace("[::]", "127.0.0.1")
    )


def keep_calls_of_stopping_replica() -> None:
    """In a replica of Ray Serve behind HAProxy: Serve would end its web server, and with it all calls, after a moment.

    Nobody new should come in, which is all that Serve means by it. It waits for the calls after that. Check: the name
    in `ray/serve/_private/replica.py`, and `servers` in uvicorn's Server.
    """
    from ray.serve._private import replica

    def stop_listening(self: Any) -> None:
        for listener in getattr(self._direct_ingress_http_server, "servers", ()):
            listener.close()

    replica.Replica._stop_accepting_direct_ingress = stop_listening  # type: ignore[method-assign]


def stopping_mark() -> Callable[[], bool]:
    """In a replica of Ray Serve: asks whether Serve has begun to stop it; never, where its mark is not found.

    There is no public way to Serve's own object around this code. Check: both names in `ray/serve/_private/replica.py`.
    """
    import ray

    for actor in ray._private.worker.global_worker.actors.values():
        replica: Any = getattr(actor, "_replica_impl", None)
        if hasattr(replica, "_shutting_down"):
            return lambda: bool(replica._shutting_down)
    logger.error("Ray Serve's mark of stopping replicas is not where it was; live calls end without notice")
    return lambda: False
