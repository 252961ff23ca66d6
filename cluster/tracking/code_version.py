"""Which commit the running code is of."""

from __future__ import annotations

import subprocess
from pathlib import Path


def code_commit() -> str:
    """The commit of the code that runs, with "-dirty" where tracked files were changed since; "" outside a checkout.

    Code that was copied or installed into some other project's checkout does not count: git must know this package.
    """
    git = ["git", "-C", str(Path(__file__).resolve().parent)]
    try:
        for command in (
            ["ls-files", "--error-unmatch", "__init__.py"],
            ["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
        ):
            done = subprocess.run([*git, *command], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):  # no git, no checkout, or one that git refuses to read
        return ""
    return done.stdout.strip()
