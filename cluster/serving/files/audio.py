"""Sound over HTTP: which kinds are taken, and how much of it."""

from __future__ import annotations

import dataclasses

from cluster.serving.errors import ApiError

KINDS = "WAV, FLAC, OGG or MP3"

_OTHER_ACCEPTED_TYPES = {"", "application/octet-stream", "application/ogg", "application/x-flac", "video/ogg"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class AudioLimits:
    """What one recording may be and what decoding it may take.

    max_seconds, max_channels: larger recordings are answered 413.
    min_sample_rate, max_sample_rate: in Hz; a recording outside is answered 400.
    max_decode_s: seconds of computing; max_decode_bytes: of memory. A file that wants more is answered 400.
    """

    max_seconds: float = 7_200.0
    max_channels: int = 8
    min_sample_rate: int = 4_000
    max_sample_rate: int = 192_000
    max_decode_s: int = 120
    max_decode_bytes: int = 256 * 2**20

    def __post_init__(self) -> None:
        for name, least in (("max_channels", 1), ("min_sample_rate", 1), ("max_decode_s", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}; got {getattr(self, name)}")
        if not self.max_seconds > 0:
            raise ValueError(f"max_seconds must be positive; got {self.max_seconds}")
        if self.min_sample_rate > self.max_sample_rate:
            raise ValueError(
                f"min_sample_rate={self.min_sample_rate} lies above max_sample_rate={self.max_sample_rate}"
            )
        if self.max_decode_bytes < 64 * 2**20:
            raise ValueError(f"max_decode_bytes must be at least 64 MiB; got {self.max_decode_bytes}")

    def check(self, num_frames: int, sample_rate: int, num_channels: int) -> None:
        """Raises the ApiError for what goes beyond."""
        if not self.min_sample_rate <= sample_rate <= self.max_sample_rate:
            raise ApiError(
                400,
                "bad_audio",
                f"a sample rate of {sample_rate} Hz; accepted are {self.min_sample_rate} to "
                f"{self.max_sample_rate} Hz",
            )
        if num_channels > self.max_channels:
            message = f"{num_channels} channels; the limit is {self.max_channels}: send fewer"
            raise ApiError(413, "too_many_channels", message)
        if num_frames > self.max_seconds * sample_rate:
            raise ApiError(
                413,
                "too_long",
                f"{num_frames / sample_rate:.1f} s of audio; the limit is {self.max_seconds:g} s: send parts",
            )


def check_media_type(content_type: str) -> None:
    """Raises a 415 for what is declared to be other than audio; the bytes themselves decide the rest."""
    media_type = content_type.split(";")[0].strip().lower()
    if not media_type.startswith("audio/") and media_type not in _OTHER_ACCEPTED_TYPES:
        raise ApiError(
            415,
            "unsupported_media_type",
            f"{media_type[:100]!r} is not audio; send {KINDS} as the multipart field `file`, "
            "or as the body with Content-Type audio/* or application/octet-stream",
        )


def check_kind(first_bytes: bytes) -> None:
    """Raises a 415 for bytes that begin no file of an accepted kind, so that no other decoder ever sees them."""
    is_mp3 = first_bytes[:3] == b"ID3" or (
        len(first_bytes) > 1 and first_bytes[0] == 0xFF and first_bytes[1] & 0xE0 == 0xE0
    )
    if not is_mp3 and first_bytes[:4] not in {b"RIFF", b"RIFX", b"RF64", b"fLaC", b"OggS"}:
        raise ApiError(
            415, "unsupported_audio", f"these bytes do not begin a {KINDS} file: convert it to one of them"
        )
