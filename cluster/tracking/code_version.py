"""Which commit the running code is of."""

from __future__ import annotations

import subprocess
from pathlib import Path


def code_commit() -> str:
    """The commit of the code that runs, with "-dirty" where tracked files were changed since; "" outside a checkout.

    Code that was copied or installed into some other project's checkout does not count: git must know this package.
    """
    package = Path(__file__).resolve().parent
    if not _git(package, "ls-files", "--error-unmatch", "__init__.py"):
        return ""
    return _git(package, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):  # no git, no checkout, or one that git refuses to read
        return ""
    return done.stdout.strip()
