"""What /docs shows beside the signatures: an introduction and examples."""

from __future__ import annotations

from typing import Any

from cluster.serving.errors import ApiError

DESCRIPTION = """\
Speech in noise goes in, speech comes out.

    curl -F file=@noisy.wav -o clean.wav http://127.0.0.1:8000/v1/audio/denoise
    curl -F file=@noisy.mp3 -F strength=0.8 -F response_format=flac -o clean.flac .../v1/audio/denoise
    curl --data-binary @noisy.ogg -H "Content-Type: audio/ogg" -o clean.wav .../v1/audio/denoise

Where keys are asked for, send `Authorization: Bearer KEY`. Live calls go over a WebSocket, `/v1/audio/denoise/stream`.
Every reply bears an `X-Request-Id`; name it when you report a fault.
"""

_MODEL = {
    "id": "gatewave-0a1b2c3d4e5f",
    "architecture": "gatewave",
    "sample_rate": 16000,
    "latency_ms": 37.2,
    "num_parameters": 1_220_000,
    "licence": "CC BY 4.0",
    "metrics": {"enhanced": {"pesq": 1.9}},
    "real_time_factor": 0.03,
    "evidence": None,
}
_WHAT = {
    400: ("The audio is damaged, empty or not finite", "bad_audio", "the upload: holds no samples"),
    401: ("A key is asked for", "unauthorized", "this API key is not valid here"),
    404: ("No such model", "unknown_model", "no model is called 'x'; there are: gatewave-0a1b2c3d4e5f"),
    413: ("Beyond a limit", "too_long", "7300.0 s of audio; the limit is 7200 s: send parts"),
    415: ("Not audio", "unsupported_audio", "these bytes begin none of WAV, FLAC, ...: convert the file"),
    422: ("A wrong option", "invalid_field", "strength: Input should be less than or equal to 1, got '2'"),
    429: ("The key's limit; see Retry-After", "too_many_requests", "this key may do 2 things at a time"),
    503: ("Busy; see Retry-After", "busy", "busy: 8 files are being worked on, as many as may be"),
}


def _json(example: dict[str, Any]) -> dict[str, Any]:
    return {"content": {"application/json": {"example": example}}}


def _error(status: int, description: str, code: str, message: str) -> dict[str, Any]:
    kind = ApiError(status, code, message).type
    error = {"type": kind, "code": code, "message": message, "request_id": "5f0c..."}
    return {"description": description, **_json({"error": error})}


MODELS_EXAMPLE = _json({"data": [_MODEL]})
ERRORS: dict[int | str, dict[str, Any]] = {status: _error(status, *what) for status, what in _WHAT.items()}
