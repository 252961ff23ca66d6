"""Long recordings in pieces: of any format, the pieces are the whole, and each is decoded once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ww_data.audio.reading as reading_module
import ww_data.write.pieces as pieces_module
from tests.ww_data.audio.made_files import by_ffmpeg, by_libsndfile, sound
from ww_data import read_mono
from ww_data.dsp import HIGH_PASS_HZ, high_passed
from ww_data.scan.files import Recording
from ww_data.scan.inspection import inspect
from ww_data.write.pieces import PieceReader, pieces_of

RATE = 16_000


def low_sound(seconds: float, rate: int, num_channels: int = 1) -> np.ndarray:
    """With a tone at 19 Hz, where the high-pass rings longest."""
    tone_T = 0.3 * np.sin(2 * np.pi * 19 * np.arange(round(seconds * rate)) / rate)
    return sound(seconds, rate, num_channels) + np.float32(tone_T[:, None] + 0.1)


FILES = {
    "a.wav": by_libsndfile("WAV", low_sound(7.3, 44_100, 2), 44_100),
    "a.mp3": by_libsndfile("MP3", low_sound(7.3, 44_100), 44_100),
    "a.flac": by_libsndfile("FLAC", low_sound(3.6, 44_100), 44_100) * 2,
    "a.m4a": by_ffmpeg("ipod", "aac", low_sound(7.3, 44_100), 44_100),
}


@pytest.mark.parametrize("high_pass_hz", [0.0, HIGH_PASS_HZ])
@pytest.mark.parametrize("name", FILES)
def test_pieces_make_up_the_whole(
    name: str, high_pass_hz: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces_module, "PIECE_S", 2)
    monkeypatch.setattr(reading_module, "BLOCK_FRAMES", 10_000)
    path = tmp_path / name
    path.write_bytes(FILES[name])
    clip = inspect(Recording(path=str(path), name=name, role="noise"))
    pieces = list(pieces_of(clip))
    assert [piece.start_s for piece in pieces] == [0, 2, 4]
    opened = []
    open_audio = pieces_module.open_audio
    monkeypatch.setattr(pieces_module, "open_audio", lambda path: opened.append(path) or open_audio(path))
    with PieceReader(RATE, high_pass_hz) as reader:
        parts = [reader.read(piece) for piece in pieces]
    assert len(opened) == 1
    whole_T = read_mono(path, RATE)
    if high_pass_hz:
        whole_T = high_passed(whole_T, RATE, high_pass_hz)
    assert [len(part) for part in parts] == [2 * RATE, 2 * RATE, len(whole_T) - 4 * RATE]
    np.testing.assert_allclose(np.concatenate(parts), whole_T, atol=1e-5)
    with PieceReader(RATE, high_pass_hz) as reader:  # as in a part that begins within the recording
        np.testing.assert_allclose(reader.read(pieces[1]), parts[1], atol=1e-5)
