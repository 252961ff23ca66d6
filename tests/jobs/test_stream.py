"""`python -m jobs.stream`: a recording through a live endpoint, and a microphone where there is one."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from fastapi import FastAPI

from cluster.enhancement import enhance_audio
from cluster.serving.config import LiveConfig
from cluster.serving.live.stepper import Stepper
from cluster.serving.live.websocket import LiveCalls
from cluster.serving.models import ServedModels
from jobs import stream
from tests.jobs.conftest import Done
from tests.loopback import run_app
from ww_models import load_bundle

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def url(bundle: Path) -> Iterator[str]:
    app, stepper = FastAPI(), Stepper()
    LiveCalls(app, ServedModels([bundle]), stepper, LiveConfig(max_streams=4, stats_interval_s=0.05))
    with run_app(app) as host:
        yield f"ws://{host}"
    stepper.close()


@pytest.fixture
def noisy(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path / "noisy.wav"
    sf.write(path, 0.1 * rng.standard_normal((22_050, 2)), 44_100, subtype="PCM_16")
    return path


def test_a_recording_comes_back_denoised(url: str, bundle: Path, noisy: Path, tmp_path: Path) -> None:
    clean = tmp_path / "clean.wav"
    command = [sys.executable, "-m", "jobs.stream", "--url", url, "--input", noisy, "--output", clean]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=480)
    assert done.returncode == 0, done.stderr
    assert "0.5 s of sound in" in done.stdout
    assert "latency 19.2 ms" in done.stdout
    samples_TC, sample_rate = sf.read(noisy, dtype="float32")
    cleaned_TC, clean_rate = sf.read(clean, dtype="float32")
    assert clean_rate == sample_rate
    expected_TC = enhance_audio(load_bundle(bundle), samples_TC, sample_rate)
    np.testing.assert_allclose(cleaned_TC, expected_TC, atol=1.1 / 32768)


def test_in_real_time_and_without_strength(
    run_job: Callable[..., Done], url: str, noisy: Path, tmp_path: Path
) -> None:
    clean = tmp_path / "clean.flac"
    options = ("--realtime", "--strength", "0")
    assert run_job("stream", "--url", url, "--input", noisy, "--output", clean, *options).code == 0
    np.testing.assert_array_equal(sf.read(clean)[0], sf.read(noisy)[0])


def test_a_result_that_is_cut_off_is_said(run_job: Callable[..., Done], url: str, tmp_path: Path) -> None:
    loud, clean = tmp_path / "loud.wav", tmp_path / "clean.wav"
    sf.write(loud, np.full(8000, 4.0), 16_000, subtype="FLOAT")
    done = run_job("stream", "--url", url, "--input", loud, "--output", clean, "--strength", 0)
    assert done.code == 0
    assert f"note: {loud}: the result peaks 12.0 dB above full scale" in done.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--input", "{noisy}"], "--input and --output go together"),
        (["--input", "{noisy}", "--output", "{folder}/clean.mp3"], "does not end in .wav, .flac, .ogg"),
        (["--input", "{noisy}", "--output", "{noisy}"], "would be overwritten"),
        (["--input", "{noisy}", "--output", "{folder}/no/clean.wav"], "does not exist"),
        (["--input", "{folder}/no.wav", "--output", "{folder}/clean.wav"], "no.wav"),
        (["--input", "{noisy}", "--output", "{folder}/clean.wav", "--strength", "2"], "--strength"),
        (["--input", "{noisy}", "--output", "{folder}/clean.wav", "--max-attenuation", "-1"], "at least 0"),
        (["--input", "{noisy}", "--output", "{folder}/clean.wav", "--model", "nobody"], "nobody"),
        (["--input", "{noisy}", "--output", "{folder}/clean.wav", "--url", "host"], "no address"),
        (["--input", "{noisy}", "--output", "{folder}/clean.wav", "--url", "ws://127.0.0.1:9"], "connect"),
    ],
)
def test_wrong_use_is_one_line_and_writes_nothing(
    run_job: Callable[..., Done], url: str, noisy: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    filled = [argument.format(noisy=noisy, folder=tmp_path) for argument in arguments]
    done = run_job("stream", "--url", url, *filled)
    assert done.code == 2
    assert words in done.error
    assert list(tmp_path.iterdir()) == [noisy]


def test_a_rate_that_live_calls_do_not_take_is_refused_with_the_way_over_http(
    run_job: Callable[..., Done], url: str, tmp_path: Path
) -> None:
    for rate in (44_111, 4000):
        sf.write(tmp_path / "odd.wav", np.zeros(1000), rate)
        files = ("--input", tmp_path / "odd.wav", "--output", tmp_path / "clean.wav")
        said = run_job("stream", "--url", f"{url}/", *files).error
        assert f"'{rate}'" in said or f"{rate} Hz" in said
        http_url = url.replace("ws://", "http://") + "/v1/audio/denoise"
        assert f"curl -F file=@{tmp_path}/odd.wav -o {tmp_path}/clean.wav {http_url}" in said
    assert "/v1/audio/denoise" in stream.parser().format_help()


class FakeDevice:
    """Stands in for the package sounddevice: a microphone that hums, headphones that remember."""

    PortAudioError = OSError

    def __init__(self) -> None:
        self.heard: list[np.ndarray] = []

    def module(self) -> types.SimpleNamespace:
        return types.SimpleNamespace(
            PortAudioError=OSError,
            check_input_settings=lambda: None,
            check_output_settings=lambda: None,
            InputStream=self.input_stream,
            OutputStream=lambda **_: self,
        )

    def input_stream(self, *, callback: object, blocksize: int, **_: object) -> FakeDevice:
        for number in range(30):
            callback(np.full((blocksize, 1), 0.01 * number, np.float32))  # type: ignore[operator]
        return self

    def __enter__(self) -> FakeDevice:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def write(self, samples: np.ndarray) -> None:
        self.heard.append(samples.copy())
        if sum(map(len, self.heard)) > 20 * 256:
            raise KeyboardInterrupt


def test_the_microphone_is_heard_in_the_headphones(
    run_job: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    device = FakeDevice()
    monkeypatch.setitem(sys.modules, "sounddevice", device.module())
    assert run_job("stream", "--url", url, "--strength", 0).code == 0
    heard = np.concatenate(device.heard)
    np.testing.assert_allclose(heard, 0.01 * (np.arange(len(heard)) // 256), atol=1e-4)


def test_without_a_sound_device_it_says_what_to_do(
    run_job: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    done = run_job("stream", "--url", url)
    assert done.code == 2
    assert "--input and --output" in done.error
