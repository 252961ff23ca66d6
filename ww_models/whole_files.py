"""Files and folders that appear whole or not at all: written under a temporary name, then renamed."""

import os
import secrets
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

_MAX_STEM = 50  # characters, of up to 4 bytes: a name may have 255 bytes


def write_whole(files: Mapping[Path, bytes]) -> None:
    """All are written before the first is renamed, so that a full disk leaves what was there."""
    temporaries: dict[Path, Path] = {}
    try:
        for path, content in files.items():
            temporary = path.with_name(f".{path.name[:_MAX_STEM]}.{secrets.token_hex(4)}")
            with temporary.open("xb") as file:  # tempfile would hide them from whom the umask lets read
                temporaries[path] = temporary
                file.write(content)
                file.flush()
                os.fsync(file.fileno())  # or the name may outlive a power failure without the content
        for path, temporary in temporaries.items():
            temporary.replace(path)
    finally:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)


def write_whole_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """A folder of files by name; what is at `path` is replaced. Anyone may read the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        folder.chmod(0o755)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        if not path.exists():
            folder.rename(path)
            return
        # A rename cannot replace a folder with files: what is there steps aside.
        old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
        path.replace(old)
        try:
            folder.rename(path)
        except OSError:
            old.replace(path)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
