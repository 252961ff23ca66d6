"""What Ray Serve starts as HAProxy: puts our lines into the configuration that it is handed, and becomes HAProxy.

    python -IS haproxy_start.py BINARY OURS.json -db -f FOLDER/haproxy.cfg ...

Ray Serve writes the configuration anew before each start, and starts HAProxy anew whenever replicas come or go. It has
no settings for what is changed here. This file stands alone, for it runs without this project on the path.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1  # of prctl.h
_MARK = "# Wave Wizard's"
# Serve decodes these, and fails on what is not UTF-8.
READ_BY_SERVE = (
    "x-request-id",
    "x-session-id",
    "x-request-timeout-seconds",
    "x-request-disconnect-disabled",
    "serve_multiplexed_model_id",
    "serve-multiplexed-model-id",
)
_ALLOWED = "GET HEAD POST"
_REFUSED_BY_US = "PUT PATCH DELETE OPTIONS TRACE"  # by the application, which knows what each address allows
_ERRORS = {
    400: ("invalid_request", "bad_request", "this is no request that can be understood"),
    403: ("invalid_request", "forbidden", "this request is not passed on"),
    405: ("invalid_request", "method_not_allowed", "this address knows no such method; see /docs"),
    408: ("invalid_request", "upload_timeout", "the request did not come to its end in time"),
    413: ("invalid_request", "too_many_bytes", "the request is larger than may be"),
    500: ("internal", "internal_error", "something went wrong on our side"),
    502: ("internal", "internal_error", "what works on requests has ended before it answered; ask again"),
    503: ("overloaded", "not_ready", "nobody is there to work on requests; ask again in a moment"),
    504: ("internal", "internal_error", "what works on requests did not answer in time; ask again"),
}


def edited(text: str, ours: dict[str, Any]) -> str:
    """Ray Serve's configuration with our lines. ours: as cluster.serving.deploy.haproxy writes it."""
    if _MARK in text:
        return text
    folder = re.search(r"stats socket (\S*)/[^/\s]+ ", text)
    if folder is None:
        raise ValueError("Ray Serve's configuration of HAProxy has changed: it names no admin socket")
    text = text.replace("mode 666 level admin", "mode 600 level admin")
    # Shown to all networks otherwise, on ports that other endpoints of the machine would need, too.
    for section, socket in (("frontend prometheus", "prom"), ("listen stats", "stats")):
        address = f"unix@{folder[1]}/{socket}.sock mode 600"
        text = re.sub(rf"(?m)^({section}\n\s+bind) \S+", rf"\g<1> {address}", text)
    # Ray Serve's default, where nobody reads; another that RAY_SERVE_HAPROXY_LOG_TARGET names stays.
    text = re.sub(r"(?m)^\s+log 127\.0\.0\.1:514 .*\n", "", text)
    text = re.sub(r"(?m)^\s+errorfile \d+ .*\n", "", text)  # plain text, and 500 for all
    # With it a client that has closed its sending side loses the reply that it waits for.
    text = re.sub(r"(?m)^(\s+)option abortonclose", r"\1no option abortonclose", text)
    # Before anything is deployed, and after it is gone, all paths are unknown.
    text = re.sub(r"(?m)^(backend default_backend\n).*\n", r"\1    http-request deny deny_status 503\n", text)
    text = re.sub(r"(?m)^defaults\n", lambda match: match[0] + _defaults(ours), text)
    no_queue = ours["disconnect_header"]
    lines = [
        *(
            f"http-request del-header {name} if {{ req.fhdr({name}) -m reg '[^ -~]' }}"
            for name in READ_BY_SERVE
        ),
        f"http-request set-header {no_queue} ?1 if {{ req.hdr(upgrade) -i websocket }}",
        # Of what has no path (CONNECT, OPTIONS *) Serve has nobody take care.
        f"http-request deny deny_status 405 if !{{ method {_ALLOWED} {_REFUSED_BY_US} }}",
        "http-request deny deny_status 405 if METH_OPTIONS !{ path_beg / }",
        "http-request deny deny_status 400 if !{ path_beg / }",
        # What Serve says in plain words while nobody is there, or somebody goes, and its web server of what it cannot
        # read; all that we say is JSON.
        "http-response deny deny_status 503 if { status 404 503 } { res.hdr(content-type) -m beg text/plain }",
        "http-response deny deny_status 400 if { status 400 } { res.hdr(content-type) -m beg text/plain }",
    ]
    front = "".join(f"    {line}\n" for line in lines)
    return re.sub(r"(?m)^frontend http_frontend\n.*\n", lambda match: match[0] + front, text)


def _defaults(ours: dict[str, Any]) -> str:
    lines = [
        _MARK,
        f"timeout http-request {ours['headers_s']}s",
        f"timeout tunnel {ours['call_s']}s",
        "unique-id-format %[uuid]",
    ]
    for status, (kind, code, message) in _ERRORS.items():
        content = {"error": {"type": kind, "code": code, "message": message, "request_id": "%ID"}}
        more = {405: f" hdr Allow '{_ALLOWED.replace(' ', ', ')}'", 503: " hdr Retry-After 1"}.get(status, "")
        lines.append(
            f"http-error status {status} content-type application/json lf-string '{json.dumps(content)}' "
            f"hdr X-Request-Id %ID{more}"
        )
    return "".join(f"    {line}\n" for line in lines)


def main(binary: str, ours: str, *arguments: str) -> None:
    config = Path(arguments[arguments.index("-f") + 1])
    text = edited(config.read_text(encoding="utf-8"), json.loads(Path(ours).read_text(encoding="utf-8")))
    new = config.with_suffix(f".{os.getpid()}")
    new.write_text(text, encoding="utf-8")
    new.replace(config)
    if sys.platform == "linux":  # whoever has started it may be killed
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.execv(binary, [binary, *arguments])


if __name__ == "__main__":
    main(*sys.argv[1:])
