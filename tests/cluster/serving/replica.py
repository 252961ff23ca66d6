"""A replica in a process tree of its own, so that what it takes can be measured and what harms it harms no test.

python replica.py BUNDLE LIVE       prints its port, then serves until it is ended; LIVE: of LiveConfig, as JSON
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil


@contextlib.contextmanager
def replica(bundle: Path, **live: object) -> Iterator[tuple[psutil.Process, str]]:
    """The process and its URL. live: settings of live calls."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, __file__, str(bundle), json.dumps({"max_streams": 8, **live})],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            yield psutil.Process(process.pid), f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()


def file_process(name: str) -> psutil.Process:
    """Of the last application in this process: its "decoder" or its "engine"."""
    running = [one for one in psutil.Process().children() if one.status() != psutil.STATUS_ZOMBIE]
    found = [one for one in running if f"cluster.serving.files.{name}" in one.cmdline()]
    return max(found, key=psutil.Process.create_time)


def memory_bytes(process: psutil.Process) -> int:
    """What the process and all below it hold, each shared page counted once."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += one.memory_full_info().pss
    return total


def end_with_the_test() -> None:
    """However the test ends: its end of the pipe is closed then."""
    sys.stdin.read()
    os._exit(0)


def main(bundle: str, live: str) -> None:
    import socket

    import uvicorn

    from cluster.serving.config import LiveConfig, ServingConfig
    from cluster.serving.models import ServedModels
    from cluster.serving.web.app import build_app

    app = build_app(ServedModels([Path(bundle)]), ServingConfig(live=LiveConfig(**json.loads(live))))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()  # who comes before uvicorn waits
        print(listener.getsockname()[1], flush=True)
        threading.Thread(target=end_with_the_test, daemon=True).start()
        uvicorn.Server(uvicorn.Config(app, log_level="error", ws_ping_timeout=None)).run(sockets=[listener])


if __name__ == "__main__":
    main(*sys.argv[1:])
