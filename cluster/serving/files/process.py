"""A process beside the replica that works on files at low priority, so that live calls come first."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
from typing import Any

logger = logging.getLogger(__name__)

NICENESS = 10
READY = {"ready": True}


class FileProcess:
    """`python -m MODULE`, which takes orders over a socket; for one thread at a time."""

    def __init__(self, module: str) -> None:
        self._module, self._has_reported = module, False
        self._start()

    def ensure_alive(self) -> int:
        """Restarts it if it has died. Returns its process id."""
        if not self.is_alive():
            logger.warning("%s ended (%s); starting it again", self._module, self._process.returncode)
            self._control.close()
            self._start()
        return self._process.pid

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def is_ready(self, wait_s: float = 0) -> bool:
        """Whether it has said that it takes orders, or does so within `wait_s`."""
        if not self._has_reported:
            self._control.settimeout(wait_s)
            with contextlib.suppress(OSError):
                self._has_reported = receive_order(self._control) is not None
            self._control.settimeout(0)
        return self._has_reported and self.is_alive()

    def wait_until_ready(self, timeout_s: float) -> None:
        """Raises RuntimeError if it ends or does not get ready in time."""
        if not self.is_ready(timeout_s):
            raise RuntimeError(f"{self._module} did not get ready within {timeout_s:g} s")

    def order(self, order: dict[str, Any], *files: int) -> None:
        """Hands over an order and open files. OSError if it has died, or has too many orders waiting."""
        send_order(self._control, order, list(files))

    def close(self) -> None:
        """Ends it at once."""
        self._control.close()
        self._process.kill()
        self._process.wait()

    def _start(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._has_reported = False
        with theirs:
            one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
            self._process = subprocess.Popen(
                [sys.executable, "-m", self._module, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                # Where Ray put the code on the path, the process has to find it, too.
                env={**os.environ, **one_thread, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        self._control.setblocking(False)


def begin(descriptor: str) -> socket.socket:
    """What such a process does first: low priority, and the socket for orders."""
    os.nice(max(0, NICENESS - os.nice(0)))
    return socket.socket(fileno=int(descriptor))


def report_ready(control: socket.socket) -> None:
    send_order(control, READY, [])


def send_order(control: socket.socket, order: dict[str, Any], files: list[int]) -> None:
    """Hands one order and its open files to the process at the other end, which gets descriptors of its own."""
    socket.send_fds(control, [json.dumps(order).encode()], files)


def receive_order(control: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """The next order and its files; None when the other end is gone. BlockingIOError if there is none yet."""
    body, files, _, _ = socket.recv_fds(control, 1 << 16, 4)
    return (json.loads(body), files) if body else None
