"""The private Ray of a command."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import psutil
import ray


def test_what_killed_workers_leave_goes_with_ray(local_ray: str) -> None:
    (folder,) = Path("/tmp").glob(f"ww-ray-{os.getpid()}-*")
    of_workers = ray.get(ray.remote(num_cpus=0)(tempfile.gettempdir).remote())
    assert Path(of_workers) == folder
    assert not Path(tempfile.gettempdir()).is_relative_to(folder), "this process outlives it"
    assert "TMPDIR" not in os.environ


def test_nobody_reads_the_logs_that_nobody_asked_for(local_ray: str) -> None:
    commands = [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]
    assert any("raylet" in command for command in commands)
    assert not any("log_monitor" in command for command in commands)
