"""Whatever comes in, the same shape comes out, sample beside sample."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.enhancement import (
    FileDenoiser,
    enhance_audio,
    measure_real_time_factor,
    read_recording,
    torch_threads,
    write_recording,
)
from cluster.sound.encoder import stored_subtype
from ww_data import AudioError
from ww_models import Denoiser, GateWave, GateWaveConfig, build_model


class PassThrough(GateWave):
    """A denoiser that returns its input: what is left is what enhance_audio itself does to a signal."""

    latency_samples = 0

    def denoise(self, scaled: torch.Tensor) -> torch.Tensor:
        return scaled


@pytest.fixture(scope="module")
def model() -> Denoiser:
    torch.manual_seed(0)
    return build_model("gatewave", hidden=4, depth=2).eval()


@pytest.fixture(scope="module")
def pass_through() -> Denoiser:
    return PassThrough(GateWaveConfig(hidden=4, depth=2)).eval()


@settings(max_examples=40, deadline=None)
@given(
    num_samples=st.integers(1, 3000),
    num_channels=st.integers(1, 3),
    sample_rate=st.sampled_from([8000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000]),
    strength=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_shape_and_type_are_kept(
    model: Denoiser, num_samples: int, num_channels: int, sample_rate: int, strength: float
) -> None:
    rng = np.random.default_rng(num_samples)
    samples_TC = rng.normal(scale=0.1, size=(num_samples, num_channels)).astype(np.float32)
    before_TC = samples_TC.copy()
    enhanced_TC = enhance_audio(model, samples_TC, sample_rate, strength)
    assert enhanced_TC.shape == samples_TC.shape
    assert enhanced_TC.dtype == np.float32
    assert np.isfinite(enhanced_TC).all()
    assert np.array_equal(samples_TC, before_TC)


@pytest.mark.parametrize("sample_rate", [8000, 16_000, 22_050, 44_100, 48_000])
def test_the_result_is_not_shifted(pass_through: Denoiser, sample_rate: int) -> None:
    t = np.arange(sample_rate) / sample_rate
    chirp_T = 0.3 * np.sin(2 * np.pi * (200 + 1000 * t) * t).astype(np.float32)
    enhanced_T = enhance_audio(pass_through, chirp_T[:, None], sample_rate)[:, 0]
    # A resampling filter rings at the clip's ends; at its beginning what is its offset is found out.
    inner = slice(sample_rate // 5, -sample_rate // 20)
    assert np.abs(enhanced_T - chirp_T)[inner].max() < 2e-3


def test_strength_zero_returns_the_input_itself(model: Denoiser) -> None:
    samples_TC = np.random.default_rng(0).normal(size=(500, 2)).astype(np.float32)
    assert np.array_equal(enhance_audio(model, samples_TC, 44_100, 0.0), samples_TC)


def test_strength_mixes_dry_and_wet(model: Denoiser) -> None:
    samples_TC = np.random.default_rng(1).normal(scale=0.1, size=(4000, 1)).astype(np.float32)
    wet_TC = enhance_audio(model, samples_TC, 48_000, 1.0)
    half_TC = enhance_audio(model, samples_TC, 48_000, 0.5)
    np.testing.assert_allclose(half_TC, (samples_TC + wet_TC) / 2, atol=1e-6)


def test_channels_do_not_hear_each_other(model: Denoiser) -> None:
    samples_TC = np.random.default_rng(2).normal(scale=0.1, size=(4000, 2)).astype(np.float32)
    both_TC = enhance_audio(model, samples_TC, 16_000)
    alone_TC = enhance_audio(model, samples_TC[:, 1:], 16_000)
    np.testing.assert_allclose(both_TC[:, 1:], alone_TC, atol=1e-6)


def test_an_offset_costs_nothing(model: Denoiser) -> None:
    samples_TC = np.random.default_rng(2).normal(scale=0.1, size=(20_000, 2)).astype(np.float32)
    offset_TC = samples_TC + np.float32([0.3, -0.2])
    plain_TC, enhanced_TC = (enhance_audio(model, each, 44_100) for each in (samples_TC, offset_TC))
    np.testing.assert_allclose(enhanced_TC, plain_TC, atol=1e-5)
    dry_TC = 0.5 * plain_TC + 0.5 * offset_TC
    np.testing.assert_allclose(enhance_audio(model, offset_TC, 44_100, 0.5), dry_TC, atol=1e-5)


@pytest.mark.parametrize(
    ("samples", "sample_rate", "strength", "part"),
    [
        (np.zeros(10, np.float32), 16_000, 1.0, "shape"),
        (np.zeros((0, 1), np.float32), 16_000, 1.0, "shape"),
        (np.zeros((10, 1), np.int16), 16_000, 1.0, "int16"),
        (np.full((10, 1), np.nan, np.float32), 16_000, 1.0, "NaN"),
        (np.zeros((10, 1), np.float32), 0, 1.0, "sample_rate"),
        (np.zeros((10, 1), np.float32), 16_000, 1.5, "strength"),
    ],
)
def test_what_is_no_recording_is_refused(
    model: Denoiser, samples: np.ndarray, sample_rate: int, strength: float, part: str
) -> None:
    with pytest.raises(ValueError, match=part) as error:
        enhance_audio(model, samples, sample_rate, strength)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def denoiser(model: Denoiser) -> FileDenoiser:
    return FileDenoiser(model)


@pytest.mark.parametrize("strength", [0.4, 1.0])
@pytest.mark.parametrize(("suffix", "sample_rate", "num_channels"), [("wav", 48_000, 2), ("flac", 16_000, 1)])
def test_a_file_is_what_its_sound_all_at_once_is(
    denoiser: FileDenoiser,
    model: Denoiser,
    tmp_path: Path,
    suffix: str,
    sample_rate: int,
    num_channels: int,
    strength: float,
) -> None:
    samples_TC = np.random.default_rng(4).normal(scale=0.1, size=(3 * sample_rate, num_channels))
    source, target = tmp_path / f"in.{suffix}", tmp_path / "out" / f"in.{suffix}"
    sf.write(source, samples_TC, sample_rate, "PCM_24")
    shares: list[float] = []
    denoiser.enhance(source, target, strength, shares.append)
    found_TC, rate, subtype = read_recording(target)[:3]
    expected_TC = enhance_audio(model, read_recording(source)[0], sample_rate, strength)
    np.testing.assert_allclose(found_TC, expected_TC, atol=1e-5)
    assert (rate, subtype) == (sample_rate, "PCM_24")
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_a_file_without_strength_keeps_its_integers(denoiser: FileDenoiser, tmp_path: Path) -> None:
    integers_TC = np.random.default_rng(5).integers(-32_768, 32_767, (50_000, 2), np.int16)
    sf.write(tmp_path / "in.wav", integers_TC, 44_100)
    denoiser.enhance(tmp_path / "in.wav", tmp_path / "out.wav", 0.0)
    np.testing.assert_array_equal(sf.read(tmp_path / "out.wav", dtype="int16")[0], integers_TC)


def test_a_model_that_needs_the_whole_clip_takes_files_too(tmp_path: Path) -> None:
    torch.manual_seed(1)
    whole = build_model("gatewave", hidden=4, depth=2, causal=False).eval()
    samples_TC = np.random.default_rng(6).normal(scale=0.1, size=(16_000 * 5, 2)).astype(np.float32)
    sf.write(tmp_path / "in.wav", samples_TC, 16_000, "FLOAT")
    FileDenoiser(whole).enhance(tmp_path / "in.wav", tmp_path / "out.wav")
    expected_TC = enhance_audio(whole, samples_TC, 16_000)
    np.testing.assert_allclose(read_recording(tmp_path / "out.wav")[0], expected_TC, atol=1e-5)


def test_what_cannot_be_done_leaves_what_was_there(denoiser: FileDenoiser, tmp_path: Path) -> None:
    sf.write(tmp_path / "whole.wav", np.zeros((40_000, 9)), 16_000)
    (tmp_path / "cut.wav").write_bytes((tmp_path / "whole.wav").read_bytes()[:300_000])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "cut.wav").write_text("an earlier result")
    with pytest.raises(AudioError, match="cut short"):
        denoiser.enhance(tmp_path / "cut.wav", tmp_path / "out" / "cut.wav")
    with pytest.raises(ValueError, match="flac cannot hold 9 channel"):
        denoiser.enhance(tmp_path / "whole.wav", tmp_path / "out" / "wide.flac")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["cut.wav"]
    assert (tmp_path / "out" / "cut.wav").read_text() == "an earlier result"


MEMORY = """
import resource, sys
from pathlib import Path
from cluster.enhancement import FileDenoiser
from ww_models import load_bundle

