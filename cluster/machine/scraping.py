"""Where Prometheus finds the private Ray of a command: in a file for its service discovery, in a folder that is named
by the environment. A cluster needs none, since Ray's dashboard writes such a file on its head.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

FOLDER_VARIABLE = "WW_METRICS"


def is_watched() -> bool:
    """Whether somebody wants the metrics of a private Ray."""
    return bool(os.environ.get(FOLDER_VARIABLE))


@contextlib.contextmanager
def found_by_prometheus() -> Iterator[None]:
    """As long as the block lasts, this process being connected to its own Ray.

    A command that is killed leaves its file; Prometheus then finds nobody there.
    """
    if not is_watched():
        yield
        return
    import ray

    targets = [f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}" for node in ray.nodes()]
    file = Path(os.environ[FOLDER_VARIABLE]) / f"wave-wizard-{os.getpid()}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps([{"labels": {"job": "ray"}, "targets": targets}]), encoding="utf-8")
    temporary.replace(file)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
