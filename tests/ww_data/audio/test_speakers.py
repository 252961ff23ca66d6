"""Channels in WAV's order, whatever order a file has: the containers of Apple and of ISO say beside it which it is."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest

from tests.ww_data.audio.made_files import by_ffmpeg, by_libsndfile, sound, with_bytes
from ww_data import read_audio
from ww_data.audio import open_audio

RATE = 16_000
X = sound(0.1, RATE, 6)
# Apple's kAudioChannelLayoutTag_* by number, and where each has WAV's channels L R C LFE Ls Rs.
A, B, C, D = 121, 122, 123, 124
ORDERS = {A: (0, 1, 2, 3, 4, 5), B: (0, 1, 4, 5, 2, 3), C: (0, 2, 1, 5, 3, 4), D: (1, 2, 0, 5, 3, 4)}
SURROUND, BACK = 0x60F, 0x3F
LEFT, RIGHT, CENTRE, LOW, LEFT_BACK, RIGHT_BACK, UNUSED, HEADPHONES = 1, 2, 3, 4, 5, 6, 0, 301


def by_tag(tag: int, num_channels: int = 6) -> bytes:
    return struct.pack(">III", tag << 16 | num_channels, 0, 0)


def by_speaker(*labels: int) -> bytes:
    return struct.pack(">III", 0, 0, len(labels)) + b"".join(struct.pack(">I16x", label) for label in labels)


def caf(x_TC: np.ndarray, layout: bytes) -> bytes:
    file = by_libsndfile("CAF", x_TC, RATE, "PCM_16")
    return file[:52] + struct.pack(">4sq", b"chan", len(layout)) + layout + file[52:]


def aiff(x_TC: np.ndarray, layout: bytes) -> bytes:
    file = by_libsndfile("AIFF", x_TC, RATE, "PCM_16")
    file += struct.pack(">4sI", b"CHAN", len(layout)) + layout
    return with_bytes(file, 4, struct.pack(">I", len(file) - 8))


def mov(x_TC: np.ndarray, layout: bytes) -> bytes:
    file = by_ffmpeg("mov", "pcm_s16le", x_TC, RATE)
    box = struct.pack(">I4s4x", 12 + len(layout), b"chan") + layout
    return with_box(file, file.index(b"chan") - 4, box, b"sowt")


def with_box(file: bytes, place: int, box: bytes, entry: bytes) -> bytes:
    """An MP4 with another box in place of one that lies in an entry of its list of formats, behind the sound."""
    old_bytes = size_at(file, place)
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", entry):
        at = file.rindex(name, 0, place) - 4
        file = with_bytes(file, at, struct.pack(">I", size_at(file, at) + len(box) - old_bytes))
    return file[:place] + box + file[place + old_bytes :]


def size_at(file: bytes, place: int) -> int:
    return int.from_bytes(file[place : place + 4], "big")


def read(file: bytes) -> tuple[np.ndarray, int]:
    with open_audio(io.BytesIO(file)) as opened:
        mask = opened.channel_mask
    return read_audio(io.BytesIO(file))[0], mask


WRITERS = pytest.mark.parametrize("write", [caf, aiff, mov])


@WRITERS
@pytest.mark.parametrize("tag", ORDERS)
def test_surround_comes_in_wavs_order(write, tag: int, tmp_path: Path) -> None:
    own_order = np.argsort(ORDERS[tag])
    file = write(X[:, own_order], by_tag(tag))
    samples_TC, mask = read(file)
    np.testing.assert_array_equal(samples_TC, X)
    assert mask == SURROUND
    path = tmp_path / "a"
    path.write_bytes(file)
    np.testing.assert_array_equal(read_audio(path)[0], X)


@WRITERS
def test_speakers_may_be_named_one_by_one(write) -> None:
    labels = (RIGHT, LEFT_BACK, LOW, LEFT, CENTRE, RIGHT_BACK)
    samples_TC, mask = read(write(X[:, [1, 4, 3, 0, 2, 5]], by_speaker(*labels)))
    np.testing.assert_array_equal(samples_TC, X)
    assert mask == BACK
    stereo = X[:, :2]
    samples_TC, mask = read(write(stereo[:, ::-1], by_speaker(RIGHT, LEFT)))
    np.testing.assert_array_equal(samples_TC, stereo)
    assert mask == 0


@WRITERS
@pytest.mark.parametrize(
    "layout",
    [
        by_speaker(CENTRE, CENTRE),
        by_speaker(UNUSED, UNUSED),
        by_speaker(LEFT, UNUSED),
        by_speaker(HEADPHONES, HEADPHONES + 1),
        by_tag(147, 2),  # in no order
        by_tag(9999, 2),
    ],
)
def test_what_is_for_no_speakers_stays_as_it_lies(write, layout: bytes) -> None:
    samples_TC, mask = read(write(X[:, :2], layout))
    np.testing.assert_array_equal(samples_TC, X[:, :2])
    assert mask == 0


@pytest.mark.parametrize("write", [caf, aiff])
@pytest.mark.parametrize(
    ("layout", "mask"),
    [
        (struct.pack(">III", 1 << 16, BACK, 0), BACK),  # WAV's own word
        (b"", 0),
        (by_tag(B)[:7], 0),
        (by_tag(B, 5), 0),
        (struct.pack(">III", 0, 0, 1 << 31), 0),
        (by_speaker(LEFT, RIGHT), 0),
    ],
)
def test_a_damaged_description_counts_for_nothing(write, layout: bytes, mask: int) -> None:
    samples_TC, found = read(write(X, layout))
    np.testing.assert_array_equal(samples_TC, X)
    assert found == mask


def test_an_mp4_names_its_speakers_in_a_box_of_its_own() -> None:
    file = by_ffmpeg("mp4", "pcm_s16le", X, RATE)
    named = struct.pack(">I4s4xBB", 14 + 6, b"chnl", 1, 0) + bytes(
        [1, 0, 2, 3, 4, 5]
    )  # right, left, centre, ...
    samples_TC, mask = read(with_box(file, file.index(b"chnl") - 4, named, b"ipcm"))
    np.testing.assert_array_equal(samples_TC, X[:, [1, 0, 2, 3, 4, 5]])
    assert mask.bit_count() == 6
