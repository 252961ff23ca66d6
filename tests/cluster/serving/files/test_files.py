"""Files between the processes of a replica: exact, in bounded memory, gone when the caller is."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import soundfile as sf
import torch
from hypothesis import given
from hypothesis import strategies as st

from cluster.enhancement import read_recording
from cluster.serving.config import AudioLimits
from cluster.serving.files.decoder import decode
from cluster.serving.files.messages import END, ERROR, SOUND, START, Unpacker, pack
from cluster.sound.encoder import FileEncoder, FormatError, wav_header
from tests.cluster.serving.clips import DENOISE, file_bytes, recording
from tests.cluster.serving.replica import memory_bytes, replica
from ww_models import build_model, save_bundle

HOUR_S = 3600
MAX_ABOVE_IDLE_BYTES = 100 * 2**20


@given(
    sizes=st.lists(st.integers(0, 3000), max_size=5),
    cuts=st.lists(st.integers(1, 2000), min_size=1, max_size=10),
)
def test_messages_survive_any_cuts(sizes: list[int], cuts: list[int]) -> None:
    messages = [(1 + index % 4, bytes([index]) * size) for index, size in enumerate(sizes)]
    stream = io.BytesIO(b"".join(pack(kind, body) for kind, body in messages))
    unpacker, received, turn = Unpacker(), [], 0
    while part := stream.read(cuts[turn % len(cuts)]):
        received += unpacker.feed(part)
        turn += 1
    assert received == messages


def test_what_is_no_message_is_refused() -> None:
    for junk in (b"\x00" * 5, b"\x09" + b"\x00" * 4, b"\x01\xff\xff\xff\xff"):
        with pytest.raises(ValueError, match="not a message"):
            list(Unpacker().feed(junk))


@given(
    num_frames=st.integers(1, 3000),
    num_channels=st.integers(1, 8),
    piece=st.integers(1, 3000),
    kind=st.sampled_from([("wav", "PCM_16"), ("wav", "PCM_24"), ("flac", "PCM_16"), ("flac", "PCM_24")]),
    seed=st.integers(0, 9),
)
def test_a_file_made_in_pieces_holds_every_integer(
    num_frames: int, num_channels: int, piece: int, kind: tuple, seed: int
) -> None:
    bits = int(kind[1][-2:])
    integers = np.random.default_rng(seed).integers(
        -(1 << bits - 1), 1 << bits - 1, (num_frames, num_channels)
    )
    samples_TC = (integers / (1 << bits - 1)).astype(np.float32)
    encoder = FileEncoder(*kind, sample_rate=44_100, num_channels=num_channels, num_frames=num_frames)
    pieces = [encoder.encode(samples_TC[first : first + piece]) for first in range(0, num_frames, piece)]
    file = b"".join([*pieces, encoder.finish()])
    assert encoder.num_bytes in (None, len(file))
    assert sf.info(io.BytesIO(file)).subtype == kind[1]
    read_TC, _ = sf.read(io.BytesIO(file), dtype="float32", always_2d=True)
    np.testing.assert_array_equal(read_TC, samples_TC)


def test_peaks_saturate_and_a_wav_file_ends_at_four_gigabytes() -> None:
    encoder = FileEncoder("pcm", "PCM_16", 16_000, 1, 2)
    assert encoder.encode(np.float32([[7.0], [-7.0]])) == b"\xff\x7f\x00\x80"
    with pytest.raises(FormatError, match="choose flac"):
        wav_header(192_000, 8, 24, 2**32)


def kinds_of(path: Path, limits: AudioLimits) -> list[int]:
    unpacker = Unpacker()
    return [kind for message in decode(str(path), limits) for kind, _ in unpacker.feed(message)]


def test_samples_that_are_integers_are_refused_in_the_words_of_files(tmp_path: Path) -> None:
    path = tmp_path / "integers.wav"
    path.write_bytes(file_bytes(20_000 * recording(0.1) / np.abs(recording(0.1)).max(), subtype="FLOAT"))
    (message,) = decode(str(path), AudioLimits())
    assert b"the upload: holds samples beyond 10000 times full scale: scale it to +-1" in message
    assert b'"bad_audio"' in message
    with pytest.raises(ValueError, match=r"integers\.wav: holds samples beyond 10000 times full scale"):
        read_recording(path)


def test_a_recording_is_looked_at_to_its_end_before_any_of_it_is_sent(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    samples_TC = recording(400)  # more than is kept in memory
    path.write_bytes(file_bytes(samples_TC, subtype="FLOAT"))
    kinds = kinds_of(path, AudioLimits())
    assert kinds[0] == START
    assert set(kinds[1:-1]) == {SOUND}
    assert kinds[-1] == END
    samples_TC[-1] = np.inf
    path.write_bytes(file_bytes(samples_TC, subtype="FLOAT"))
    assert kinds_of(path, AudioLimits()) == [ERROR]
    assert kinds_of(path, AudioLimits(max_seconds=399)) == [ERROR]


@pytest.fixture(scope="module")
def quick_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a hop of 128 ms, so that an hour takes seconds."""
    torch.manual_seed(0)
    model = build_model("gatewave", hidden=2, depth=5, residual=True, level_hop=2048)
    return save_bundle(tmp_path_factory.mktemp("quick") / "bundle", model, licence="MIT")


