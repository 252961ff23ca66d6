"""Files as other programs write them: by libsndfile, by FFmpeg, and as they are when a writer was not careful."""

from __future__ import annotations

import io
import math
from fractions import Fraction

import av
import numpy as np
import soundfile

from tests.ww_data.made_sounds import RATE, hiss


def sound(seconds: float = 1.0, rate: int = RATE, num_channels: int = 1, seed: int = 0) -> np.ndarray:
    """(T, C) noise that 16 bits hold as it is."""
    x_TC = np.stack([hiss(seed + c, seconds, rate) for c in range(num_channels)], axis=1)
    return np.round(x_TC * 32768).astype(np.float32) / 32768


def by_libsndfile(kind: str, x_TC: np.ndarray, rate: int = RATE, subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, x_TC, rate, format=kind, subtype=subtype)
    return file.getvalue()


def by_ffmpeg(
    container: str,
    codec: str,
    x_TC: np.ndarray,
    rate: int = RATE,
    *,
    num_tracks: int = 1,
    picture: str = "",
    gap_s: float = 0.0,
    num_gaps: int = 1,
    encoding: dict[str, str] | None = None,
    sample_format: str = "",
    **options: str,
) -> bytes:
    """picture: the codec of a video track beside the sound. gap_s: after the first half, by the container's clock, or
    so often, after equal parts."""
    file = io.BytesIO()
    with av.open(file, "w", format=container, options=options) as out:
        if picture:
            film = out.add_stream(picture, rate=10, width=64, height=48, pix_fmt="yuv420p")
        layout = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}[x_TC.shape[1]]
        tracks = [
            out.add_stream(codec, rate=rate, layout=layout, options=encoding) for _ in range(num_tracks)
        ]
        if picture:
            for n in range(10 * len(x_TC) // rate):
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), n, np.uint8), format="rgb24")
                frame.pts = n
                out.mux(film.encode(frame))
            out.mux(film.encode())
        for track in tracks:
            context = track.codec_context
            if sample_format:
                context.format = sample_format
            whole = av.AudioFrame.from_ndarray(x_TC.reshape(1, -1), format="flt", layout=layout)
            whole.sample_rate, whole.pts, whole.time_base = rate, 0, Fraction(1, rate)
            queue = av.AudioFifo()
            converter = av.AudioResampler(context.format.name, layout, rate)
            for frame in converter.resample(whole):
                queue.write(frame)
            while (frame := queue.read(context.frame_size or 1024, partial=True)) is not None:
                for packet in track.encode(frame):
                    num_parts = packet.pts * packet.time_base * rate / len(x_TC) * (num_gaps + 1)
                    packet.pts += round(max(0, math.ceil(num_parts) - 1) * gap_s / packet.time_base)
                    packet.dts = packet.pts
                    out.mux(packet)
            for packet in track.encode():
                packet.pts += round(num_gaps * gap_s / packet.time_base)
                packet.dts = packet.pts
                out.mux(packet)
    return file.getvalue()


def id3(num_bytes: int) -> bytes:
    """A tag in front of a file, with a picture in it, say."""
    size = bytes(num_bytes >> shift & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\x03\0\0" + size + np.random.default_rng(0).bytes(num_bytes)


def with_bytes(file: bytes, place: int, new: bytes) -> bytes:
    return file[:place] + new + file[place + len(new) :]


def with_size(file: bytes, chunk: bytes, new: bytes) -> bytes:
    """A file with another size in a chunk's header."""
    return with_bytes(file, file.index(chunk) + len(chunk), new)


def without_length(flac: bytes) -> bytes:
    """A FLAC whose encoder did not go back to its header."""
    return with_bytes(flac, 21, bytes([flac[21] & 0xF0]) + bytes(4))
