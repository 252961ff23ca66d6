"""Starting and stopping the endpoint on Ray Serve; whatever can be refused is refused before Serve starts."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import ray
from ray import serve
from ray.serve.config import HTTPOptions, ProxyLocation
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview, LoggingConfig, ReplicaState

from cluster.errors import last_line, one_line
from cluster.machine.session import patience
from cluster.serving.config import USUAL_PORT, ServingConfig
from cluster.serving.deploy.replica import APP_NAME
from cluster.serving.deploy.serve_config import serve_config
from ww_models import load_bundle

_NUM_USUAL_PORTS = 100
# After the calls' time is up.
SHUTDOWN_MARGIN_S = 15.0
Bundles = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]  # one, or several
CONTROLLER = ("SERVE_CONTROLLER_ACTOR", "serve")  # name and namespace, fixed in Ray Serve


_Answer = TypeVar("_Answer")


class ServingError(ValueError):
    """The endpoint cannot be started or changed as asked."""


def check_serving(bundles: Bundles, config: ServingConfig) -> ServingConfig:
    """Refuses damaged bundles and a taken port, without Ray; returns the config with the port that it would get now.

    Raises BundleError or ServingError, each one line.
    """
    checked_bundles(bundles)
    return dataclasses.replace(config, port=bindable_port(config.host, config.port))


def checked_bundles(bundles: Bundles) -> list[Path]:
    """Their folders. Raises BundleError for one that cannot be loaded."""
    paths = _paths(bundles)
    for path in paths:
        load_bundle(path)
    return paths


@contextlib.contextmanager
def serve_bundles(bundles: Bundles, config: ServingConfig | None = None) -> Iterator[str]:
    """Serves bundles, the first by default, on the Ray that this process is connected to, for the length of a block.

    Yields the endpoint's URL once it answers. At the end live calls and files are finished first, for
    `scaling.shutdown_s` at most. Raises BundleError or ServingError, before anything starts where that can be known.
    """
    asked = config or ServingConfig()
    check_serving(bundles, asked)
    _check_cluster(asked)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    config = _start_serve(asked)
    try:
        timeout_s = config.start_timeout_s * patience()
        schema = serve_config(_paths(bundles), config)
        _within(timeout_s, lambda: ray.get(ray.get_actor(*CONTROLLER).apply_config.remote(schema)))
        wait_until_running(timeout_s)
    except BaseException:
        _shut_down(SHUTDOWN_MARGIN_S)
        raise
    host = {"0.0.0.0": "127.0.0.1", "localhost": "127.0.0.1", "::": "::1"}.get(config.host, config.host)
    url = f"http://{f'[{host}]' if ':' in host else host}:{config.port}"
    try:
        yield url
    finally:
        _shut_down(config.scaling.shutdown_s + SHUTDOWN_MARGIN_S)
        _wait_until_closed(url)


def _start_serve(asked: ServingConfig) -> ServingConfig:
    """Once more if it fails: on a busy machine Serve gives up a proxy that is not ready soon enough, and somebody may
    have taken the port. Returns the config with the port that it has got.
    """
    is_last = False
    while True:
        config = dataclasses.replace(asked, port=bindable_port(asked.host, asked.port))
        try:
            serve.start(
                proxy_location=ProxyLocation.HeadOnly,
                http_options=HTTPOptions(host=config.host, port=config.port or 0),
                logging_config=LoggingConfig(log_level="WARNING", enable_access_log=False),
            )
            return config
        except (ray.exceptions.RayError, RuntimeError, TimeoutError) as error:
            _shut_down(SHUTDOWN_MARGIN_S)
            if is_last:
                raise ServingError(
                    f"Ray Serve did not start ({last_line(error)[:300]}); where the machine is busy, try again later"
                ) from error
            is_last = True


def _wait_until_closed(url: str) -> None:
    """Ray ends the proxy a moment after it says so; a new start would find its port taken meanwhile."""
    address = urlsplit(url)
    deadline = time.monotonic() + SHUTDOWN_MARGIN_S
    with contextlib.suppress(OSError):  # refused: nobody listens any more
        while time.monotonic() < deadline:
            socket.create_connection((str(address.hostname), address.port or 80), timeout=5).close()
            time.sleep(0.05)


def bindable_port(host: str, port: int | None) -> int:
    """The port, a free one for 0, or for None the usual one or the next that is free.

    Raises ServingError if something listens there already.
    """
    if port is None:
        for usual in range(USUAL_PORT, USUAL_PORT + _NUM_USUAL_PORTS):
            with contextlib.suppress(ServingError):
                return bindable_port(host, usual)
        return bindable_port(host, 0)
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port left a moment ago is free
            listener.bind(address)
            return listener.getsockname()[1]
    except OSError as error:
        raise ServingError(
            f"cannot listen on {host}:{port} ({error.strerror or error}); stop what listens there, or choose "
            "another port (0 takes any free one)"
        ) from error


def _paths(bundles: Bundles) -> list[Path]:
    return [Path(bundles)] if isinstance(bundles, str | os.PathLike) else [Path(bundle) for bundle in bundles]


def _check_cluster(config: ServingConfig) -> None:
    if not ray.is_initialized():
        raise ServingError("not connected to Ray; call serve_bundles inside `with connect():`")
    needed = config.num_replicas * config.cpus_per_replica
    free, total = (there.get("CPU", 0.0) for there in (ray.available_resources(), ray.cluster_resources()))
    if needed > free:
        raise ServingError(
            f"{config.num_replicas} replica(s) x {config.cpus_per_replica:g} CPU = {needed:g} CPU, but the "
            f"cluster has {total:g} ({free:g} free); lower num_replicas or cpus_per_replica, or add nodes"
        )
    if serve.status().proxies:
        raise ServingError("this cluster runs Ray Serve already; stop it there first, or use another cluster")


def _within(seconds: float, ask: Callable[[], _Answer]) -> _Answer:
    """What `ask` returns. For questions to Serve's controller: when that is killed, Ray asks the next one, for which it
    waits without end, and where memory is short none may come. Raises ServingError when the time is up.
    """
    answers: queue.SimpleQueue[tuple[_Answer] | BaseException] = queue.SimpleQueue()

    def run() -> None:
        try:
            answers.put((ask(),))
        except BaseException as error:
            answers.put(error)

    threading.Thread(target=run, daemon=True).start()  # which may wait for ever
    try:
        answer = answers.get(timeout=max(seconds, 0.0))
    except queue.Empty:
        raise ServingError(f"Ray Serve did not answer within {seconds:.0f} s") from None
    if isinstance(answer, BaseException):
        raise answer
    return answer[0]


def _shut_down(timeout_s: float) -> None:
    """Ends Serve, or leaves that to the end of Ray where Serve does not answer any more."""

    def knock() -> None:
        with contextlib.suppress(Exception):  # an error is an answer, too
            serve.status()

    with contextlib.suppress(ServingError):
        _within(SHUTDOWN_MARGIN_S * patience(), knock)
        _within(timeout_s + 2 * SHUTDOWN_MARGIN_S, lambda: _end_serve(timeout_s))


def _end_serve(timeout_s: float) -> None:
    """Like serve.shutdown(), but that kills the proxies first, which cuts off all calls, and then waits on a call that
    never returns, which Ray reports as a failure.
    """
    deadline = time.monotonic() + timeout_s
    with contextlib.suppress(ValueError, ray.exceptions.RayError):  # there is no controller, or no longer
        controller = ray.get_actor(*CONTROLLER)
        serve.delete(APP_NAME, _blocking=False)
        while APP_NAME in serve.status().applications and time.monotonic() < deadline:
            time.sleep(0.1)
        ray.get(controller.graceful_shutdown.remote(wait=False))
        deadline = time.monotonic() + SHUTDOWN_MARGIN_S
        while time.monotonic() < deadline:
            time.sleep(0.1)
            ray.get_actor(*CONTROLLER)
    serve.shutdown()


def wait_until_running(timeout_s: float, *, deployed_after: float = 0.0) -> None:
    """Waits until all replicas answer with what was deployed after that moment. Raises ServingError."""
    deadline = time.monotonic() + timeout_s
    while (left_s := deadline - time.monotonic()) > 0:
        application = _within(left_s, serve.status).applications.get(APP_NAME)
        if application and application.last_deployed_time_s > deployed_after:
            if application.status == ApplicationStatus.RUNNING:
                return
            if application.status in {ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY}:
                raise ServingError(f"the replica did not start: {_reason(application)}")
        time.sleep(0.1)
    raise ServingError(f"the endpoint did not answer within {timeout_s:g} s")


def what_is_wrong() -> str:
    """Why the endpoint answers nobody, in a line; "" while a replica runs."""
    if not ray.is_initialized():  # asking would start another one
        return "the connection to Ray has ended"
    try:
        application = serve.status().applications.get(APP_NAME)
    except Exception as error:  # of Ray, Serve or the connection
        return f"Ray does not answer: {one_line(error)[:300]}"
    if application is None:
        return "the application was deleted from Ray Serve"
    if any(one.replica_states.get(ReplicaState.RUNNING) for one in application.deployments.values()):
        return ""
    return f"no replica runs ({application.status.value}): {_reason(application)}"


def _reason(application: ApplicationStatusOverview) -> str:
    messages = [application.message, *(one.message for one in application.deployments.values())]
    return one_line(" ".join(messages))[-500:]
