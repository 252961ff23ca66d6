"""Whatever is wrong with a file is said in words of files and sound, not in those of a decoder's insides."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

import numpy as np
import pytest

from tests.ww_data.audio.made_files import by_ffmpeg, by_libsndfile, sound, with_bytes
from ww_data import AudioError, read_audio
from ww_data.audio.errors import bad_sound

X = sound(0.5, 48_000)
MADE: dict[str, Callable[[], bytes]] = {
    **{
        kind: lambda kind=kind: by_libsndfile(kind, X, 48_000)
        for kind in ("WAV", "RF64", "W64", "AIFF", "CAF")
    },
    **{kind: lambda kind=kind: by_libsndfile(kind, X, 48_000) for kind in ("AU", "FLAC", "OGG", "MP3")},
    "adpcm": lambda: by_libsndfile("WAV", X, 48_000, "MS_ADPCM"),
    "gsm": lambda: by_libsndfile("WAV", X, 48_000, "GSM610"),
    "m4a": lambda: by_ffmpeg("ipod", "aac", X, 48_000),
    "alac": lambda: by_ffmpeg("ipod", "alac", X, 48_000),
    "webm": lambda: by_ffmpeg("webm", "libopus", X, 48_000),
    "mkv": lambda: by_ffmpeg("matroska", "flac", X, 48_000),
    "aac": lambda: by_ffmpeg("adts", "aac", X, 48_000),
}
PLAIN = re.compile(
    r"the given file: ("
    r"is (cut short|damaged|longer than it says) ?[(:]|is empty|holds no |holds \d+ sound tracks|leaves out sound|"
    r"states a sample rate of|begins with a damaged length|"
    r"cannot be read as audio \((these bytes begin none of|its beginning is damaged|a part of its sound is damaged|"
    r"its sound is (stored|encoded)))"
)


def damaged(file: bytes) -> list[bytes]:
    random = np.random.default_rng(0)
    cuts = [file[:place] for place in (4, 12, 20, 30, 44, 60, 100, len(file) // 2)]
    ones = [with_bytes(file, place, b"\xff" * 2) for place in range(4, 64, 2)]
    zeros = [with_bytes(file, place, bytes(4)) for place in range(4, 64, 4)]
    others = [with_bytes(file, int(place), random.bytes(40)) for place in random.integers(64, len(file), 6)]
    return [*cuts, *ones, *zeros, *others]


@pytest.mark.parametrize("name", MADE)
def test_a_damaged_file_is_refused_in_plain_words_if_at_all(name: str) -> None:
    said = set()
    for file in damaged(MADE[name]()):
        try:
            read_audio(io.BytesIO(file))
        except AudioError as error:
            said.add(str(error))
    assert said
    assert not [text for text in said if not PLAIN.match(text)]
    assert not [text for text in said if re.search(r"-\d|0x|_|[Ee]rror|psf", text)]


@pytest.mark.parametrize(
    ("code", "name"), [(0x161, "wmav2"), (0x22, "truespeech"), (0x1234, "an unknown codec")]
)
def test_what_is_not_decoded_here_is_named(code: int, name: str) -> None:
    with pytest.raises(AudioError, match=rf"its sound is encoded with {name}\): convert it to WAV or FLAC"):
        read_audio(io.BytesIO(with_bytes(MADE["WAV"](), 20, code.to_bytes(2, "little"))))


def test_what_a_decoder_cannot_do_is_no_damage() -> None:
    """As pauses in AMR: whoever copies it again meets the same."""
    error = bad_sound(RuntimeError("Not yet implemented in FFmpeg, patches welcome"))
    assert "is stored in a way that is not known here" in str(error)
    assert "a part of its sound is damaged" in str(bad_sound(RuntimeError("Invalid data found")))
