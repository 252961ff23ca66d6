"""Folders that appear whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A folder to write to, beside `target`; it takes that name if the block ends well, else it is removed.

    `target` must not exist or be an empty folder. A killed process leaves a `.<name>.partial-*` folder behind
    that nothing ever reads.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.partial-"))
    try:
        partial.chmod(target.parent.stat().st_mode & 0o777)  # mkdtemp closes its folder to everyone else
        yield partial
        partial.replace(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
