"""The offset of a stream: a constant makes no difference, in any chunks, and sound stays as it is."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.sound.offset import OffsetRemover
from ww_models import si_sdr_db


def sound(num_samples: int, sample_rate: int = 16_000, num_channels: int = 2) -> np.ndarray:
    """(C, T): voices of 110 and 190 Hz."""
    phase = 2 * np.pi * np.arange(num_samples) / sample_rate
    voices = [sum(np.sin(pitch_hz * k * phase) / k for k in range(1, 15)) for pitch_hz in (110, 190)]
    return (0.05 * np.stack(voices[:num_channels])).astype(np.float32)


@pytest.mark.parametrize("sample_rate", [8000, 16_000, 48_000])
def test_a_constant_makes_no_difference(sample_rate: int) -> None:
    samples_CT = sound(sample_rate, sample_rate)
    plain_CT = OffsetRemover(sample_rate, 2).feed(samples_CT)
    offset_CT = OffsetRemover(sample_rate, 2).feed(samples_CT + np.float32([[0.3], [-0.1]]))
    np.testing.assert_allclose(offset_CT, plain_CT, atol=1e-6)
    # While the mean is that of few samples, it holds something of low voices.
    settled = slice(sample_rate // 4, None)
    assert (si_sdr_db(samples_CT[:, settled].astype(float), plain_CT[:, settled].astype(float)) > 33).all()


@given(num_samples=st.integers(1, 6000), sizes=st.lists(st.integers(0, 2500), max_size=6))
def test_chunks_are_the_whole(num_samples: int, sizes: list[int]) -> None:
    samples_CT = sound(num_samples) + np.float32(0.2)
    remover = OffsetRemover(16_000, 2)
    expected_CT = OffsetRemover(16_000, 2).feed(samples_CT)
    for _ in range(2):
        ends = np.minimum(np.cumsum([0, *sizes, num_samples]), num_samples)
        parts = [remover.feed(samples_CT[:, a:b]) for a, b in pairwise(ends)]
        np.testing.assert_allclose(np.concatenate(parts, axis=-1), expected_CT, atol=1e-7)
        remover.restart()


def test_an_offset_that_changes_is_gone_within_a_second_and_silence_becomes_silence() -> None:
    samples_CT = np.zeros((1, 16_000 * 12), np.float32)
    samples_CT[:, 16_000 : 16_000 * 3] = 0.5
    without_CT = OffsetRemover(16_000, 1).feed(samples_CT)
    assert np.abs(without_CT[:, 32_000 : 16_000 * 3]).max() < 0.001
    assert not without_CT[:, -16_000:].any(), "what is left of it makes arithmetic slow"
