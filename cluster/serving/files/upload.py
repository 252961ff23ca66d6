"""What a request to denoise brings: the recording, kept in a file, and the options, from form and query."""

from __future__ import annotations

import asyncio
import dataclasses
import tempfile
from typing import Any, BinaryIO, cast

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.types import Message

from cluster.serving.config import ServingConfig
from cluster.serving.errors import ApiError, busy, describe_fields
from cluster.serving.files.audio import check_media_type
from cluster.serving.files.pace import Pace
from cluster.sound.bands import Band
from cluster.sound.encoder import Format
from cluster.sound.strength import strength_from

# What is written to disk at a time, in a thread: disks make one wait, and live calls must not.
_WRITE_BYTES = 1 << 20
_MAX_FIELD_BYTES = 4096  # of an option in a form
_LONGEST_NAME_BYTES = 255  # of a file: what is no longer may be the name, where the file itself was meant


class DenoiseOptions(BaseModel):
    """Given in the query or, beside the file, in the form; the form wins."""

    model_config = ConfigDict(extra="forbid")

    strength: float = Field(
        1.0,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Share of the enhanced signal; 0 returns the input.",
        examples=[0.8],
    )
    max_attenuation: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="In place of strength: take at most so many dB of the noise away; 20 leave a tenth of it.",
        examples=[20.0],
    )
    band: Band = Field(
        "full",
        description="full keeps what the recording has above the model's band, model leaves it out.",
        examples=["model"],
    )
    response_format: Format = Field(
        "wav",
        description="Kind of file to answer with; pcm is s16le, interleaved, without a header.",
        examples=["flac"],
    )
    model: str | None = Field(None, description="Id of a model of /v1/models; the default one unless given.")

    @property
    def share(self) -> float:
        """Of the enhanced signal, whichever way it was given. ValueError where both were."""
        given = self.strength if "strength" in self.model_fields_set else None
        return strength_from(given, self.max_attenuation)


@dataclasses.dataclass(frozen=True)
class Upload:
    """audio: a file without a name, not yet inspected; the owner of the upload closes it."""

    audio: BinaryIO
    options: DenoiseOptions


async def read_upload(request: Request, config: ServingConfig) -> Upload:
    """Reads the body, at most `max_upload_bytes` of it. Raises ApiError (400, 408, 413, 415, 422, 503)."""
    content_type = request.headers.get("content-type", "")
    is_form = content_type.split(";")[0].strip().lower() == "multipart/form-data"
    if not is_form:
        check_media_type(content_type)
    query = dict(request.query_params)
    _parse_options(query)  # before the body: a typing error should not cost an upload of megabytes
    request = _limited(request, config)
    try:
        audio, fields = await (_read_form(request) if is_form else _read_body(request))
    except OSError as error:
        raise busy("there is no room to keep the upload", retry_after_s=30) from error
    try:
        return Upload(audio, _parse_options(query | fields))
    except ApiError:
        audio.close()
        raise


async def _read_form(request: Request) -> tuple[BinaryIO, dict[str, str]]:
    parser = _FormParser(
        request.headers, request.stream(), max_files=1, max_fields=8, max_part_size=_MAX_FIELD_BYTES
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        how = f"send one file in the field `file`, and options of at most {_MAX_FIELD_BYTES} bytes each"
        raise ApiError(400, "bad_form", f"{error.message.rstrip('.')}: {how}") from error
    file = form.get("file")
    try:
        if not isinstance(file, UploadFile):
            raise ApiError(422, "invalid_field", "file: the form brings no file in the field `file`")
        if not file.filename and not file.content_type and 0 < (file.size or 0) <= _LONGEST_NAME_BYTES:
            raise ApiError(422, "invalid_field", "file: this is text and no file; with curl: -F file=@NAME")
        check_media_type(file.content_type or "")
        file.file.flush()
    except BaseException:
        await form.close()
        raise
    return cast(BinaryIO, file.file), {name: text for name, text in form.items() if isinstance(text, str)}


class _FormParser(MultiPartParser):
    """Takes the field `file` for a file also where it has no `filename`, which may be left out (RFC 7578, 4.2).

    `filename*`, which older clients send for names beyond ASCII, counts as none.
    """

    def on_headers_finished(self) -> None:
        part = self._current_part
        _, options = parse_options_header(part.content_disposition)
        if options.get(b"name") == b"file" and b"filename" not in options:
            part.content_disposition = b'form-data; name="file"; filename=""'
        super().on_headers_finished()


async def _read_body(request: Request) -> tuple[BinaryIO, dict[str, str]]:
    audio = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 (the upload closes it)
    try:
        waiting = bytearray()
        async for chunk in request.stream():
            waiting += chunk
            if len(waiting) >= _WRITE_BYTES:
                await asyncio.to_thread(audio.write, waiting)
                waiting = bytearray()
        await asyncio.to_thread(audio.write, waiting)
        audio.flush()
    except BaseException:
        audio.close()
        raise
    return audio, {}


def _parse_options(values: dict[str, str]) -> DenoiseOptions:
    try:
        options = DenoiseOptions.model_validate(values)
        _ = options.share
    except ValidationError as error:
        raise ApiError(422, "invalid_field", describe_fields(error.errors())) from error
    except ValueError as error:
        raise ApiError(422, "invalid_field", f"max_attenuation: {error}") from error
    return options


def _limited(request: Request, config: ServingConfig) -> Request:
    """The same request, whose body ends in a 413 as soon as it exceeds the limit, declared or not; or in a 408."""
    max_bytes = config.max_upload_bytes
    what = f"the body is larger than the limit of {max_bytes} bytes: send it in parts"
    too_large = ApiError(413, "too_many_bytes", what)
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise too_large
    num_received, pace = 0, Pace(config.upload_stall_s, config.max_transfer_s)

    async def receive() -> Message:
        nonlocal num_received
        try:
            message = await pace.wait_for(request.receive())
        except TimeoutError as error:
            raise ApiError(408, "upload_timeout", f"the upload is too slow: {error}") from None
        num_bytes = len(message.get("body", b""))
        pace.count(num_bytes)
        num_received += num_bytes
        if num_received > max_bytes:
            raise too_large
        return message

    return Request(request.scope, receive)


def request_body_schema() -> dict[str, Any]:
    """The OpenAPI description of what `read_upload` takes, since it reads the request by itself."""
    options = DenoiseOptions.model_json_schema()["properties"]
    binary = {"type": "string", "format": "binary"}
    form = {"type": "object", "required": ["file"], "properties": {"file": binary, **options}}
    parameters = [
        {"name": name, "in": "query", "schema": schema, "description": schema["description"]}
        for name, schema in options.items()
    ]
    content = {"multipart/form-data": {"schema": form}, "audio/*": {"schema": binary}}
    return {"parameters": parameters, "requestBody": {"required": True, "content": content}}
