"""Messages of foreign errors, brought down to a line."""

from __future__ import annotations


def one_line(message: object) -> str:
    """All of a message, without its line breaks."""
    return " ".join(str(message).split())


def first_line(message: object) -> str:
    """Where the details follow: a file system's error, say."""
    return str(message).strip().partition("\n")[0]


def last_line(message: object) -> str:
    """Where a traceback comes first."""
    return str(message).strip().rpartition("\n")[2]
