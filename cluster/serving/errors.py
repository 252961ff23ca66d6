"""Errors as callers see them: a type, a code to branch on and a sentence to read.

type: "invalid_request" (the caller can mend it), "overloaded" (the same may pass later) or "internal".
How they are answered is `error_replies.py`; this much is known to all processes of a replica.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


class ApiError(Exception):
    """What is answered instead of a result; `message` is for people, `code` for programs.

    status: of HTTP; 429 and 503 bring a Retry-After in `headers`.
    """

    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, headers or {}

    @property
    def type(self) -> str:
        if self.status in {429, 503}:
            return "overloaded"
        return "invalid_request" if self.status < 500 else "internal"

    def as_json(self) -> dict[str, Any]:
        """What another process makes the same error of: ApiError(**error.as_json())."""
        return {"status": self.status, "code": self.code, "message": self.message, "headers": self.headers}


def busy(message: str, retry_after_s: int = 1, *, status: int = 503, code: str = "busy") -> ApiError:
    """For what would be taken a little later."""
    return ApiError(status, code, message, {"Retry-After": str(retry_after_s)})


def our_fault() -> ApiError:
    """What a caller learns of an exception that nobody expected; the log has the rest."""
    return ApiError(500, "internal_error", "something went wrong on our side")


def describe_fields(errors: Iterable[Mapping[str, Any]]) -> str:
    """One sentence that names each field and what is wrong with it, from pydantic's list of errors."""
    return "; ".join(f"{error['loc'][-1]}: {error['msg']}, got {error['input']!r:.100}" for error in errors)
