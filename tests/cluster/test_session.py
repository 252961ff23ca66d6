"""The private Ray of a command."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import ray


def test_what_killed_workers_leave_goes_with_ray(local_ray: str) -> None:
    (folder,) = Path("/tmp").glob(f"ww-ray-{os.getpid()}-*")
    of_workers = ray.get(ray.remote(num_cpus=0)(tempfile.gettempdir).remote())
    assert Path(of_workers) == folder
    assert not Path(tempfile.gettempdir()).is_relative_to(folder), "this process outlives it"
    assert "TMPDIR" not in os.environ
