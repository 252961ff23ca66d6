"""All frames of a FLAC, whatever its header says of them; or the reason why not."""

from __future__ import annotations

import io
import itertools
import re
import struct
from collections.abc import Callable

import av
import numpy as np
import pytest

from tests.ww_data.audio.made_files import by_ffmpeg, by_libsndfile, id3, sound, with_bytes, without_length
from ww_data import AudioError, read_audio
from ww_data.audio import iter_blocks, open_audio

FRAME_SAMPLES = 4096
X = sound(4.0)
FLAC = by_libsndfile("FLAC", X)


def frames_of(flac: bytes) -> list[int]:
    """Where they begin. Their numbers, in one byte while they are so few, tell them from what looks alike."""
    places: list[int] = []
    for match in re.finditer(rb"\xff\xf8", flac):
        if flac[match.start() + 4] == len(places):
            places.append(match.start())
    return places


FRAMES = frames_of(FLAC)
LAST = X[: FRAME_SAMPLES * (len(FRAMES) - 1)]
either = pytest.mark.parametrize("with_length", [lambda flac: flac, without_length], ids=["known", "unknown"])
Change = Callable[[bytes], bytes]


def samples_of(file: bytes) -> np.ndarray:
    return read_audio(io.BytesIO(file))[0]


def reason(file: bytes) -> str:
    with pytest.raises(AudioError) as caught:
        read_audio(io.BytesIO(file))
    return str(caught.value)


def stating(flac: bytes, num_samples: int) -> bytes:
    return with_bytes(flac, 22, struct.pack(">I", num_samples))


def with_one_block(flac: bytes) -> bytes:
    """Nothing in the header but what the stream is."""
    return flac[:4] + b"\x80" + flac[5:42] + flac[frames_of(flac)[0] :]


