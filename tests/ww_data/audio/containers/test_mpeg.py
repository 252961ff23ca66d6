"""MP3 and AAC without a container: all of their frames, and nothing of what lies between and behind them."""

from __future__ import annotations

import io
import itertools
import struct
from pathlib import Path

import av
import numpy as np
import pytest

from tests.ww_data.audio.made_files import by_ffmpeg, by_libsndfile, id3, sound, with_bytes
from ww_data import AudioError, read_audio
from ww_data.audio import kind_of

X = sound(3.0)
MP3 = by_libsndfile("MP3", X)
BARE_MP3 = by_ffmpeg("mp3", "libmp3lame", X, write_xing="0", id3v2_version="0")
AAC = by_ffmpeg("adts", "aac", X)
JUNK = np.random.default_rng(0).bytes(len(BARE_MP3) // 4)


def ape(num_bytes: int) -> bytes:
    """A tag with a picture in it, as APEv2 has it."""
    items = (
        struct.pack("<II", num_bytes, 2) + b"Cover Art (Front)\0" + np.random.default_rng(0).bytes(num_bytes)
    )
    first, last = (struct.pack("<IIII8x", 2000, len(items) + 32, 1, flags << 29) for flags in (5, 4))
    return b"APETAGEX" + first + items + b"APETAGEX" + last


LYRICS = b"LYRICSBEGIN" + b"la la la " * 3000 + b"027011LYRICS200" + b"TAG" + b"x" * 125


def samples_of(file: bytes) -> np.ndarray:
    return read_audio(io.BytesIO(file))[0]


def frames_of(file: bytes) -> list[int]:
    """Where they begin, but for one that says how many there are."""
    with av.open(io.BytesIO(file)) as opened:
        return [packet.pos for packet in opened.demux(audio=0) if packet.size and packet.pos is not None]


def check_twice(came: np.ndarray, file: bytes) -> None:
    """Two that nothing tells apart are one stream: the last frame of the first one sounds into the second."""
    alone = samples_of(file)
    assert len(came) == 2 * len(alone)
    np.testing.assert_allclose(came[: len(alone)], alone, atol=1e-6)
    behind = 0 if file is MP3 else 2000
    np.testing.assert_allclose(came[len(alone) + behind :], alone[behind:], atol=1e-6)


@pytest.mark.parametrize("file", [MP3, BARE_MP3, AAC])
@pytest.mark.parametrize(
    "behind", [ape(300), ape(50_000), LYRICS, bytes(50_000), id3(50_000), b"TAG" + b"x" * 125]
)
def test_what_lies_behind_the_frames_is_no_sound(file: bytes, behind: bytes) -> None:
    np.testing.assert_array_equal(samples_of(file + behind), samples_of(file))


def test_an_mp3_is_as_long_as_its_frames_whatever_its_first_one_says() -> None:
    at = next(MP3.index(tag) for tag in (b"Xing", b"Info") if tag in MP3) + 8
    for says in (0, 20):
        assert len(samples_of(with_bytes(MP3, at, struct.pack(">I", says)))) == pytest.approx(
            len(X), abs=2000
        )
    joined = samples_of(MP3 + BARE_MP3)
    assert len(joined) == pytest.approx(len(samples_of(MP3)) + len(samples_of(BARE_MP3)), abs=2000)


@pytest.mark.parametrize("file", [MP3, BARE_MP3, AAC])
@pytest.mark.parametrize("hole", [JUNK, bytes(len(JUNK))])
def test_a_hole_is_not_gone_over(file: bytes, hole: bytes) -> None:
    """Decoders find the next frame behind it, and say nothing of those that are gone."""
    middle = len(file) // 2
    for damaged in (with_bytes(file, middle, hole), file[:middle] + hole + file[middle:]):
        with pytest.raises(AudioError, match=r"is damaged|is cut short"):
            samples_of(damaged)
    small = file[:middle] + hole[:40] + file[middle:]
    if file is not AAC:  # whose decoder refuses a frame that is not whole
        assert len(samples_of(small)) == pytest.approx(len(X), abs=4000)


@pytest.mark.parametrize("file", [MP3, AAC])
def test_tags_of_ape_in_front_and_between(file: bytes) -> None:
    np.testing.assert_array_equal(samples_of(ape(5000) + file), samples_of(file))
    check_twice(samples_of(file + ape(5000) + file), file)
    assert kind_of(io.BytesIO(ape(5000) + file))[0] is not None


def test_an_aac_cut_out_of_a_stream_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.aac"
    path.write_bytes(AAC[100:])
    assert len(read_audio(path)[0]) == pytest.approx(len(X), abs=4 * 1024)


def test_zeros_behind_take_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    path.write_bytes(BARE_MP3)
    with path.open("r+b") as file:
        file.truncate(1 << 27)
    assert path.stat().st_size == 1 << 27
    assert len(read_audio(path)[0]) == len(samples_of(BARE_MP3))


def test_the_frames_of_every_layer_and_rate_are_known() -> None:
    for rate in (8000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000):
        x = sound(1.0, rate)
        for codec in ("libmp3lame", "mp2") if rate >= 16_000 else ("libmp3lame",):
            file = by_ffmpeg("mp2" if codec == "mp2" else "mp3", codec, x, rate)
            assert len(samples_of(file + bytes(5000))) == len(samples_of(file))
            with pytest.raises(AudioError):
                samples_of(with_bytes(file, len(file) // 2, bytes(len(file) // 4)))


@pytest.mark.parametrize("file", [MP3, BARE_MP3, AAC])
@pytest.mark.parametrize("too_much", [1000, 5000])
def test_a_tag_that_says_it_is_longer_than_it_is_costs_no_sound(file: bytes, too_much: int) -> None:
    tag = id3(500 + too_much)[:510]
    np.testing.assert_array_equal(samples_of(tag + file), samples_of(file))
    check_twice(samples_of(file + tag + file), file)


def test_a_count_of_frames_that_is_too_small_costs_no_samples() -> None:
    """A decoder takes the padding off where the count ends, in the middle."""
    at = next(MP3.index(tag) for tag in (b"Xing", b"Info") if tag in MP3) + 8
    whole = samples_of(MP3)
    (num_frames,) = struct.unpack_from(">I", MP3, at)
    for says in (1, num_frames // 2, num_frames - 1):
        came = samples_of(with_bytes(MP3, at, struct.pack(">I", says)))
        np.testing.assert_allclose(came[: len(whole)], whole, atol=1e-6)


@pytest.mark.parametrize("file", [MP3, BARE_MP3, AAC])
@pytest.mark.parametrize("tag", [id3(60), id3(5000), b"TAG" + bytes(125), ape(300)])
def test_tags_between_the_frames_of_one_stream_leave_it_as_it_is(file: bytes, tag: bytes) -> None:
    """As broadcasts have them every few seconds: a decoder that began anew would lack what came before."""
    frames = frames_of(file)
    places = [0, *frames[20::20], len(file)]
    tagged = tag.join(file[start:end] for start, end in itertools.pairwise(places))
    assert tagged.count(tag) > 1
    np.testing.assert_array_equal(samples_of(tagged), samples_of(file))


def test_what_follows_a_tag_makes_up_for_no_frames_that_are_missing() -> None:
    half = MP3[: frames_of(MP3)[len(frames_of(MP3)) // 2]]
    with pytest.raises(AudioError, match="is cut short"):
        samples_of(half + id3(100) + BARE_MP3)
    with pytest.raises(AudioError, match="is cut short"):
        samples_of(half + id3(100))


def test_an_mp3_in_free_format_is_called_that() -> None:
    """Where a header would say how many bits a second has, there is none."""
    free = bytearray(BARE_MP3)
    for place in frames_of(BARE_MP3):
        free[place + 2] &= 0x0F
    for file in (bytes(free), id3(1000) + bytes(free)):
        with pytest.raises(AudioError, match="is an MP3 in free format"):
            samples_of(file)