@pytest.fixture(scope="module")
def running(quick_bundle: Path) -> Iterator[tuple[psutil.Process, str]]:
    with replica(quick_bundle) as (process, url):
        httpx.post(url + DENOISE, content=file_bytes(recording(2.0, 48_000, 2), 48_000), timeout=240)
        yield process, url


class Peak:
    """The most that a process tree held in a `with` block."""

    def __init__(self, process: psutil.Process) -> None:
        self._process, self._is_over = process, threading.Event()
        self.idle_bytes = self.most_bytes = memory_bytes(process)
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._is_over.wait(0.3):
            self.most_bytes = max(self.most_bytes, memory_bytes(self._process))


def write_hour(path: Path, sample_rate: int, num_channels: int) -> None:
    """An hour of noise, without an hour of it in memory."""
    block = (3000 * np.random.default_rng(0).standard_normal((sample_rate * 10, num_channels))).astype(
        np.int16
    )
    with sf.SoundFile(path, "w", sample_rate, num_channels, "PCM_16") as file:
        for _ in range(HOUR_S // 10):
            file.write(block)


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("suffix", "sample_rate", "num_channels", "response_format"),
    [
        pytest.param("wav", 16_000, 1, "wav", marks=pytest.mark.soak),
        pytest.param("flac", 16_000, 2, "flac", marks=pytest.mark.soak),
        ("wav", 48_000, 1, "ogg"),
    ],
)
def test_an_hour_needs_bounded_memory(
    running: tuple[psutil.Process, str],
    tmp_path: Path,
    suffix: str,
    sample_rate: int,
    num_channels: int,
    response_format: str,
) -> None:
    process, url = running
    sent, received = tmp_path / f"hour.{suffix}", tmp_path / f"clean.{response_format}"
    write_hour(sent, sample_rate, num_channels)
    params = {"response_format": response_format}
    with (
        Peak(process) as peak,
        sent.open("rb") as content,
        httpx.stream("POST", url + DENOISE, content=content, params=params, timeout=480) as response,
        received.open("wb") as file,
    ):
        assert response.status_code == 200
        for part in response.iter_bytes():
            file.write(part)
    above_idle = peak.most_bytes - peak.idle_bytes
    assert above_idle <= MAX_ABOVE_IDLE_BYTES, f"{above_idle / 2**20:.0f} MiB above idle"
    info = sf.info(received)
    assert (info.frames, info.samplerate, info.channels) == (HOUR_S * sample_rate, sample_rate, num_channels)


@pytest.mark.cluster
def test_a_caller_who_leaves_ends_the_work(running: tuple[psutil.Process, str], tmp_path: Path) -> None:
    process, url = running
    sent = tmp_path / "hour.wav"
    write_hour(sent, 16_000, 1)
    idle = len(process.children(recursive=True))
    with (
        sent.open("rb") as content,
        httpx.stream("POST", url + DENOISE, content=content, timeout=480) as response,
    ):
        next(response.iter_raw())
        assert len(process.children(recursive=True)) == idle + 1  # the child that decodes
    deadline = time.monotonic() + 30
    while len(process.children(recursive=True)) > idle:
        assert time.monotonic() < deadline, "it went on decoding"
        time.sleep(0.1)
