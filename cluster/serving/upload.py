"""What a request to denoise brings: the recording's bytes and the options, from form, body and query."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.types import Message

from cluster.serving.audio import check_media_type
from cluster.serving.config import ServingConfig
from cluster.serving.errors import ApiError, describe_fields


class DenoiseOptions(BaseModel):
    """Given in the query or, beside the file, in the form; the form wins."""

    model_config = ConfigDict(extra="forbid")

    strength: float = Field(
        1.0, ge=0, le=1, allow_inf_nan=False, description="Share of the enhanced signal; 0 returns the input."
    )
    response_format: Literal["wav", "flac", "ogg"] = Field("wav", description="Kind of file to answer with.")


@dataclasses.dataclass(frozen=True)
class Upload:
    """data: the file's bytes, not yet looked at."""

    data: bytes
    options: DenoiseOptions


async def read_upload(request: Request, config: ServingConfig) -> Upload:
    """Reads the body, at most `max_upload_bytes` of it. Raises ApiError (400, 413, 415, 422)."""
    content_type = request.headers.get("content-type", "")
    is_form = content_type.split(";")[0].strip().lower() == "multipart/form-data"
    if not is_form:
        check_media_type(content_type)
    query = dict(request.query_params)
    _parse_options(query)  # before the body: a caller should not send megabytes to hear of a typing error
    request = _limited(request, config.max_upload_bytes)
    if is_form:
        data, fields = await _read_form(request)
    else:
        data, fields = await request.body(), {}
    return Upload(data=data, options=_parse_options(query | fields))


async def _read_form(request: Request) -> tuple[bytes, dict[str, str]]:
    async with request.form(max_files=1, max_fields=8) as form:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise ApiError(422, "invalid_field", "file: the form brings no file in the field `file`")
        check_media_type(file.content_type or "")
        fields = {name: value for name, value in form.items() if isinstance(value, str)}
        return await file.read(), fields


def _parse_options(values: dict[str, str]) -> DenoiseOptions:
    try:
        return DenoiseOptions.model_validate(values)
    except ValidationError as error:
        raise ApiError(
            422, "invalid_field", describe_fields([dict(item) for item in error.errors()])
        ) from error


def _limited(request: Request, max_bytes: int) -> Request:
    """The same request, whose body ends in a 413 as soon as it exceeds the limit, declared or not."""
    too_large = ApiError(
        413, "too_many_bytes", f"the body is larger than the limit of {max_bytes} bytes: send it in parts"
    )
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise too_large
    num_received = 0

    async def receive() -> Message:
        nonlocal num_received
        message = await request.receive()
        num_received += len(message.get("body", b""))
        if num_received > max_bytes:
            raise too_large
        return message

    return Request(request.scope, receive)


def request_body_schema() -> dict[str, Any]:
    """The OpenAPI description of what `read_upload` takes, since it reads the request by itself."""
    options = DenoiseOptions.model_json_schema()["properties"]
    binary = {"type": "string", "format": "binary"}
    form = {"type": "object", "required": ["file"], "properties": {"file": binary, **options}}
    parameters = [{"name": name, "in": "query", "schema": schema} for name, schema in options.items()]
    content = {"multipart/form-data": {"schema": form}, "audio/*": {"schema": binary}}
    return {"parameters": parameters, "requestBody": {"required": True, "content": content}}
