"""The words of the live protocol (docs/serving.md): options, messages, close codes, samples as bytes.

Everything here is a function of its arguments; who sends what when is `websocket.py`.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from enum import IntEnum
from typing import Any, Literal, get_args

import numpy as np

from cluster.serving.config import LiveConfig
from cluster.serving.errors import ApiError
from cluster.sound.bands import BANDS, Band
from cluster.sound.resampling import Samples, is_common_rate
from cluster.sound.strength import PARAMETERS, strength_from

PATH = "/v1/audio/denoise/stream"
SUBPROTOCOL = "wave-wizard"

Encoding = Literal["pcm_s16le", "pcm_f32le"]
DTYPES: dict[str, np.dtype[Any]] = {"pcm_s16le": np.dtype("<i2"), "pcm_f32le": np.dtype("<f4")}
_PARAMETERS = ("encoding", "sample_rate", "channels", "strength", "max_attenuation", "band", "model")
# Full scale is 1; far beyond lies what was meant as integers.
MAX_PEAK = 1000.0


class Close(IntEnum):
    """Codes of RFC 6455 and its registry, as this protocol uses them."""

    DONE = 1000
    GOING_AWAY = 1001
    BAD_MESSAGE = 1003
    BAD_AUDIO = 1007
    REFUSED = 1008
    TOO_BIG = 1009
    FAULT = 1011
    TRY_LATER = 1013


class ProtocolError(ValueError):
    """What ends a call: `code` for programs, str() for people, the close code, further fields of the message."""

    def __init__(self, code: str, message: str, close: Close, **fields: Any) -> None:
        super().__init__(message)
        self.code, self.close, self.fields = code, close, fields


def as_protocol_error(error: ApiError) -> ProtocolError:
    """The same error over a WebSocket."""
    if error.type == "overloaded":
        retry_after_s = int(error.headers.get("Retry-After", 1))
        return ProtocolError(error.code, error.message, Close.TRY_LATER, retry_after_s=retry_after_s)
    return ProtocolError(error.code, error.message, Close.FAULT if error.status >= 500 else Close.REFUSED)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CallOptions:
    """How a call's sound comes and goes: encoding, Hz, channels; strength 0 (input) to 1 (denoised); the band that
    comes back.
    """

    encoding: Encoding = "pcm_s16le"
    sample_rate: int = 16_000
    num_channels: int = 1
    strength: float = 1.0
    band: Band = "full"

    @property
    def bytes_per_sample(self) -> int:
        """Of all channels together."""
        return DTYPES[self.encoding].itemsize * self.num_channels


@dataclasses.dataclass(frozen=True)
class Update:
    """session.update: what is None stays as it is."""

    strength: float | None = None
    bypass: bool | None = None


def parse_options(query: Mapping[str, str], model_rate: int, config: LiveConfig) -> CallOptions:
    """The options in a query. ProtocolError names the parameter that is wrong."""
    for name in query:
        if name not in _PARAMETERS:
            raise _bad_parameter(name, f"is unknown; known are {', '.join(_PARAMETERS)}")
    encoding = query.get("encoding", "pcm_s16le")
    if encoding not in get_args(Encoding):
        raise _bad_parameter("encoding", f"is {encoding!r:.50}; send {' or '.join(get_args(Encoding))}")
    rate = _integer(query, "sample_rate", model_rate, config.min_sample_rate, config.max_sample_rate)
    if not is_common_rate(rate, model_rate):
        raise _bad_parameter("sample_rate", f"is {rate} Hz; send a usual rate, such as 16000, 44100 or 48000")
    band = query.get("band", "full")
    if band not in BANDS:
        raise _bad_parameter("band", f"is {band!r:.50}; send {' or '.join(BANDS)}")
    return CallOptions(
        band=band,
        encoding=encoding,  # type: ignore[arg-type]
        sample_rate=rate,
        num_channels=_integer(query, "channels", 1, 1, config.max_channels),
        strength=_strength(query),
    )


def _strength(query: Mapping[str, str]) -> float:
    strength, max_attenuation_db = (_number(query.get(name)) for name in PARAMETERS)
    try:
        return strength_from(strength, max_attenuation_db)
    except ValueError as error:
        name = PARAMETERS[max_attenuation_db is not None]
        raise _bad_parameter(name, f"is {query[name]!r:.50}: {error}") from error


def _number(text: str | None) -> float | None:
    """NaN, which lies within no bounds, for what is none."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return math.nan


