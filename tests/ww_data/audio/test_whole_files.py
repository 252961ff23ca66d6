"""All of the sound in a file, however it was joined, tagged or left open; or the reason why not."""

from __future__ import annotations

import io
import itertools
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.ww_data.audio.made_files import (
    by_ffmpeg,
    by_libsndfile,
    id3,
    sound,
    with_bytes,
    with_size,
    without_length,
)
from tests.ww_data.made_sounds import RATE
from ww_data import AudioError, read_audio
from ww_data.audio import iter_blocks, open_audio
from ww_data.scan.files import Recording
from ww_data.scan.inspection import inspect

X = sound(1.0)
FLAC = by_libsndfile("FLAC", X)
EXACT = {kind: by_libsndfile(kind, X) for kind in ("WAV", "AIFF", "CAF", "W64", "AU", "RF64", "FLAC")}
W64_DATA = b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"
AIFF_WITHOUT_FRAMES = with_bytes(EXACT["AIFF"], EXACT["AIFF"].index(b"COMM") + 10, bytes(4))
UNCLOSED = {
    "wav 0": with_bytes(with_size(EXACT["WAV"], b"data", bytes(4)), 4, bytes(4)),
    "wav data 0": with_size(EXACT["WAV"], b"data", bytes(4)),
    "wav -1": with_size(EXACT["WAV"], b"data", b"\xff" * 4),
    "rf64 0": with_size(EXACT["RF64"], b"ds64", struct.pack("<I", 28) + bytes(24)),
    "aiff 0": with_size(AIFF_WITHOUT_FRAMES, b"SSND", bytes(4)),
    "aiff 8": with_size(AIFF_WITHOUT_FRAMES, b"SSND", struct.pack(">I", 8)),
    "caf 0": with_size(EXACT["CAF"], b"data", bytes(8)),
    "caf -1": with_size(EXACT["CAF"], b"data", b"\xff" * 8),
    "w64 24": with_size(EXACT["W64"], W64_DATA, struct.pack("<Q", 24)),
    "au 0": with_bytes(EXACT["AU"], 8, bytes(4)),
    "au -1": with_bytes(EXACT["AU"], 8, b"\xff" * 4),
    "flac": without_length(FLAC),
}


def samples_of(file: bytes) -> np.ndarray:
    return read_audio(io.BytesIO(file))[0]


def reason(file: bytes) -> str:
    with pytest.raises(AudioError) as caught:
        read_audio(io.BytesIO(file))
    assert "\n" not in str(caught.value)
    assert "0x" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", EXACT)
def test_files_joined_to_one_are_read_to_the_last(kind: str) -> None:
    others = [by_libsndfile(kind, sound(0.5, seed=seed)) for seed in (1, 2)]
    expected = np.concatenate([X, sound(0.5, seed=1), sound(0.5, seed=2)])
    np.testing.assert_array_equal(samples_of(EXACT[kind] + others[0] + others[1]), expected)


@pytest.mark.parametrize("name", UNCLOSED)
def test_a_file_that_was_never_closed_goes_to_its_end(name: str) -> None:
    np.testing.assert_array_equal(samples_of(UNCLOSED[name]), X)


@pytest.mark.parametrize("kind", EXACT)
def test_a_tag_in_front_is_no_sound(kind: str) -> None:
    np.testing.assert_array_equal(samples_of(id3(300) + EXACT[kind]), X)
    sloppy = with_bytes(id3(300), 9, bytes([300 % 128 - 1]))  # it is longer than it says
    np.testing.assert_array_equal(samples_of(sloppy + EXACT[kind]), X)


def test_joined_flac_without_lengths_and_with_tags_between() -> None:
    twice = np.concatenate([X, X])
    np.testing.assert_array_equal(samples_of(without_length(FLAC) * 2), twice)
    np.testing.assert_array_equal(samples_of(FLAC + id3(5000) + FLAC), twice)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_chained_ogg_is_each_stream_after_the_other(subtype: str) -> None:
    streams = [by_libsndfile("OGG", sound(1.0, seed=seed), subtype=subtype) for seed in (0, 1)]
    expected = np.concatenate([samples_of(stream) for stream in streams])
    assert len(expected) == 2 * RATE
    np.testing.assert_array_equal(samples_of(streams[0] + streams[1]), expected)


