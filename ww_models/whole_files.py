"""Files that appear whole or not at all: written under a temporary name, then renamed."""

import secrets
from collections.abc import Mapping
from pathlib import Path


def write_whole(files: Mapping[Path, bytes]) -> None:
    """All are written before the first is renamed, so that a full disk leaves what was there."""
    temporaries: dict[Path, Path] = {}
    try:
        for path, content in files.items():
            temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
            with temporary.open("xb") as file:  # tempfile would hide them from whom the umask lets read
                temporaries[path] = temporary
                file.write(content)
        for path, temporary in temporaries.items():
            temporary.replace(path)
    finally:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)
