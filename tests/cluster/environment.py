"""The environment of commands and clusters that tests start."""

from __future__ import annotations

import os


def private_environment(**settings: str) -> dict[str, str]:
    """For one with a Ray of its own: nothing tells it of another, but how Ray Train goes about things stays."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("RAY_") or name.startswith("RAY_TRAIN_")
    }
    return kept | settings