@pytest.mark.parametrize("between", [b"", b"TAG" + bytes(125), id3(20_000)])
def test_joined_mp3_is_as_long_as_its_parts(between: bytes) -> None:
    mp3 = by_libsndfile("MP3", X)
    joined = samples_of(mp3 + between + id3(100) + mp3)
    alone = samples_of(mp3)
    assert len(alone) == RATE
    np.testing.assert_allclose(joined, np.concatenate([alone, alone]), atol=1e-6)


def test_the_length_of_an_mp3_is_what_decoding_gives() -> None:
    """Without a header that says it, a loud beginning at many bits makes it look short."""
    x = np.concatenate([sound(2.0, 44_100), np.zeros((8 * 44_100, 1), np.float32)])
    mp3 = by_ffmpeg("mp3", "libmp3lame", x, 44_100, write_xing="0", id3v2_version="0")
    quick = mp3[: len(mp3) // 2]  # whole frames and a part of one
    assert len(samples_of(mp3)) == pytest.approx(len(x), abs=3000)
    assert len(samples_of(quick * 2)) == pytest.approx(2 * len(samples_of(quick)), abs=3000)


@pytest.mark.parametrize(
    ("container", "codec"), [("ipod", "aac"), ("adts", "aac"), ("webm", "libopus"), ("matroska", "flac")]
)
def test_joined_files_of_phones_and_browsers(container: str, codec: str) -> None:
    file = by_ffmpeg(container, codec, sound(1.0, 48_000), 48_000)
    alone, joined = samples_of(file), samples_of(file * 2)
    assert len(alone) == pytest.approx(
        48_000, abs=1500
    )  # AAC without a container keeps what its encoder put in front
    assert len(joined) == 2 * len(alone)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (FLAC, by_libsndfile("FLAC", X, 22_050)),
        (by_libsndfile("OGG", X), by_libsndfile("OGG", X, 8000)),
        (by_libsndfile("OGG", X), by_libsndfile("OGG", sound(1.0, num_channels=2))),
        (by_libsndfile("MP3", X), by_libsndfile("MP3", sound(1.0, num_channels=2))),
    ],
)
def test_what_goes_on_at_another_rate_or_width_is_refused(first: bytes, second: bytes) -> None:
    assert "goes on with" in reason(first + second)


@pytest.mark.parametrize("kind", ["WAV", "AIFF", "CAF", "W64", "AU", "RF64"])
def test_a_header_is_held_against_what_is_there(kind: str) -> None:
    file = EXACT[kind]
    assert "is cut short" in reason(file[:-4000])
    assert "is longer than it says" in reason(file + np.random.default_rng(0).bytes(4000))
    np.testing.assert_array_equal(samples_of(file + bytes(4000)), X)  # filled up
    np.testing.assert_array_equal(samples_of(file + b"TAG" + b"x" * 125), X)


