"""What FFmpeg decodes: the files of phones and browsers, and nothing that anybody could smuggle in."""

from __future__ import annotations

import io
import itertools
import os
import struct
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from tests.ww_data.audio.made_files import by_ffmpeg, by_libsndfile, sound, with_bytes
from ww_data import AudioError, read_audio, write_audio
from ww_data.audio import iter_blocks, open_audio

RATE = 48_000
X = sound(1.0, RATE, 2)


def samples_of(file: bytes) -> np.ndarray:
    samples_TC, rate = read_audio(io.BytesIO(file))
    assert rate == RATE
    return samples_TC


def with_index_in_front(mp4: bytes) -> bytes:
    """As for playing while it comes: moov before mdat, with the places that it tells moved."""
    at = mp4.index(b"moov") - 4
    (size,) = struct.unpack_from(">I", mp4, at)
    moov, start = mp4[at : at + size], mp4.index(b"mdat") - 4
    places = moov.index(b"stco") + 12
    (num_places,) = struct.unpack_from(">I", moov, places - 4)
    moved = [place + size for place in struct.unpack_from(f">{num_places}I", moov, places)]
    moov = with_bytes(moov, places, struct.pack(f">{num_places}I", *moved))
    return mp4[:start] + moov + mp4[start:at] + mp4[at + size :]


@pytest.mark.parametrize(
    ("container", "codec"),
    [
        *(("ipod", "aac"), ("mp4", "aac"), ("mov", "aac"), ("adts", "aac"), ("mp4", "libopus")),
        *(("webm", "libopus"), ("matroska", "libopus"), ("matroska", "libmp3lame"), ("mp3", "libmp3lame")),
        *(("wav", "libmp3lame"), ("mp2", "mp2")),
    ],
)
def test_lossy_sound_is_what_it_was(container: str, codec: str) -> None:
    tone = np.sin(2 * np.pi * 440 / RATE * np.arange(RATE))
    x = (0.3 * np.stack([tone, -tone], axis=1)).astype(np.float32)
    y = samples_of(by_ffmpeg(container, codec, x, RATE))
    assert y.shape[1] == 2
    assert 0 <= len(y) - len(x) < 4000  # what encoders put in front and behind
    energy = float(np.sum(y**2))
    assert energy == pytest.approx(float(np.sum(x**2)), rel=0.15)
    np.testing.assert_allclose(y[8000:40_000, 0], -y[8000:40_000, 1], atol=0.02)


@pytest.mark.parametrize(
    ("container", "codec"),
    [*(("ipod", "alac"), ("mp4", "flac"), ("matroska", "flac"), ("mov", "pcm_s16be"), ("ogg", "flac"))],
)
def test_lossless_sound_is_the_same_bit_for_bit(container: str, codec: str) -> None:
    file = by_ffmpeg(container, codec, X, RATE)
    np.testing.assert_array_equal(samples_of(file), X)
    if codec in ("flac", "pcm_s16be") and container != "ogg":
        with open_audio(io.BytesIO(file)) as opened:
            assert opened.subtype == "PCM_16"
            integers = np.concatenate(list(iter_blocks(opened, "x", "int16")))
        np.testing.assert_array_equal(integers, X * 32768)


@pytest.mark.parametrize(
    ("container", "codec", "picture"), [("webm", "libopus", "libvpx"), ("mp4", "aac", "mpeg4")]
)
def test_of_a_film_the_sound_is_taken(container: str, codec: str, picture: str) -> None:
    alone, film = (by_ffmpeg(container, codec, X, RATE, picture=name) for name in ("", picture))
    np.testing.assert_array_equal(samples_of(film), samples_of(alone))


def test_one_of_several_sound_tracks_is_not_guessed() -> None:
    for container, codec in (("webm", "libopus"), ("mp4", "aac"), ("ogg", "libopus"), ("ogg", "flac")):
        with pytest.raises(AudioError, match="holds 2 sound tracks"):
            samples_of(by_ffmpeg(container, codec, X, RATE, num_tracks=2))


