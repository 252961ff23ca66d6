"""What tests share: a small Ray, a small corpus, a tiny bundle, and named skips that become failures in CI."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import hypothesis
import numpy as np
import pytest
import soundfile as sf

# Set before anything imports torch or Ray: tests run beside each other on few cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("CLEARML_LOG_LEVEL", "ERROR")
# How often Ray Train looks after its workers: reports wait for that, and tests make many.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
# Of the S3 server that tests start: Ray's workers inherit them.
os.environ.setdefault("AWS_ACCESS_KEY_ID", "test")
os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "test")

# A busy machine is no failure.
hypothesis.settings.register_profile("wave-wizard", deadline=None)
hypothesis.settings.load_profile("wave-wizard")

# A shell's command in the background would ignore Ctrl-C, and with it all that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

SAMPLE_RATE = 16_000


def require_program(name: str) -> str:
    """The path of a program; without it the test is skipped by name, or fails where CI=true."""
    path = shutil.which(name)
    if path is None:
        skip_without(name)
    return path


def skip_without(name: str) -> NoReturn:
    """Skips a test for what is not installed, or fails it where CI=true: there nothing may go untested unseen."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{name} is not installed; .ci/run should have installed it")
    pytest.skip(f"{name} is not installed")


@pytest.fixture
def bound_by_permissions() -> Iterator[None]:
    """File modes hold for this thread, also where tests run as root, who may otherwise read everything (Linux)."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # capset(2), version 3, this thread
    before = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, before) == 0
    reduced = (ctypes.c_uint32 * 6)(*before)
    reduced[0] &= ~(1 << 1 | 1 << 2)  # effective: CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert libc.capset(header, reduced) == 0
    try:
        yield
    finally:
        assert libc.capset(header, before) == 0


def speech_like(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """(T,) float: syllables of harmonics with pauses, enough like speech for levels, activity and learning."""
    t = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    pitch_hz = rng.uniform(90, 220) * (1 + 0.1 * np.sin(2 * np.pi * rng.uniform(0.3, 0.8) * t))
    phase = 2 * np.pi * np.cumsum(pitch_hz) / SAMPLE_RATE
    voice = sum(np.sin(k * phase) / k for k in range(1, 12))
    syllables = np.clip(np.sin(2 * np.pi * rng.uniform(2, 4) * t + rng.uniform(0, 6)), 0, None)
    return 0.1 * voice * syllables


def write_small_sources(
    folder: Path, *, num_speakers: int = 6, num_noises: int = 6, seconds: float = 5.0
) -> None:
    """speech/<speaker>/<n>.wav, noise/<n>.wav and three rooms, rir/<room>/0.wav, below a folder."""
    rng = np.random.default_rng(0)
    for speaker in range(num_speakers):
        (folder / "speech" / f"s{speaker}").mkdir(parents=True)
        for n in range(2):
            path = folder / "speech" / f"s{speaker}" / f"{n}.wav"
            sf.write(path, speech_like(rng, seconds), SAMPLE_RATE)
    (folder / "noise").mkdir()
    for n in range(num_noises):
        noise = np.convolve(rng.standard_normal(int(seconds * SAMPLE_RATE)), rng.standard_normal(16), "same")
        sf.write(folder / "noise" / f"n{n}.wav", 0.1 * noise / np.abs(noise).max(), SAMPLE_RATE)
    for room, rt60_s in enumerate((0.2, 0.4, 0.6)):
        (folder / "rir" / f"room{room}").mkdir(parents=True)
        t = np.arange(int(rt60_s * SAMPLE_RATE)) / SAMPLE_RATE
        tail = 0.1 * rng.standard_normal(len(t)) * 10 ** (-3 * t / rt60_s)
        response = np.concatenate([[1.0], tail.clip(-0.5, 0.5)])
        sf.write(folder / "rir" / f"room{room}" / "0.wav", 0.9 * response, SAMPLE_RATE)


@pytest.fixture(scope="session")
def small_sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a minute of speech/ and of noise/, and rir/, as a user would bring them; never written to."""
    folder = tmp_path_factory.mktemp("sources")
    write_small_sources(folder)
    return folder


@pytest.fixture(scope="session")
def small_corpus(small_sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared corpus of one minute of speech-like sound, with a room in each split; shared, never written to."""
    from ww_data import scan_corpus, write_corpus

    speech, noise, rooms = ([small_sources / role] for role in ("speech", "noise", "rir"))
    manifest = scan_corpus(speech, noise, rir_dirs=rooms, val_fraction=0.17, test_fraction=0.17)
    data = tmp_path_factory.mktemp("corpus") / "data"
    write_corpus(manifest, data, segment_s=2.0, num_val_mixtures=6, num_test_mixtures=10)
    return data


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal GateWave that runs in microseconds: 16 kHz, a hop of 16 ms; never written to."""
    import torch

    from ww_models import build_model, save_bundle

    torch.manual_seed(0)
    model = build_model("gatewave", hidden=4, depth=2, residual=True)
    folder = tmp_path_factory.mktemp("bundle") / "tiny"
    return save_bundle(folder, model, metrics={"pesq": 1.5}, licence="MIT")


@pytest.fixture(scope="session")
def local_ray() -> Iterator[str]:
    """One private Ray of two CPUs for all tests of a session that need one."""
    from cluster.machine.session import connect

    with connect(num_cpus=2) as where:
        yield where
