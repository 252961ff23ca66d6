"""Which recordings are taken over HTTP: of what kinds, and how much of it."""

from __future__ import annotations

from typing import BinaryIO

from cluster.serving.config import AudioLimits
from cluster.serving.errors import ApiError
from ww_data.audio import KINDS, kind_of

_OTHER_ACCEPTED_TYPES = {
    *("", "application/octet-stream", "application/ogg", "application/x-flac", "application/mp4"),
    # Browsers and phones say so of recordings without a picture, too.
    *("video/ogg", "video/webm", "video/mp4", "video/3gpp", "video/quicktime", "video/x-matroska"),
}


def bad_audio(message: str) -> ApiError:
    """For what is damaged, or out of all bounds."""
    return ApiError(400, "bad_audio", message)


def check_extent(limits: AudioLimits, num_frames: int, sample_rate: int, num_channels: int) -> None:
    """Raises the ApiError for a recording that goes beyond."""
    low, high = limits.min_sample_rate, limits.max_sample_rate
    if not low <= sample_rate <= high:
        raise bad_audio(f"a sample rate of {sample_rate} Hz; accepted are {low} to {high} Hz")
    if num_channels > limits.max_channels:
        what = f"{num_channels} channels; the limit is {limits.max_channels}: send fewer"
        raise ApiError(413, "too_many_channels", what)
    if num_frames > limits.max_seconds * sample_rate:
        seconds, most_s = num_frames / sample_rate, limits.max_seconds
        raise ApiError(413, "too_long", f"{seconds:.1f} s of audio; the limit is {most_s:g} s: send parts")


def check_media_type(content_type: str) -> None:
    """Raises a 415 for what is declared to be other than audio; the bytes themselves decide the rest."""
    media_type = content_type.split(";")[0].strip().lower()
    if not media_type.startswith("audio/") and media_type not in _OTHER_ACCEPTED_TYPES:
        how = "as the multipart field `file`, or as the body with Content-Type audio/* or application/octet-stream"
        what = f"{media_type[:100]!r} is not audio; send {KINDS} {how}"
        raise ApiError(415, "unsupported_media_type", what)


def check_kind(file: BinaryIO) -> None:
    """Raises a 415 for bytes that begin no file of an accepted kind, so that no other decoder ever sees them."""
    if kind_of(file)[0] is None:
        what = f"these bytes begin none of {KINDS}: convert the file to one of them"
        raise ApiError(415, "unsupported_audio", what)
