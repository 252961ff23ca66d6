"""Audio in and out: what is written comes back, and every broken file says what is wrong in one line."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.ww_data.made_sounds import RATE, hiss, syllables
from ww_data import AudioError, read_audio, read_mono, resample, write_audio


@pytest.mark.parametrize(
    ("suffix", "subtype"),
    [(".wav", "PCM_16"), (".wav", "PCM_24"), (".wav", "FLOAT"), (".flac", "PCM_16"), (".flac", "PCM_24")],
)
@pytest.mark.parametrize("shape", [(1000,), (1000, 2)])
def test_what_is_written_comes_back(
    tmp_path: Path, suffix: str, subtype: str, shape: tuple[int, ...]
) -> None:
    x = np.random.default_rng(0).uniform(-0.9, 0.9, shape).astype(np.float32)
    write_audio(tmp_path / f"ä b{suffix}", x, 44100, subtype)
    samples, rate = read_audio(tmp_path / f"ä b{suffix}")
    assert rate == 44100
    assert samples.shape == (1000, 1 if len(shape) == 1 else 2)
    step = {"PCM_16": 2**-15, "PCM_24": 2**-23, "FLOAT": 0}[subtype]
    np.testing.assert_allclose(samples.reshape(shape), x, atol=step)
    assert [path.name for path in tmp_path.iterdir()] == [f"ä b{suffix}"]  # no temporary file is left


@pytest.mark.parametrize("suffix", [".mp3", ".ogg"])
def test_lossy_formats_keep_length_and_sound(tmp_path: Path, suffix: str) -> None:
    x = syllables(0, 1.0)
    write_audio(tmp_path / f"x{suffix}", x, RATE, subtype=None)
    y = read_mono(tmp_path / f"x{suffix}")
    assert len(y) == len(x)
    assert np.corrcoef(x, y)[0, 1] > 0.95


def test_uploads_are_read_like_files() -> None:
    buffer = io.BytesIO()
    write_audio(buffer, hiss(0, 0.1), RATE)
    buffer.seek(0)
    samples, rate = read_audio(buffer)
    assert (samples.shape, rate) == ((1600, 1), RATE)
    with pytest.raises(AudioError, match="the given file: cannot be read as audio"):
        read_audio(io.BytesIO(b"no audio at all"))


def test_mono_is_the_mean_of_the_channels(tmp_path: Path) -> None:
    left, right = hiss(0, 0.2), hiss(1, 0.2)
    write_audio(tmp_path / "x.wav", np.stack([left, right], axis=1), RATE, "FLOAT")
    np.testing.assert_allclose(read_mono(tmp_path / "x.wav"), (left + right) / 2, atol=1e-7)


@pytest.mark.parametrize(
    "rates", [(8000, 16000), (22050, 16000), (48000, 16000), (16000, 44100), (47999, 16000), (11127, 16000)]
)
def test_resampling_moves_a_tone_and_keeps_time(rates: tuple[int, int]) -> None:
    from_rate, to_rate = rates
    tone = {rate: np.sin(2 * np.pi * 1000 * np.arange(rate // 2) / rate) for rate in rates}
    y = resample(np.stack([tone[from_rate], -tone[from_rate]]), from_rate, to_rate)
    assert y.shape == (2, -(-(from_rate // 2) * to_rate // from_rate))
    middle = slice(to_rate // 10, to_rate // 10 * 4)
    np.testing.assert_allclose(y[0, middle], tone[to_rate][middle], atol=5e-3)
    np.testing.assert_array_equal(y[0], -y[1])


def test_resampling_down_removes_what_would_alias() -> None:
    tone = np.sin(2 * np.pi * 10000 * np.arange(48000) / 48000)
    for rate in (48000, 47999):
        assert np.abs(resample(tone, rate, 16000)[1000:-1000]).max() < 1e-3


def test_equal_rates_change_nothing() -> None:
    x = hiss(0, 0.1)
    np.testing.assert_array_equal(resample(x, 16000, 16000), x)


def test_peaks_beyond_full_scale_saturate_with_a_warning(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"peaks of 2\.000 saturate"):
        write_audio(tmp_path / "x.wav", np.array([0.5, 2.0, -2.0]), RATE)
    np.testing.assert_allclose(read_mono(tmp_path / "x.wav"), [0.5, 1.0, -1.0], atol=1e-4)


@pytest.mark.parametrize("bad", [np.array([0.0, np.nan]), np.zeros((2, 2, 2)), np.zeros(0)])
def test_what_is_no_audio_is_not_written(tmp_path: Path, bad: np.ndarray) -> None:
    with pytest.raises(AudioError):
        write_audio(tmp_path / "x.wav", bad, RATE)
    assert not list(tmp_path.iterdir())


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_every_broken_file_says_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    for suffix in (".wav", ".flac", ".mp3"):
        write_audio(tmp_path / f"cut{suffix}", hiss(0, 2.0), RATE, subtype=None)
        _truncate(tmp_path / f"cut{suffix}")
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("this is not audio\n" * 50)
    soundfile.write(tmp_path / "header only.wav", np.zeros(0), RATE)
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan]), RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "slow.wav", hiss(0, 0.1), 100)
    (tmp_path / "folder.wav").mkdir()
    expected = {
        "cut.wav": "is cut short",
        "cut.flac": "is cut short",
        "cut.mp3": "is cut short",
        "empty.wav": "is empty",
        "text.wav": "cannot be read as audio",
        "header only.wav": "holds no samples",
        "nan.wav": "NaN or infinite",
        "slow.wav": "sample rate of 100 Hz",
        "folder.wav": "cannot be opened",
        "missing.wav": "cannot be opened",
        "sound.raw": "cannot be opened",
    }
    for name, reason in expected.items():
        with pytest.raises(AudioError) as caught:
            read_mono(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        assert reason in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_wav_of_unknown_length_is_read_to_its_end(tmp_path: Path) -> None:
    """Programs that write to a pipe leave 0xFFFFFFFF as the length."""
    write_audio(tmp_path / "x.wav", hiss(0, 0.1), RATE)
    data = bytearray((tmp_path / "x.wav").read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = b"\xff" * 4
    (tmp_path / "x.wav").write_bytes(data)
    assert len(read_mono(tmp_path / "x.wav")) == 1600


@pytest.mark.usefixtures("bound_by_permissions")
def test_a_file_without_permission_says_so(tmp_path: Path) -> None:
    write_audio(tmp_path / "x.wav", hiss(0, 0.1), RATE)
    (tmp_path / "x.wav").chmod(0)
    with pytest.raises(AudioError, match="Permission denied"):
        read_audio(tmp_path / "x.wav")


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "aiff"])
def test_names_need_not_be_utf_8(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / os.fsdecode(b"m\xfcde." + suffix.encode())
    subtype = None if suffix == "ogg" else "PCM_16"
    write_audio(path, hiss(0, 0.1), RATE, subtype)
    for name in (path, str(path)):
        assert len(read_mono(name)) == 1600
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(AudioError, match="m\N{REPLACEMENT CHARACTER}de"):
        read_audio(path)


def test_importing_the_package_does_not_import_torch() -> None:
    """Each process that reads or mixes imports it, and torch takes seconds and hundreds of megabytes."""
    code = "import sys, ww_data; sys.exit('torch' in sys.modules)"
    root = str(Path(__file__).parents[3])
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": root})


def test_minutes_of_ogg_are_written_whole(tmp_path: Path) -> None:
    """In a process of its own: libsndfile's Vorbis encoder ends the process when it gets all of it at once."""
    script = (
        "import sys, numpy as np; from ww_data import write_audio\n"
        "noise = 0.1 * np.random.default_rng(0).standard_normal((48_000 * 120, 2)).astype(np.float32)\n"
        "write_audio(sys.argv[1], noise, 48_000, subtype=None)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "long.ogg")], timeout=480)
    assert done.returncode == 0
    assert soundfile.info(str(tmp_path / "long.ogg")).frames == 48_000 * 120