denoiser, folder, peaks = FileDenoiser(load_bundle(sys.argv[1])), Path(sys.argv[2]), []
for name in ("short.wav", "long.wav"):
    denoiser.enhance(folder / name, folder / "out" / name, 0.5)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print((peaks[1] - peaks[0]) // 1024)
"""


def test_the_memory_it_takes_does_not_grow_with_the_file(bundle: Path, tmp_path: Path) -> None:
    """All samples of the long one are 35 MB."""
    for name, seconds in (("short", 10), ("long", 90)):
        noise_TC = np.random.default_rng(0).integers(-3000, 3000, (48_000 * seconds, 2), np.int16)
        sf.write(tmp_path / f"{name}.wav", noise_TC, 48_000)
    command = [sys.executable, "-c", MEMORY, str(bundle), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 15, f"{done.stdout} MiB more than for 10 s"


def test_resolution_is_kept() -> None:
    assert stored_subtype("PCM_16", "WAV") == "PCM_16"
    assert stored_subtype("MPEG_LAYER_III", "FLAC") == "PCM_16"
    assert stored_subtype("FLOAT", "FLAC") == "PCM_24"
    assert stored_subtype("PCM_24", "OGG") == "VORBIS"


def test_a_recording_is_read_as_it_was_written(tmp_path: Path) -> None:
    samples_TC = np.random.default_rng(3).uniform(-1, 1, size=(500, 2)).astype(np.float32)
    for name in ("a.WAV", "a.flac"):
        write_recording(tmp_path / "new" / name, samples_TC, 44_100, "FLOAT")
        found_TC, sample_rate, subtype, _ = read_recording(tmp_path / "new" / name)
        np.testing.assert_allclose(found_TC, samples_TC, atol=1e-6)
        assert (sample_rate, subtype) == (44_100, "PCM_24")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.WAV", "a.flac"]


def test_loud_sound_is_clipped_never_wrapped(tmp_path: Path) -> None:
    path = tmp_path / "loud.wav"
    write_recording(path, np.array([[1.5], [-1.5], [0.5]], np.float32), 16_000, "PCM_16")
    np.testing.assert_allclose(sf.read(path)[0], [1, -1, 0.5], atol=1e-3)


def test_minutes_of_ogg_are_written_whole(tmp_path: Path) -> None:
    """In one piece they overflow the encoder's stack, which ends the process."""
    samples_TC = np.zeros((48_000 * 100, 1), np.float32)
    write_recording(tmp_path / "long.ogg", samples_TC, 48_000, "PCM_16")
    assert sf.info(tmp_path / "long.ogg").frames == len(samples_TC)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_each_channel_of_an_ogg_stays_its_speaker_s(
    pass_through: Denoiser, tmp_path: Path, strength: float
) -> None:
    levels = np.array([0.1, 0.3, 0.05, 0.2, 0.4, 0.15], np.float32)  # of front left, front right, center, ...
    x_TC = levels * np.sin(np.arange(16_000)[:, None] * 0.05, dtype=np.float32)
    write_recording(tmp_path / "in.ogg", x_TC, 16_000, "PCM_16")
    for name in ("out.wav", "out.ogg"):
        FileDenoiser(pass_through).enhance(tmp_path / "in.ogg", tmp_path / name, strength)
        y_TC, _, _, mask = read_recording(tmp_path / name)
        assert mask == 0x3F
        assert np.argsort(y_TC.std(axis=0)).tolist() == np.argsort(levels).tolist()


def test_a_format_without_room_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="FLAC cannot hold 9 channel"):
        write_recording(tmp_path / "wide.flac", np.zeros((100, 9), np.float32), 16_000, "PCM_16")
    assert not list(tmp_path.iterdir())


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_real_time_factor_is_a_time_per_time(model: Denoiser) -> None:
    assert 0 < measure_real_time_factor(model, clip_s=0.5, repeats=1) < 10
