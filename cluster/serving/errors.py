"""Errors as callers see them: a type, a code to branch on and a sentence to read.

type: "invalid_request" (the caller can mend it), "overloaded" (the same may pass later) or "internal".
How they are answered is `error_replies.py`; this much is known to all processes of a replica.
"""

from __future__ import annotations

from typing import Any

# What a caller learns of an exception that nobody expected; the log has the rest.
OUR_FAULT = "something went wrong on our side"


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


def busy(message: str, retry_after_s: int = 1) -> ApiError:
    """The 503 for what would be taken a little later."""
    return ApiError(503, "busy", message, {"Retry-After": str(retry_after_s)})


def describe_fields(errors: list[dict]) -> str:
    """One sentence that names each field and what is wrong with it, from pydantic's list of errors."""
    return "; ".join(f"{error['loc'][-1]}: {error['msg']}, got {error['input']!r:.100}" for error in errors)
