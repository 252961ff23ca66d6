"""How errors leave: as JSON, with the request's id, whoever raised them.

{"error": {"type": "invalid_request", "code": "bad_audio", "message": "...", "request_id": "..."}}
"""

from __future__ import annotations

import logging
import re
import uuid

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cluster.serving.errors import ApiError, describe_fields, our_fault

logger = logging.getLogger(__name__)

_CODES = {404: "not_found", 405: "method_not_allowed"}


def install_error_handlers(app: FastAPI) -> None:
    """Makes every error that a caller can cause answer in the form above."""

    async def on_error(request: Request, error: Exception) -> JSONResponse:
        return error_reply(request, _as_api_error(error))

    for kind in (ApiError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, on_error)


def _as_api_error(error: Exception) -> ApiError:
    if isinstance(error, RequestValidationError):
        return ApiError(422, "invalid_field", describe_fields(error.errors()))
    if isinstance(error, HTTPException):
        code, headers = _CODES.get(error.status_code, "invalid_request"), dict(error.headers or {})
        return ApiError(error.status_code, code, str(error.detail), headers)
    assert isinstance(error, ApiError)
    return error


def error_reply(request: Request, error: ApiError) -> JSONResponse:
    """The error as this request's answer."""
    content = {"type": error.type, "code": error.code, "message": error.message}
    content["request_id"] = request.state.request_id
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
                    header = (b"x-request-id", request.state.request_id.encode())
                    message = {**message, "headers": [*message.get("headers", []), header]}
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except ClientDisconnect:  # in the middle of an upload: nobody is left to answer
            return
        except Exception:
            logger.exception("request %s failed", request.state.request_id)
            if has_started:
                raise
            await error_reply(request, our_fault())(scope, receive, send_with_id)