@pytest.mark.parametrize("kind", ["WAV", "AIFF", "CAF", "W64", "AU", "RF64", "FLAC", "OGG", "MP3"])
def test_a_hundredth_of_a_long_file_is_missed(kind: str) -> None:
    file = by_libsndfile(kind, sound(60.0))
    assert "is cut short" in reason(file[: len(file) * 991 // 1000])


@pytest.mark.parametrize(("container", "codec"), [("mp3", "libmp3lame"), ("adts", "aac")])
def test_a_hole_in_frames_is_damage_though_it_is_a_hundredth(container: str, codec: str) -> None:
    options = {"write_xing": "0"} if container == "mp3" else {}  # or it would say how many frames there were
    file = by_ffmpeg(container, codec, sound(60.0, 48_000), 48_000, **options)
    hole = len(file) * 8 // 1000
    assert "is damaged" in reason(with_bytes(file, len(file) // 2, bytes(hole)))


@pytest.mark.parametrize("kind", ["WAV", "AIFF", "CAF", "W64", "AU", "RF64"])
def test_sound_behind_the_end_is_no_tag_for_looking_like_letters(kind: str) -> None:
    sound_like_letters = b"wxyz" + np.random.default_rng(0).bytes(4000)
    assert "is longer than it says" in reason(EXACT[kind] + sound_like_letters)


def test_a_tag_behind_the_end_that_was_cut_costs_no_sound() -> None:
    picture = b"LIST" + struct.pack("<I", 100_000) + b"INFO" + b"x" * 9_996
    np.testing.assert_array_equal(samples_of(EXACT["WAV"] + picture), X)
    ape = b"APETAGEX" + struct.pack("<I", 2000) + b"x" * 9_996
    np.testing.assert_array_equal(samples_of(EXACT["WAV"] + ape), X)


def test_an_ogg_that_ends_too_early_is_cut() -> None:
    assert "is cut short" in reason(by_libsndfile("OGG", X)[:-500])


def pages_of(ogg: bytes) -> list[bytes]:
    places = [place for place in range(len(ogg)) if ogg[place : place + 4] == b"OggS"]
    return [ogg[start:end] for start, end in itertools.pairwise([*places, len(ogg)])]


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_an_ogg_with_a_hole_is_damaged(subtype: str) -> None:
    """Decoders fall silent for good, or for as long, and say nothing."""
    ogg = by_libsndfile("OGG", sound(20.0), subtype=subtype)
    pages = pages_of(ogg)
    assert "is damaged" in reason(b"".join(pages[:6] + pages[8:]))
    middle = len(b"".join(pages[:6]))
    assert "is damaged" in reason(with_bytes(ogg, middle, bytes(3000)))
    late = samples_of(b"".join(pages[:2] + pages[4:]))  # who listens to a station comes late
    assert 15 * RATE < len(late) < 20 * RATE


@pytest.mark.parametrize("live", ["", "1"])
def test_a_webm_with_a_hole_is_damaged(live: str) -> None:
    options = {"live": live} if live else {}
    webm = by_ffmpeg("webm", "libopus", sound(2.0, 48_000), 48_000, **options)
    assert "is damaged" in reason(with_bytes(webm, 8000, bytes(3000)))


@pytest.mark.parametrize("first", ["WAV", "AIFF", "FLAC", "OGG", "MP3", "m4a", "webm"])
@pytest.mark.parametrize("second", ["WAV", "FLAC", "OGG", "MP3"])
def test_files_of_two_kinds_in_one_are_refused(first: str, second: str) -> None:
    made = {
        "m4a": lambda: by_ffmpeg("ipod", "aac", X),
        "webm": lambda: by_ffmpeg("webm", "libopus", sound(1.0, 48_000), 48_000),
    }
    begin = made.get(first, lambda: by_libsndfile(first, X))()
    if first != second and (first, second) != ("AIFF", "WAV"):  # which are read alike
        reason(begin + by_libsndfile(second, sound(5.0)))


@pytest.mark.parametrize("picture", ["", "libvpx"])
def test_a_webm_that_ends_too_early_is_cut(picture: str) -> None:
    file = by_ffmpeg("webm", "libopus", sound(1.0, 48_000), 48_000, picture=picture)
    assert "is cut short" in reason(file[:-1000])


IN_PIECES = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "frag_duration": "200000"}


def test_an_mp4_that_ends_too_early_is_cut() -> None:
    file = by_ffmpeg("mp4", "aac", sound(2.0, 48_000), 48_000, **IN_PIECES)
    assert len(samples_of(file)) == pytest.approx(2 * 48_000, abs=3000)
    assert "is cut short" in reason(file[:-1000])
    assert "is cut short" in reason(by_ffmpeg("ipod", "aac", X)[:-300])


@pytest.mark.parametrize("picture", ["", "mpeg4"])
def test_fragments_of_an_mp4_in_another_order_are_damage(picture: str) -> None:
    file = by_ffmpeg("mp4", "aac", sound(2.0, 48_000), 48_000, picture=picture, **IN_PIECES)
    places = [place - 4 for place in range(len(file)) if file[place : place + 4] == b"moof"]
    assert len(places) > 5
    assert len(samples_of(file)) == pytest.approx(2 * 48_000, abs=3000)
    first, second, third = places[2:5]
    swapped = file[:first] + file[second:third] + file[first:second] + file[third:]
    assert f"what should follow its first {first + third - second} bytes does not" in reason(swapped)


def test_chunks_before_and_after_the_sound_are_none() -> None:
    picture = b"LIST" + struct.pack("<I", 100_000) + b"INFO" + b"x" * 99_996
    wav = by_libsndfile("WAV", X)
    np.testing.assert_array_equal(samples_of(wav + picture), X)
    np.testing.assert_array_equal(samples_of(wav[:36] + picture + wav[36:]), X)
    eight_bits = by_libsndfile("WAV", X[:-1], subtype="PCM_U8")
    at = eight_bits.index(b"data") + 8 + len(X) - 1
    assert len(samples_of(eight_bits[:at] + picture)) == len(X) - 1  # not filled up to an even length
    assert "holds no samples" in reason(wav[:40] + bytes(4) + picture)


def test_the_scan_and_the_reader_agree(tmp_path: Path) -> None:
    for name, file, seconds in (
        ("a.flac", FLAC * 3, 3),
        ("b.wav", UNCLOSED["wav 0"], 1),
        ("c.wav", id3(9) + EXACT["WAV"], 1),
    ):
        path = tmp_path / name
        path.write_bytes(file)
        clip = inspect(Recording(path=str(path), name=name, role="noise"))
        assert (clip.skip_reason, clip.seconds) == ("", seconds)
        assert len(read_audio(path)[0]) == seconds * RATE


@pytest.mark.parametrize("kind", ["WAV", "RF64"])
def test_the_channel_mask_is_read(kind: str) -> None:
    file = by_libsndfile("WAVEX" if kind == "WAV" else kind, sound(0.1, num_channels=4))
    at = file.index(b"\xfe\xff\x04\0") + 20
    with open_audio(io.BytesIO(with_bytes(file, at, struct.pack("<I", 0x107)))) as opened:
        assert opened.channel_mask == 0x107
    with open_audio(io.BytesIO(by_libsndfile("FLAC", sound(0.1, num_channels=6)))) as opened:
        assert opened.channel_mask == 0x3F


def test_a_stretch_begins_where_it_should() -> None:
    for file in (EXACT["WAV"], FLAC, FLAC * 2, by_libsndfile("MP3", X)):
        whole = samples_of(file)
        with open_audio(io.BytesIO(file)) as opened:
            rest = np.concatenate(list(iter_blocks(opened, "x", start=9_000)))
        np.testing.assert_array_equal(rest, whole[9_000:])


@pytest.mark.parametrize("subtype", ["IMA_ADPCM", "MS_ADPCM", "GSM610"])
def test_what_fills_up_the_last_block_is_no_sound(subtype: str) -> None:
    """A WAV in blocks states how much of them is sound; where that cannot be, they are taken whole."""
    x_TC = sound(1.0, rate=8000)[:5051, :1]
    file = by_libsndfile("WAV", x_TC, 8000, subtype)
    at = file.index(b"fact") + 8
    whole = samples_of(with_bytes(file, at, struct.pack("<I", 0)))
    for stated in (5051, 5100):
        given = samples_of(with_bytes(file, at, struct.pack("<I", stated)))
        np.testing.assert_array_equal(given, whole[:stated])
    assert 5051 < len(whole) < 5051 + 600
    for wrong in (1, 100_000):
        assert len(samples_of(with_bytes(file, at, struct.pack("<I", wrong)))) == len(whole)


def test_integers_of_any_width_come_through() -> None:
    for kind in ("WAV", "AIFF", "CAF", "W64", "AU", "FLAC"):
        for subtype in ("PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ALAW"):
            if soundfile.check_format(kind, subtype):
                file = by_libsndfile(kind, X, subtype=subtype)
                expected, _ = soundfile.read(io.BytesIO(file), dtype="float32", always_2d=True)
                np.testing.assert_array_equal(samples_of(file), expected)
