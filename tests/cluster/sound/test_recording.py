"""A recording in pieces is the whole one, without its offset; without strength it is what came."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.enhancement import enhance_audio
from cluster.sound.bands import BANDS, Band
from cluster.sound.recording import RecordingStream
from cluster.sound.streams import BatchedStreams, Streams, recording_engine
from ww_models import Denoiser, load_bundle


@pytest.fixture(scope="module")
def model(bundle: Path) -> Denoiser:
    return load_bundle(bundle)


@pytest.fixture(scope="module")
def streams(model: Denoiser) -> BatchedStreams:
    return BatchedStreams(recording_engine(model, 0.1), 3)


def through(
    streams: Streams,
    samples_CT: np.ndarray,
    rate: int,
    strength: float,
    sizes: list[int],
    band: Band = "full",
) -> np.ndarray:
    recording = RecordingStream(streams, rate, len(samples_CT), strength, band)
    assert recording.open()
    parts, start = [], 0
    for size in [*sizes, samples_CT.shape[-1]]:
        recording.feed(np.ascontiguousarray(samples_CT[:, start : start + size]))
        start += size
        while streams.advance():
            pass
        parts.append(recording.take())
    recording.finish()
    while not recording.is_done:
        streams.advance()
        parts.append(recording.take())
    recording.close()
    return np.concatenate(parts, axis=-1)


def sound(num_samples: int, num_channels: int) -> np.ndarray:
    rng = np.random.default_rng(num_samples)
    return (0.1 * rng.standard_normal((num_channels, num_samples))).astype(np.float32)


@settings(max_examples=30)
@given(
    rate=st.sampled_from([8000, 16_000, 44_100, 48_000]),
    num_channels=st.integers(1, 3),
    num_samples=st.integers(1, 6000),
    sizes=st.lists(st.integers(0, 2500), max_size=6),
    strength=st.sampled_from([0.0, 0.3, 1.0]),
    band=st.sampled_from(BANDS),
)
def test_pieces_are_the_whole_recording(
    streams: BatchedStreams,
    model: Denoiser,
    rate: int,
    num_channels: int,
    num_samples: int,
    sizes: list[int],
    strength: float,
    band: Band,
) -> None:
    samples_CT = sound(num_samples, num_channels)
    done_CT = through(streams, samples_CT, rate, strength, sizes, band)
    expected_CT = enhance_audio(model, samples_CT.T, rate, strength, band).T
    assert done_CT.shape == samples_CT.shape
    np.testing.assert_allclose(done_CT, expected_CT, atol=1e-5 if strength else 0)


@pytest.mark.parametrize("rate", [16_000, 48_000])
def test_an_offset_makes_no_difference_to_what_the_model_hears(streams: BatchedStreams, rate: int) -> None:
    samples_CT = sound(rate, 1)
    plain_CT, offset_CT = (
        through(streams, samples_CT + np.float32(offset), rate, 1.0, [1000] * 10) for offset in (0, 0.3)
    )
    np.testing.assert_allclose(offset_CT, plain_CT, atol=1e-5)


def test_channels_that_find_no_room_wait(streams: BatchedStreams) -> None:
    first, second = (RecordingStream(streams, 16_000, 2, 1.0) for _ in range(2))
    assert first.open()
    assert not second.open()
    assert RecordingStream(streams, 16_000, 2, 0.0).open()
    first.close()
    assert second.open()
    second.close()
