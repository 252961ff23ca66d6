"""A stream's resampling is the whole clip's, whatever the chunks, and it looks ahead no further than it says."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.sound.resampling import StreamResampler, is_common_rate
from ww_data import resample

RATES = [8000, 11_025, 16_000, 22_050, 24_000, 44_100, 48_000, 96_000]
ODD_RATES = [15_999, 44_056]


def noise(num_channels: int, num_samples: int) -> np.ndarray:
    rng = np.random.default_rng(num_samples)
    return 0.1 * rng.standard_normal((num_channels, num_samples)).astype(np.float32)


def in_chunks(resampler: StreamResampler, samples: np.ndarray, sizes: list[int]) -> np.ndarray:
    parts, start = [], 0
    for size in [*sizes, samples.shape[-1]]:
        parts.append(resampler.feed(samples[:, start : start + size]))
        start += size
    return np.concatenate([*parts, resampler.flush()], axis=-1)


@settings(max_examples=60)
@given(
    rate=st.sampled_from(RATES + ODD_RATES),
    is_upward=st.booleans(),
    num_samples=st.integers(1, 5000),
    sizes=st.lists(st.integers(0, 1500), max_size=6),
)
def test_a_stream_is_the_whole_clip(rate: int, is_upward: bool, num_samples: int, sizes: list[int]) -> None:
    rates = (rate, 16_000) if is_upward else (16_000, rate)
    samples = noise(2, num_samples)
    resampler = StreamResampler(*rates, num_channels=2)
    expected = np.stack([resample(channel, *rates) for channel in samples])
    for _ in range(2):  # after a flush it begins anew
        streamed = in_chunks(resampler, samples, sizes)
        assert streamed.shape == expected.shape
        if is_common_rate(*rates):  # for others ww_data.resample takes another filter
            np.testing.assert_allclose(streamed, expected, atol=1e-5)


@pytest.mark.parametrize("rates", [(44_056, 16_000), (16_000, 44_056)])
def test_odd_rates_keep_what_lies_in_the_band(rates: tuple[int, int]) -> None:
    sines = [
        np.sin(2 * np.pi * 1000 * np.arange(rate // 5) / rate)[None].astype(np.float32) for rate in rates
    ]
    streamed = in_chunks(StreamResampler(*rates), sines[0], [333, 4000])
    inner = slice(200, 3000)
    np.testing.assert_allclose(streamed[:, inner], sines[1][:, inner], atol=1e-3)


@pytest.mark.parametrize("rate", RATES + ODD_RATES)
@pytest.mark.parametrize("is_upward", [True, False])
def test_what_is_out_after_n_samples_is_what_it_says(rate: int, is_upward: bool) -> None:
    rates = (rate, 16_000) if is_upward else (16_000, rate)
    resampler = StreamResampler(*rates)
    num_in = num_out = 0
    for size in (1, 30, 7, 500, 1, 1, 1, 2000):
        num_in += size
        num_out += resampler.feed(noise(1, size)).shape[-1]
        assert num_out == resampler.num_finished(num_in)
    # A little more than a millisecond of the lower rate.
    assert num_in / rates[0] - num_out / rates[1] < 18 / min(rates)


def test_what_it_holds_does_not_grow() -> None:
    resampler = StreamResampler(44_100, 16_000)
    sizes = []
    for _ in range(50):
        resampler.feed(noise(1, 4410))
        sizes.append(len(pickle.dumps(resampler)))
    assert max(sizes) - min(sizes) < 1000  # bytes
