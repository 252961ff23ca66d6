"""Lets another command on this machine promote at an endpoint on a private Ray, which only its own process can reach.

The process that serves listens on a socket in the folder of its Ray, which its owner alone can open. Both sides send
one line of JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import socketserver
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from socket import AF_UNIX, socket
from urllib.parse import urlsplit

from cluster.serving.deploy.promotion import Served, promote

TIMEOUT_S = 300.0
_FOLDERS = "ww-ray-{pid}-*"  # as cluster.machine.session makes them


class ControlError(ValueError):
    """There is no such endpoint, or it refuses."""


@contextlib.contextmanager
def listening(url: str) -> Iterator[None]:
    """Takes promotions for the length of the block; does nothing where Ray is not this process' own."""
    folder = next(Path("/tmp").glob(_FOLDERS.format(pid=os.getpid())), None)
    if folder is None:
        yield
        return
    path = folder / _name(url)
    with socketserver.UnixStreamServer(str(path), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
            path.unlink(missing_ok=True)


def promote_at(url: str, bundles: Sequence[Path], *, keep: bool = False) -> Served:
    """Like `promote`, by the process of this user that serves at this address. Raises ControlError."""
    order = {"bundles": [str(bundle.resolve()) for bundle in bundles], "keep": keep}
    for path in Path("/tmp").glob(f"{_FOLDERS.format(pid='*')}/{_name(url)}"):
        with contextlib.suppress(OSError), socket(AF_UNIX) as connection:  # left behind, or another user's
            connection.settimeout(TIMEOUT_S)
            connection.connect(str(path))
            connection.sendall(json.dumps(order).encode() + b"\n")
            with connection.makefile() as lines:
                answer = json.loads(lines.readline() or '{"error": "it ended before it answered"}')
            if "error" in answer:
                raise ControlError(answer["error"])
            return [(model_id, bundle) for model_id, bundle in answer["served"]]
    raise ControlError(
        f"none of your endpoints on this machine answers at {url}; for one on a cluster set RAY_ADDRESS"
    )


class _Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        try:
            order = json.loads(self.rfile.readline())
            answer: dict[str, object] = {"served": promote(order["bundles"], keep=order["keep"])}
        except Exception as error:
            answer = {"error": str(error) or type(error).__name__}
        self.wfile.write(json.dumps(answer).encode() + b"\n")


def _name(url: str) -> str:
    return f"promote-{urlsplit(url).port}.sock"
