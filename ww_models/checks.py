"""What all modules of the package say errors with."""

import reprlib
from typing import Any


def require(condition: bool, message: str) -> None:
    """Raises ValueError(message) unless `condition` holds."""
    if not condition:
        raise ValueError(message)


def one_line(error: Exception) -> str:
    """What an error says, short enough to stand in another message."""
    return " ".join(str(error).split())[:300]


def shown(value: Any) -> str:
    """Whatever it is, in a short line."""
    return " ".join(reprlib.repr(value).split())
