"""Long recordings in pieces: of any format, the pieces are the whole, and each is decoded once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ww_data.audio.reading as reading_module
import ww_data.write.pieces as pieces_module
from tests.ww_data.audio.made_files import by_ffmpeg, by_libsndfile, sound
from ww_data import read_mono
from ww_data.scan.files import Recording
from ww_data.scan.inspection import inspect
from ww_data.write.pieces import PieceReader, pieces_of

RATE = 16_000
FILES = {
    "a.wav": by_libsndfile("WAV", sound(7.3, 44_100, 2), 44_100),
    "a.mp3": by_libsndfile("MP3", sound(7.3, 44_100), 44_100),
    "a.flac": by_libsndfile("FLAC", sound(3.6, 44_100), 44_100) * 2,
    "a.m4a": by_ffmpeg("ipod", "aac", sound(7.3, 44_100), 44_100),
}


@pytest.mark.parametrize("name", FILES)
def test_pieces_make_up_the_whole(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    with PieceReader(RATE, high_pass_hz=0) as reader:
        parts = [reader.read(piece) for piece in pieces]
    assert len(opened) == 1
    whole_T = read_mono(path, RATE)
    assert [len(part) for part in parts] == [2 * RATE, 2 * RATE, len(whole_T) - 4 * RATE]
    np.testing.assert_allclose(np.concatenate(parts), whole_T, atol=1e-5)
    with PieceReader(RATE, high_pass_hz=0) as reader:  # as in a part that begins within the recording
        np.testing.assert_allclose(reader.read(pieces[1]), parts[1], atol=1e-5)
