"""How tests start Chromium."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import require_program

QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]


def chromium(profile: Path, *arguments: str) -> list[str]:
    """The command of a browser without a window, which goes nowhere by itself."""
    return [require_program("chromium"), *QUIET, f"--user-data-dir={profile}", *arguments]
