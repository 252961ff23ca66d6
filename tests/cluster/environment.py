"""The environment of commands and clusters that tests start."""

from __future__ import annotations

import os
import signal
import subprocess


def private_environment(**settings: str) -> dict[str, str]:
    """For one with a Ray of its own: nothing tells it of another, but how Ray Train goes about things stays."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("RAY_") or name.startswith("RAY_TRAIN_")
    }
    return kept | settings


def interruptible(command: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    """A started command that Ctrl-C ends also where the tests run in the background, which ignores it."""
    return subprocess.Popen(
        command,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
