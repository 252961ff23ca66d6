"""What all modules of the package say errors with."""


def require(condition: bool, message: str) -> None:
    """Raises ValueError(message) unless `condition` holds."""
    if not condition:
        raise ValueError(message)


def one_line(error: Exception) -> str:
    """What an error says, short enough to stand in another message."""
    return " ".join(str(error).split())[:300]
