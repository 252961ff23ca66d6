"""The sounds of the page: clips with all their sides, cut so that the page stays small, and pictures of them.

Sound is 16-bit FLAC: what a denoiser leaves behind must not be covered by what a lossy format adds.
"""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np

from cluster.evaluation.excerpts import CUT_S, cut
from cluster.evaluation.scores import CLEAN, NOISY, Example
from cluster.tracking.pictures import mel_spectrogram_db
from ww_data import write_audio

MAX_BYTES = 15_000_000  # of all sounds; as text in the page a third more
NUM_TYPICAL = 6
_COLUMNS, _RANGE_DB = 320, 70.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Side:
    """A clip as one system returns it. sound, picture: data URIs."""

    name: str
    title: str
    sound: str
    picture: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
    """A clip to compare by ear. length_s: of what is heard; is_cut: less than the whole clip."""

    example: Example
    sides: tuple[Side, ...]
    length_s: float
    is_cut: bool


def choose_typical(examples: Sequence[Example]) -> list[Example]:
    """No more of them than a page holds, evenly from all."""
    num = min(NUM_TYPICAL, len(examples))
    return [examples[place * len(examples) // num] for place in range(num)]


def make_clips(examples: Sequence[Example]) -> list[Clip]:
    """Each as the page shows it. Of more than fits, clips are cut shorter."""
    sounds, cut_s = encode(examples, CUT_S, MAX_BYTES)
    return [_clip(cut(example, cut_s), files) for example, files in zip(examples, sounds, strict=True)]


def encode(examples: Sequence[Example], cut_s: float, max_bytes: int) -> tuple[list[dict[str, bytes]], float]:
    """FLAC files by name of each example, and the seconds that all of them were cut to so that they fit."""
    while True:
        sounds = [_encode(cut(example, cut_s)) for example in examples]
        num_bytes = sum(len(content) for files in sounds for content in files.values())
        if num_bytes <= max_bytes:
            return sounds, cut_s
        longest_s = max(len(next(iter(one.signals.values()))) / one.sample_rate for one in examples)
        cut_s = min(cut_s, longest_s) * min(0.95, max_bytes / num_bytes)


def _encode(example: Example) -> dict[str, bytes]:
    files = {}
    for name, signal_T in example.signals.items():
        buffer = io.BytesIO()
        write_audio(buffer, np.clip(signal_T, -1, 1), example.sample_rate, file_format="FLAC")
        files[name] = buffer.getvalue()
    return files


def _clip(example: Example, files: dict[str, bytes]) -> Clip:
    titles = {NOISY: "Noisy", CLEAN: "Clean"}
    pictures = spectrograms(example)
    sides = tuple(
        Side(
            name=name,
            title=titles.get(name, name),
            sound=_data_uri("audio/flac", files[name]),
            picture=_data_uri("image/png", pictures[name]),
        )
        for name in example.signals
    )
    length_s = len(example.signals[NOISY]) / example.sample_rate
    return Clip(example=example, sides=sides, length_s=length_s, is_cut=example.duration_s - length_s > 1e-3)


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def spectrograms(example: Example) -> dict[str, bytes]:
    """PNG of each signal's mel spectrogram, all on one scale, from the loudest point of all down."""
    from PIL import Image

    levels_db = {
        name: _columns(mel_spectrogram_db(signal_T, example.sample_rate))
        for name, signal_T in example.signals.items()
    }
    top_db = max(float(level_db.max()) for level_db in levels_db.values())
    palette = np.round(255 * mpl.colormaps["magma"](np.arange(256))[:, :3]).astype(np.uint8)
    pictures = {}
    for name, level_db in levels_db.items():
        shades = np.clip(255 * (1 + (level_db - top_db) / _RANGE_DB), 0, 255).astype(np.uint8)
        image = Image.fromarray(np.ascontiguousarray(shades[::-1]), mode="L").convert("P")
        image.putpalette(palette.tobytes())
        buffer = io.BytesIO()
        image.save(buffer, "PNG", optimize=True)
        pictures[name] = buffer.getvalue()
    return pictures


def _columns(level_db: np.ndarray) -> np.ndarray:
    """(D, M) -> (D, no more than _COLUMNS): the loudest of the frames that fall into each."""
    num = min(_COLUMNS, level_db.shape[1])
    starts = np.arange(num) * level_db.shape[1] // num
    return np.maximum.reduceat(level_db, starts, axis=1)