def crc(data: bytes, polynomial: int, num_bits: int) -> bytes:
    value = 0
    for byte in data:
        value ^= byte << num_bits - 8
        for _ in range(8):
            value = value << 1 ^ (polynomial if value >> num_bits - 1 else 0)
    return value.to_bytes(num_bits // 8, "big")


def numbered_by_samples(flac: bytes) -> bytes:
    """As encoders do whose frames have several lengths."""
    places = frames_of(flac)
    file = flac[: places[0]]
    for n, (start, end) in enumerate(itertools.pairwise([*places, len(flac)])):
        sample = n * FRAME_SAMPLES
        number = bytes([0xF0 | sample >> 18, *(0x80 | sample >> shift & 0x3F for shift in (12, 6, 0))])
        num_more = 2 if flac[start + 2] >> 4 == 7 else 1 if flac[start + 2] >> 4 == 6 else 0
        head = b"\xff\xf9" + flac[start + 2 : start + 4] + number + flac[start + 5 : start + 5 + num_more]
        frame = head + crc(head, 0x107, 8) + flac[start + 6 + num_more : end - 2]
        file += frame + crc(frame, 0x18005, 16)
    return file


def test_the_made_file_is_what_the_tests_take_it_for() -> None:
    assert len(FRAMES) == -(-len(X) // FRAME_SAMPLES)


@pytest.mark.parametrize("num_samples", [1, len(X) // 2, len(X) - 3000, len(X) - 1, len(X) + 100])
def test_a_wrong_length_in_the_header_changes_nothing(num_samples: int) -> None:
    file = stating(FLAC, num_samples)
    np.testing.assert_array_equal(samples_of(file), X)
    with open_audio(io.BytesIO(file)) as opened:
        assert opened.num_frames == len(X)


def test_far_more_in_the_header_than_there_is_was_cut() -> None:
    assert f"is cut short ({len(X)} of {2 * len(X)} samples" in reason(stating(FLAC, 2 * len(X)))
    assert "is cut short" in reason(FLAC[: FRAMES[9]])
    assert "is cut short" in reason(FLAC[:-1])
    half = len(FLAC) // 2  # of which the rest was never fetched
    assert "is cut short" in reason(FLAC[:half] + bytes(half))


def test_joined_streams_need_no_block_but_the_first() -> None:
    bare = with_one_block(FLAC)
    for between in (b"", id3(20_000)):
        for second in (bare, without_length(bare), stating(bare, 1000)):
            np.testing.assert_array_equal(samples_of(FLAC + between + second), np.concatenate([X, X]))


@either
@pytest.mark.parametrize("num_missing", [1, 2, 5])
def test_missing_frames_are_damage(with_length: Change, num_missing: int) -> None:
    hole = FLAC[: FRAMES[5]] + FLAC[FRAMES[5 + num_missing] :]
    assert f"what should follow its first {FRAMES[5]} bytes" in reason(with_length(hole))
    within = FLAC[: FRAMES[5] - 700] + FLAC[FRAMES[5 + num_missing] - 700 :]
    assert "is damaged" in reason(with_length(within))
    before_last = FLAC[: FRAMES[5]] + FLAC[FRAMES[-1] :]
    assert "is damaged" in reason(with_length(before_last))


@either
def test_frames_numbered_by_their_samples_are_held_to_that(with_length: Change) -> None:
    file = numbered_by_samples(FLAC)
    np.testing.assert_array_equal(samples_of(with_length(file)), X)
    places = [match.start() for match in re.finditer(rb"\xff\xf9[\x10-\xff][\x00-\xaf][\xf0-\xf4]", file)]
    assert len(places) == len(FRAMES)
    assert "is damaged" in reason(with_length(file[: places[5]] + file[places[6] :]))


@either
def test_frames_that_begin_anew_without_a_header_are_damage(with_length: Change) -> None:
    assert "is damaged" in reason(with_length(FLAC + FLAC[FRAMES[0] :]))


@either
@pytest.mark.parametrize("num_bits", [16, 32])  # for which there are two decoders
def test_a_frame_with_other_bytes_is_damage(with_length: Change, num_bits: int) -> None:
    more = {"strict": "experimental"}
    file = FLAC if num_bits == 16 else by_ffmpeg("flac", "flac", X, encoding=more, sample_format="s32")
    assert len(samples_of(with_length(file))) == len(X)
    assert "a part of its sound is damaged" in reason(with_length(with_bytes(file, len(file) // 2, b"abcd")))


def test_a_recorder_that_was_stopped_within_a_frame_loses_that_one() -> None:
    for num_bytes in (100, 3000):
        np.testing.assert_array_equal(samples_of(without_length(FLAC[: FRAMES[-1] + num_bytes])), LAST)
    np.testing.assert_array_equal(samples_of(without_length(FLAC[: FRAMES[-1] + 3])), LAST)
    assert "is cut short" in reason(without_length(FLAC[: FRAMES[0] + 1000]))


@either
def test_what_follows_is_a_tag_or_refused(with_length: Change) -> None:
    for tag in (b"TAG" + bytes(125), id3(20_000), b"APETAGEX" + b"x" * 30_000, bytes(9000)):
        np.testing.assert_array_equal(samples_of(with_length(FLAC) + tag), X)
    for num_samples in (500, 16_000):
        assert "is longer than it says" in reason(with_length(FLAC) + by_libsndfile("WAV", X[:num_samples]))


@either
def test_frames_cut_out_of_a_longer_stream_are_read(with_length: Change) -> None:
    """With the numbers and the header of the whole, as `-codec copy` leaves them."""
    copy = io.BytesIO()
    with av.open(io.BytesIO(FLAC)) as whole, av.open(copy, "w", format="flac") as out:
        track = out.add_stream_from_template(whole.streams.audio[0])
        for packet in list(whole.demux())[3:8]:
            out.mux(packet)
    assert track
    expected = X[3 * FRAME_SAMPLES : 8 * FRAME_SAMPLES]
    file = with_length(copy.getvalue())
    np.testing.assert_array_equal(samples_of(file), expected)
    with open_audio(io.BytesIO(file)) as opened:
        rest = np.concatenate(list(iter_blocks(opened, "x", start=9_000)))
    np.testing.assert_array_equal(rest, expected[9_000:])


@pytest.mark.parametrize("rate", [8000, 11_025, 44_100, 96_000, 192_000])
@pytest.mark.parametrize("num_channels", [1, 2, 6])
@pytest.mark.parametrize("subtype", ["PCM_S8", "PCM_16", "PCM_24"])
def test_frames_of_all_shapes_are_counted(rate: int, num_channels: int, subtype: str) -> None:
    x = sound(0.5, rate, num_channels)
    file = by_libsndfile("FLAC", x, rate, subtype)
    np.testing.assert_array_equal(samples_of(without_length(file)), samples_of(file))
    assert len(samples_of(file)) == len(x)
    assert len(samples_of(by_ffmpeg("flac", "flac", x, rate))) == len(x)
