"""Sound over HTTP: an upload's bytes to samples, within limits, and samples to a reply's bytes."""

from __future__ import annotations

import dataclasses
import io

import numpy as np

from cluster.enhancement import encode_audio, stored_subtype
from cluster.serving.config import ServingConfig
from cluster.serving.errors import ApiError
from ww_data import AudioError, read_audio
from ww_data.audio import open_audio

MEDIA_TYPES = {"wav": "audio/wav", "flac": "audio/flac", "ogg": "audio/ogg"}

_OTHER_ACCEPTED_TYPES = {"", "application/octet-stream", "application/ogg", "application/x-flac", "video/ogg"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recording:
    """samples: (T, C) float32, full scale +-1; sample_rate in Hz; subtype: libsndfile's word for the bits."""

    samples: np.ndarray
    sample_rate: int
    subtype: str

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.sample_rate


class _Upload(io.BytesIO):
    """Bytes that errors call by a name, in place of a Python object's address."""

    name = "the upload"

    def __repr__(self) -> str:
        return self.name


def check_media_type(content_type: str) -> None:
    """Raises a 415 for what is declared to be other than audio; the bytes themselves decide the rest."""
    media_type = content_type.split(";")[0].strip().lower()
    if not media_type.startswith("audio/") and media_type not in _OTHER_ACCEPTED_TYPES:
        raise ApiError(
            415,
            "unsupported_media_type",
            f"{media_type} is not audio; send WAV, FLAC, OGG or MP3 as the multipart field `file`, "
            "or as the body with Content-Type audio/* or application/octet-stream",
        )


def decode(data: bytes, config: ServingConfig) -> Recording:
    """Reads a recording. Raises a 400 for what is none, a 413 over the limits, before it is unpacked."""
    if not data:
        raise ApiError(400, "empty_audio", "the request brings no bytes of audio")
    try:
        with open_audio(_Upload(data)) as file:
            _check_limits(file.frames, file.samplerate, file.channels, config)
            subtype = file.subtype
        samples_TC, sample_rate = read_audio(_Upload(data))
    except AudioError as error:
        raise ApiError(400, "bad_audio", " ".join(str(error).split())) from error
    return Recording(samples=samples_TC, sample_rate=sample_rate, subtype=subtype)


def encode(recording: Recording, response_format: str) -> bytes:
    """The file's bytes as wav, flac or ogg. Raises a 422 where that format cannot hold the recording."""
    file_format = response_format.upper()
    subtype = stored_subtype(recording.subtype, file_format)
    try:
        return encode_audio(recording.samples, recording.sample_rate, file_format, subtype)
    except ValueError as error:
        raise ApiError(422, "invalid_field", f"response_format: {error}") from error


def _check_limits(num_frames: int, sample_rate: int, num_channels: int, config: ServingConfig) -> None:
    if not config.min_sample_rate <= sample_rate <= config.max_sample_rate:
        raise ApiError(
            400,
            "bad_audio",
            f"a sample rate of {sample_rate} Hz; accepted are {config.min_sample_rate} to "
            f"{config.max_sample_rate} Hz",
        )
    if num_channels > config.max_channels:
        raise ApiError(
            413,
            "too_many_channels",
            f"{num_channels} channels; the limit is {config.max_channels}: send fewer",
        )
    if num_frames > config.max_audio_s * sample_rate:
        raise ApiError(
            413,
            "too_long",
            f"{num_frames / sample_rate:.1f} s of audio; the limit is {config.max_audio_s:g} s: send parts",
        )
