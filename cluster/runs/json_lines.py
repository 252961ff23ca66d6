"""Files of JSON lines that somebody may still be writing, or was killed over."""

from __future__ import annotations

import contextlib
import json
from typing import Any


def parse_lines(text: str) -> list[dict[str, Any]]:
    """An object for each line; a line that is cut short is left out."""
    lines = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            lines.append(dict(json.loads(line)))
    return lines
