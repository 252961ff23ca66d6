"""How errors leave, wherever they were raised: as JSON, with the request's id.

{"error": {"type": "invalid_request", "code": "bad_audio", "message": "...", "request_id": "..."}}
"""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

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


def fault_reply(request: Request) -> JSONResponse:
    """For an exception that nobody caught, which is our fault: it is logged with the id, the caller sees a bare 500."""
    logger.exception("request %s failed", request.state.request_id)
    return error_reply(request, our_fault())
