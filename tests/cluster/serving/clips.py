"""Recordings as callers send them, and errors as they get them."""

from __future__ import annotations

import io
import re

import httpx
import numpy as np
import soundfile as sf

DENOISE = "/v1/audio/denoise"


def recording(seconds: float = 0.5, sample_rate: int = 16_000, num_channels: int = 1) -> np.ndarray:
    """(T, C) float32 noise, the same for the same arguments."""
    rng = np.random.default_rng(int(sample_rate * seconds) + num_channels)
    return 0.1 * rng.standard_normal((int(seconds * sample_rate), num_channels)).astype(np.float32)


def file_bytes(
    samples_TC: np.ndarray, sample_rate: int = 16_000, kind: str = "WAV", subtype: str | None = None
) -> bytes:
    buffer = io.BytesIO()
    sf.write(buffer, samples_TC, sample_rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def samples_of(file: bytes) -> np.ndarray:
    """(T, C) float32"""
    return sf.read(io.BytesIO(file), dtype="float32", always_2d=True)[0]


def error_of(response: httpx.Response, status: int) -> dict[str, str]:
    """The error of a reply, which must be as all errors are, and tell nothing of the inside."""
    assert response.status_code == status, response.text[:500]
    error = response.json()["error"]
    assert set(error) == {"type", "code", "message", "request_id"}
    assert response.headers.get_list("x-request-id") == [error["request_id"]]
    assert not re.search(r"Traceback|0x[0-9a-f]{4,}|/[a-z]+/[a-z_0-9]+|\bfd\b", error["message"])
    return error