@pytest.mark.parametrize(
    ("container", "codec", "live"),
    [("webm", "libopus", ""), ("webm", "libopus", "1"), ("ipod", "aac", ""), ("matroska", "pcm_u8", "")],
)
def test_what_was_not_recorded_is_silence(container: str, codec: str, live: str) -> None:
    """The clocks of containers go on where a recorder stood still."""
    options = {"live": live} if live else {}
    whole = samples_of(by_ffmpeg(container, codec, X, RATE, **options))
    with_gap = samples_of(by_ffmpeg(container, codec, X, RATE, gap_s=2.0, **options))
    assert len(with_gap) - len(whole) == pytest.approx(2 * RATE, abs=RATE // 500)
    is_silent = np.abs(with_gap).max(axis=1) == 0
    assert RATE * 1.9 < is_silent[RATE // 2 : RATE // 2 + 2 * RATE + 2000].sum() < 2.1 * RATE
    np.testing.assert_array_equal(with_gap[-10_000:], whole[-10_000:])
    with pytest.raises(AudioError, match="holds no sound from 1 s to 3001 s: cut it there"):
        samples_of(by_ffmpeg(container, codec, X, RATE, gap_s=3000.0, **options))


@pytest.mark.parametrize(
    ("container", "codec"), [("webm", "libopus"), ("ipod", "aac"), ("matroska", "pcm_u8")]
)
def test_short_gaps_add_up_to_silence(container: str, codec: str) -> None:
    """Each is less than what becomes silence at once; time would run short by all of them."""
    x = sound(2.0, RATE)
    whole = samples_of(by_ffmpeg(container, codec, x, RATE))
    with_gaps = samples_of(by_ffmpeg(container, codec, x, RATE, gap_s=0.15, num_gaps=20))
    assert 2.8 * RATE < len(with_gaps) - len(whole) < 3.01 * RATE
    heard = with_gaps[np.abs(with_gaps).max(axis=1) > 0]
    np.testing.assert_array_equal(heard, whole[np.abs(whole).max(axis=1) > 0])


def test_a_clock_that_is_rounded_puts_no_silence_in() -> None:
    """Also one that goes ahead by that, all the time."""
    x = sound(10.0, 44_100)
    rounded = by_ffmpeg("matroska", "pcm_s16le", x, 44_100)
    np.testing.assert_array_equal(read_audio(io.BytesIO(rounded))[0], x)
    fast = by_ffmpeg("matroska", "pcm_s16le", x, 44_100, gap_s=0.001, num_gaps=400)
    np.testing.assert_array_equal(read_audio(io.BytesIO(fast))[0], x)


@pytest.mark.parametrize(("duration_s", "gap_s"), [(4.0, 2.0), (25.0, 0.3)])
def test_an_ogg_that_leaves_out_sound_is_not_cut(duration_s: float, gap_s: float) -> None:
    """Also where it is read in several pieces: whoever looks for the next one by its time has some sound twice."""
    with pytest.raises(AudioError, match="leaves out sound"):
        samples_of(by_ffmpeg("ogg", "libopus", sound(duration_s, RATE), RATE, gap_s=gap_s))


@pytest.mark.parametrize("codec", ["aac", "alac", "pcm_s16le"])
def test_an_mp4_that_ends_before_its_clock_does_is_cut(codec: str) -> None:
    """Its sound is said to go to the end of the file, so that its boxes do not tell."""
    file = with_index_in_front(by_ffmpeg("mov", codec, X, RATE))
    at = file.index(b"mdat") - 4
    open_ended = with_bytes(file, at, bytes(4))
    np.testing.assert_array_equal(samples_of(open_ended), samples_of(file))
    with pytest.raises(AudioError, match=r"is cut short|is damaged"):
        samples_of(open_ended[: len(file) * 2 // 3])


def test_g726_in_a_wav_is_read() -> None:
    tone = (0.3 * np.sin(2 * np.pi * 440 / 8000 * np.arange(8000))).astype(np.float32)[:, None]
    came, rate = read_audio(io.BytesIO(by_ffmpeg("wav", "g726", tone, 8000)))
    assert (rate, came.shape) == (8000, tone.shape)
    np.testing.assert_allclose(came[500:-500], tone[500:-500], atol=0.05)


def test_a_live_recorder_says_no_length() -> None:
    """As MediaRecorder writes: no duration, and nothing says where it ends."""
    file = by_ffmpeg("webm", "libopus", X, RATE, live="1")
    assert len(samples_of(file)) == RATE
    assert len(samples_of(file[:-300])) > 0.9 * RATE


@pytest.mark.parametrize(
    "file",
    [
        b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret}\n",
        b"ffconcat version 1.0\nfile '{secret}'\n",
        b"<?xml version='1.0'?><MPD><Period><BaseURL>{secret}</BaseURL></Period></MPD>",
    ],
)
def test_playlists_are_no_sound(file: bytes, tmp_path: Path) -> None:
    secret = tmp_path / "secret.wav"
    secret.write_bytes(by_libsndfile("WAV", X))
    for name in ("a.mp3", "a.wav", "a.webm", "a.mp4"):
        (tmp_path / name).write_bytes(file.replace(b"{secret}", bytes(secret)))
        with pytest.raises(AudioError, match="cannot be read"):
            read_audio(tmp_path / name)


@pytest.mark.parametrize("num_channels", [6, 8])
def test_many_channels_are_each_what_they_were(num_channels: int) -> None:
    """FFmpeg keeps eight of them apart in one place, and more elsewhere."""
    times_T1 = np.arange(RATE)[:, None] / RATE
    x = 0.1 * np.sin(2 * np.pi * (200 + 50 * np.arange(num_channels)) * times_T1).astype(np.float32)
    y = samples_of(by_ffmpeg("matroska", "libopus", x, RATE))
    assert y.shape == x.shape
    for channel in range(num_channels):
        if channel != 3:  # the low frequencies' own
            assert np.corrcoef(x[8000:40_000, channel], y[8000:40_000, channel])[0, 1] > 0.95
    np.testing.assert_array_equal(samples_of(by_ffmpeg("matroska", "pcm_f32le", x, RATE)), x)


@pytest.mark.parametrize("num_channels", [3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_channels_of_an_ogg_have_the_order_of_wav(num_channels: int, subtype: str) -> None:
    """Ogg has an order of its own, which FFmpeg undoes and libsndfile leaves."""
    times_T1 = np.arange(RATE)[:, None] / RATE
    # The low frequencies' own channel has a tone that an encoder leaves there.
    x = 0.1 * np.sin(2 * np.pi * (40 + 50 * np.arange(num_channels)) * times_T1).astype(np.float32)
    file = io.BytesIO()
    write_audio(file, x, RATE, subtype, "OGG")
    with av.open(io.BytesIO(file.getvalue())) as opened:
        frames = itertools.chain.from_iterable(map(av.AudioResampler("flt").resample, opened.decode(audio=0)))
        by_other = np.concatenate([frame.to_ndarray().reshape(-1, num_channels) for frame in frames])
    y = samples_of(file.getvalue())
    for channel in range(num_channels):
        for decoded in (y, by_other):
            own, came = (z[8000:40_000, channel] for z in (x, decoded))
            spectrum = np.abs(np.fft.rfft(came * np.hanning(len(came))))
            assert np.argmax(spectrum) == np.argmax(np.abs(np.fft.rfft(own * np.hanning(len(own)))))


@pytest.mark.parametrize(("mapping", "mask"), [("-1", 0x3F), ("255", 0)])
def test_channels_of_an_opus_may_be_for_no_speakers(mapping: str, mask: int, tmp_path: Path) -> None:
    tones = [200, 300, 400, 50, 600, 700]  # in Hz
    x = 0.1 * np.sin(2 * np.pi * np.array(tones) * np.arange(RATE)[:, None] / RATE).astype(np.float32)
    path = tmp_path / "a.opus"
    path.write_bytes(by_ffmpeg("ogg", "libopus", x, RATE, encoding={"mapping_family": mapping}))
    for source in (path, io.BytesIO(path.read_bytes())):
        with open_audio(source) as opened:
            assert opened.channel_mask == mask
            y = np.concatenate(list(iter_blocks(opened, "x")))
        assert np.abs(np.fft.rfft(y[:RATE], axis=0)).argmax(axis=0).tolist() == tones


def test_what_more_channels_than_two_are_for() -> None:
    x = sound(0.2, RATE, 6)
    made = [
        by_libsndfile("OGG", x, RATE),
        by_ffmpeg("ipod", "aac", x, RATE),
        by_ffmpeg("webm", "libopus", x, RATE),
    ]
    for file in made:
        with open_audio(io.BytesIO(file)) as opened:
            assert opened.channel_mask == 0x3F
    for file in (by_libsndfile("OGG", X, RATE), by_ffmpeg("ipod", "aac", X, RATE)):
        with open_audio(io.BytesIO(file)) as opened:
            assert opened.channel_mask == 0


def test_titles_in_any_alphabet_do_no_harm() -> None:
    """Tags say that they are UTF-8, and are what their writer had."""
    for container, codec in (("ipod", "aac"), ("matroska", "flac"), ("mp3", "libmp3lame")):
        file = by_ffmpeg(container, codec, X, RATE)
        at = file.index(b"Lavf")  # the name of the writer
        assert len(samples_of(with_bytes(file, at, b"L\xe4v\xff"))) == len(samples_of(file))


def test_other_codecs_are_named() -> None:
    with pytest.raises(AudioError, match=r"cannot be read as audio \(.*tta"):
        samples_of(by_ffmpeg("matroska", "tta", X, RATE))


def test_an_mp3_cut_out_of_a_stream_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    path.write_bytes(bytes(300) + by_libsndfile("MP3", X, RATE))
    assert len(read_audio(path)[0]) == RATE


def test_ffmpeg_is_loaded_at_its_first_use() -> None:
    code = "import sys, ww_data; sys.exit('av' in sys.modules)"
    root = str(Path(__file__).parents[3])
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": root})
