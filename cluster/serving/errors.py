"""Errors as callers see them: JSON with a type, a code to branch on, a sentence to read and the request's id.

    {"error": {"type": "invalid_request", "code": "bad_audio", "message": "...", "request_id": "..."}}

type: "invalid_request" (the caller can mend it), "overloaded" (the same may pass later) or "internal".
"""

from __future__ import annotations

import logging
import re
import uuid

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)

_CODES = {404: "not_found", 405: "method_not_allowed"}


class ApiError(Exception):
    """What is answered instead of a result; `message` is for people, `code` for programs."""

    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, headers or {}

    @property
    def type(self) -> str:
        if self.status == 503:
            return "overloaded"
        return "invalid_request" if self.status < 500 else "internal"


def install_error_handlers(app: FastAPI) -> None:
    """Makes every error that a caller can cause answer in the form above."""

    async def on_api_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ApiError)
        return _response(request, error)

    async def on_invalid_field(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return _response(request, ApiError(422, "invalid_field", describe_fields(list(error.errors()))))

    async def on_http_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        code = _CODES.get(error.status_code, "invalid_request")
        return _response(
            request, ApiError(error.status_code, code, str(error.detail), dict(error.headers or {}))
        )

    app.add_exception_handler(ApiError, on_api_error)
    app.add_exception_handler(RequestValidationError, on_invalid_field)
    app.add_exception_handler(HTTPException, on_http_error)


def describe_fields(errors: list[dict]) -> str:
    """One sentence that names each field and what is wrong with it, from pydantic's list of errors."""
    return "; ".join(f"{error['loc'][-1]}: {error['msg']}, got {error['input']!r}" for error in errors)


def request_id(request: Request) -> str:
    """The id that stands in this request's reply and logs."""
    return request.state.request_id


def _response(request: Request, error: ApiError) -> JSONResponse:
    content = {
        "type": error.type,
        "code": error.code,
        "message": error.message,
        "request_id": request_id(request),
    }
    return JSONResponse({"error": content}, status_code=error.status, headers=error.headers)


class RequestIdMiddleware:
    """Gives every request an id (the caller's X-Request-Id if that is sane) and answers what nobody caught.

    An exception that reaches this far is our fault: it is logged with the id, the caller sees a bare 500.
    """

    def __init__(self, app: ASGIApp, *, send_header: bool) -> None:
        self.app, self.send_header = app, send_header

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        is_sane = re.fullmatch(r"[\w.:-]{1,128}", given, re.ASCII)
        scope.setdefault("state", {})["request_id"] = given if is_sane else uuid.uuid4().hex
        request = Request(scope)
        has_started = False

        async def send_with_id(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                if self.send_header:
                    header = (b"x-request-id", request_id(request).encode())
                    message = {**message, "headers": [*message.get("headers", []), header]}
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except Exception:
            logger.exception("request %s failed", request_id(request))
            if has_started:
                raise
            fault = ApiError(500, "internal_error", "something went wrong on our side")
            await _response(request, fault)(scope, receive, send_with_id)
