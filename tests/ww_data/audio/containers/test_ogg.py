"""The pages of an Ogg, and the times that they tell."""

from __future__ import annotations

import io
import itertools
import struct

import numpy as np
import pytest

from tests.ww_data.audio.made_files import by_ffmpeg, by_libsndfile, sound, with_bytes
from ww_data import AudioError, read_audio

RATE = 48_000
X = sound(4.0, RATE)
OGGS = {subtype: by_libsndfile("OGG", X, RATE, subtype) for subtype in ("VORBIS", "OPUS")}
each = pytest.mark.parametrize("ogg", OGGS.values(), ids=OGGS.keys())


def pages_of(ogg: bytes) -> list[bytes]:
    places = [place for place in range(len(ogg)) if ogg[place : place + 4] == b"OggS"]
    return [ogg[start:end] for start, end in itertools.pairwise([*places, len(ogg)])]


def time_of(page: bytes) -> int:
    return struct.unpack_from("<q", page, 6)[0]


def with_checksum(page: bytes) -> bytes:
    page = page[:22] + bytes(4) + page[26:]
    crc = 0
    for byte in page:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ (0x04C11DB7 if crc >> 31 else 0)) & 0xFFFFFFFF
    return page[:22] + struct.pack("<I", crc) + page[26:]


def at_time(page: bytes, time: int) -> bytes:
    """A page that says it ends at another time."""
    return with_checksum(with_bytes(page, 6, struct.pack("<q", time)))


def stating_rate(opus: bytes, rate: int) -> bytes:
    first, *pages = pages_of(opus)
    first = with_bytes(first, first.index(b"OpusHead") + 12, struct.pack("<I", rate))
    return b"".join([with_checksum(first), *pages])


def samples_of(file: bytes) -> np.ndarray:
    return read_audio(io.BytesIO(file))[0]


@each
def test_the_last_page_may_end_within_itself(ogg: bytes) -> None:
    *pages, last = pages_of(ogg)
    shorter = samples_of(b"".join(pages) + at_time(last, time_of(last) - 1000))
    np.testing.assert_allclose(shorter, samples_of(ogg)[:-1000], atol=1e-4)


@each
def test_a_last_page_that_ends_before_the_one_before_is_damage(ogg: bytes) -> None:
    """Decoders would leave out all that lies behind its time."""
    *pages, last = pages_of(ogg)
    for time in (0, -1, time_of(last) // 2, time_of(pages[-1]) - 1):
        for behind in (b"", b"TAG" + bytes(125), ogg):
            with pytest.raises(AudioError, match="is damaged"):
                samples_of(b"".join(pages) + at_time(last, time) + behind)


def test_a_clock_that_does_not_begin_at_zero_loses_nothing() -> None:
    pages = pages_of(OGGS["VORBIS"])
    late = [at_time(page, time_of(page) + 10 * RATE) if time_of(page) > 0 else page for page in pages]
    np.testing.assert_array_equal(samples_of(b"".join(late)), samples_of(OGGS["VORBIS"]))


def test_a_clock_that_begins_before_zero_loses_nothing() -> None:
    """A Vorbis that was cut without being encoded again; decoders would stop too early by what lies before 0."""
    ogg = OGGS["VORBIS"]
    pages = pages_of(ogg)
    first = next(place for place, page in enumerate(pages) if time_of(page) > 0)
    for before in (1, 2000, time_of(pages[first])):
        early = [at_time(page, time_of(page) - before) if time_of(page) > 0 else page for page in pages]
        given, whole = samples_of(b"".join(early)), samples_of(ogg)
        assert abs(len(given) - len(whole)) <= 1
        np.testing.assert_allclose(given[: len(whole)][:-64], whole[: len(given)][:-64], atol=1e-3)


@pytest.mark.parametrize(
    "ogg", [*OGGS.values(), by_ffmpeg("ogg", "flac", X, RATE)], ids=[*OGGS.keys(), "FLAC"]
)
def test_one_bit_that_is_another_is_damage(ogg: bytes) -> None:
    """Decoders leave out the page, and not all of them say so."""
    middle = len(ogg) // 2
    for place in (ogg.index(b"OggS", 1) + 6, middle, middle + 1000, ogg.rindex(b"OggS") + 22, len(ogg) - 1):
        with pytest.raises(AudioError, match="is damaged"):
            samples_of(with_bytes(ogg, place, bytes([ogg[place] ^ 0x10])))


@pytest.mark.parametrize("stated", [0, 8000, 16_000, 24_000, 44_100])
def test_an_opus_loses_nothing_whatever_rate_it_states(stated: int) -> None:
    opus = stating_rate(OGGS["OPUS"], stated)
    for file in (opus, opus * 2):
        samples_TC, rate = read_audio(io.BytesIO(file))
        assert rate == RATE
        np.testing.assert_array_equal(samples_TC[: len(X)], samples_of(OGGS["OPUS"]))


@pytest.mark.parametrize("rate", [8000, 16_000, 24_000])
def test_an_opus_that_holds_no_more_than_it_states_has_that_rate(rate: int) -> None:
    opus = by_libsndfile("OGG", sound(2.0, rate), rate, "OPUS")
    assert read_audio(io.BytesIO(opus))[1] == rate
    assert read_audio(io.BytesIO(stating_rate(opus, 0)))[1] == RATE
