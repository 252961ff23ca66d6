"""A real S3 server on loopback, moto's, with one bucket."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.fs


@contextlib.contextmanager
def s3_server(log: Path) -> Iterator[tuple[str, str]]:
    """Yields what an address there starts with, and the options behind it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with log.open("w") as output:
        server = subprocess.Popen(
            [Path(sys.executable).parent / "moto_server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=output,
            stderr=output,
        )
    try:
        filesystem = pyarrow.fs.S3FileSystem(
            endpoint_override=f"http://127.0.0.1:{port}",
            allow_bucket_creation=True,
            connect_timeout=240,
        )
        deadline = time.monotonic() + 60
        while True:
            try:
                filesystem.create_dir("bucket")
                break
            except OSError:
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
        yield "s3://bucket", f"?endpoint_override=http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(10)