def _integer(query: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and least <= int(text) <= most):
        raise _bad_parameter(name, f"is {text!r:.50}; send a whole number from {least} to {most}")
    return int(text)


def _bad_parameter(name: str, what: str) -> ProtocolError:
    return ProtocolError("bad_parameter", f"the parameter {name} {what}", Close.REFUSED, parameter=name)


def parse_text(text: str) -> tuple[str, Update]:
    """The type of a client's message, and what a session.update asks for. ProtocolError bad_message."""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise _bad_message('a text message is a JSON object with a "type"; sound goes into binary messages')
    kind = message.pop("type")
    if kind == "session.update":
        return kind, _parse_update(message)
    if kind not in {"flush", "close", "ping"}:
        raise _bad_message(
            f"unknown message type {kind!r:.50}; known are session.update, flush, close and ping"
        )
    return kind, Update()


def _parse_update(fields: dict[str, Any]) -> Update:
    mix, bypass = [fields.pop(name, None) for name in PARAMETERS], fields.pop("bypass", None)
    if fields or (mix == [None, None] and bypass is None):
        raise _bad_message("session.update takes strength or max_attenuation, bypass, and nothing else")
    for name, value in zip(PARAMETERS, mix, strict=True):
        if type(value) not in (int, float, type(None)):
            raise _bad_message(f"{name} is {value!r:.50}; send a number")
    if bypass is not None and type(bypass) is not bool:
        raise _bad_message(f"bypass is {bypass!r:.50}; send true or false")
    try:
        return Update(None if mix == [None, None] else strength_from(*mix), bypass)
    except ValueError as error:
        raise _bad_message(str(error)) from error


def _bad_message(message: str) -> ProtocolError:
    return ProtocolError("bad_message", message, Close.BAD_MESSAGE)


def decode_samples(data: bytes, options: CallOptions) -> Samples:
    """Interleaved PCM -> (C, n) float32, full scale +-1. ProtocolError bad_audio for what is none."""
    if len(data) % options.bytes_per_sample:
        raise _bad_audio(
            f"{len(data)} bytes are not whole frames of {options.bytes_per_sample} bytes "
            f"({options.num_channels} channel(s) of {options.encoding})"
        )
    samples = np.frombuffer(data, DTYPES[options.encoding])
    if options.encoding == "pcm_s16le":
        samples = samples.astype(np.float32) * np.float32(1 / 32768)
    elif len(samples) and not np.abs(samples).max() <= MAX_PEAK:  # NaN is not below anything
        raise _bad_audio(
            f"samples that are NaN, infinite or beyond {MAX_PEAK:g}; full scale of pcm_f32le is +-1"
        )
    if options.num_channels == 1:
        return samples[None]
    return np.ascontiguousarray(samples.reshape(-1, options.num_channels).T)


def encode_samples(samples_Cn: Samples, encoding: Encoding) -> tuple[bytes, int]:
    """(C, n) -> interleaved PCM, and how many samples had to be clipped (16 bits end at full scale)."""
    if encoding == "pcm_f32le":
        return samples_Cn.T.astype(DTYPES[encoding]).tobytes(), 0
    scaled = np.rint(samples_Cn.T * np.float32(32768))
    num_clipped = 0
    if scaled.size and np.abs(scaled).max() > 32767:
        num_clipped = int(np.count_nonzero((scaled > 32767) | (scaled < -32768)))
        scaled = scaled.clip(-32768, 32767)
    return scaled.astype(DTYPES[encoding]).tobytes(), num_clipped


def _bad_audio(message: str) -> ProtocolError:
    return ProtocolError("bad_audio", message, Close.BAD_AUDIO)
