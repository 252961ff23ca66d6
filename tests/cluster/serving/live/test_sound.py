"""A call's sound, without its connection: what comes out is the whole clip's, sample beside sample."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.enhancement import enhance_audio
from cluster.serving.live.protocol import CallOptions, ProtocolError, Update, encode_samples
from cluster.serving.live.sound import RAMP_S, CallSound
from cluster.serving.models import ServedModels
from ww_models import Denoiser, Streamer, load_bundle

RATES = [8000, 16_000, 44_100, 48_000]


@pytest.fixture(scope="module")
def model(bundle: Path) -> Denoiser:
    return load_bundle(bundle)


class Driver:
    """A call and a stream of the model for each of its channels."""

    def __init__(self, models: ServedModels, **options: object) -> None:
        engine = models.default.engine
        assert engine is not None
        self.options = CallOptions(**options)  # type: ignore[arg-type]
        self.sound = CallSound(self.options, engine.sample_rate, engine.latency_samples)
        self._engine = engine
        self._streamer = Streamer(engine, self.options.num_channels)

    def feed(self, samples_TC: np.ndarray) -> bytes:
        return self._through_model(self.sound.feed(encode_samples(samples_TC.T, self.options.encoding)[0]))

    def end(self) -> bytes:
        rest = self._through_model(self.sound.end())
        assert self.sound.is_over
        assert self.sound.num_in == self.sound.num_out
        self.sound.restart()
        self._streamer.reset()
        return rest

    def whole(self, samples_TC: np.ndarray, sizes: list[int]) -> np.ndarray:
        parts, start = [], 0
        for size in [*sizes, len(samples_TC)]:
            parts.append(self.feed(samples_TC[start : start + size]))
            start += size
        return self.decode(b"".join([*parts, self.end()]))

    def decode(self, data: bytes) -> np.ndarray:
        if self.options.encoding == "pcm_f32le":
            return np.frombuffer(data, "<f4").reshape(-1, self.options.num_channels)
        return np.frombuffer(data, "<i2").reshape(-1, self.options.num_channels) / np.float32(32768)

    def _through_model(self, for_model: np.ndarray) -> bytes:
        return self.sound.finish(self._streamer.feed(for_model)) if for_model.shape[-1] else b""


def sound(num_samples: int, num_channels: int = 1, scale: float = 0.1) -> np.ndarray:
    rng = np.random.default_rng(num_samples)
    return (scale * rng.standard_normal((num_samples, num_channels))).astype(np.float32)


@settings(max_examples=40)
@given(
    rate=st.sampled_from(RATES),
    num_channels=st.integers(1, 3),
    num_samples=st.integers(1, 6000),
    sizes=st.lists(st.integers(0, 2500), max_size=6),
    strength=st.sampled_from([1.0, 0.3]),
)
def test_chunks_are_the_whole_clip(
    models: ServedModels,
    model: Denoiser,
    rate: int,
    num_channels: int,
    num_samples: int,
    sizes: list[int],
    strength: float,
) -> None:
    samples = sound(num_samples, num_channels)
    driver = Driver(
        models, encoding="pcm_f32le", sample_rate=rate, num_channels=num_channels, strength=strength
    )
    expected = enhance_audio(model, samples, rate, strength)
    for _ in range(2):  # a second stream of the same call starts from nothing
        streamed = driver.whole(samples, sizes)
        assert streamed.shape == expected.shape
        np.testing.assert_allclose(streamed, expected, atol=1e-5)


@settings(max_examples=20)
@given(
    rate=st.sampled_from(RATES),
    sizes=st.lists(st.integers(0, 2500), max_size=6),
    how=st.sampled_from(["strength", "update", "bypass"]),
    encoding=st.sampled_from(["pcm_s16le", "pcm_f32le"]),
)
def test_without_strength_the_input_comes_back_bit_for_bit(
    models: ServedModels, rate: int, sizes: list[int], how: str, encoding: str
) -> None:
    driver = Driver(models, encoding=encoding, sample_rate=rate, strength=0.0 if how == "strength" else 1.0)
    if how != "strength":  # well before: the change takes 20 ms
        driver.sound.update(Update(strength=0.0) if how == "update" else Update(bypass=True))
        driver.whole(sound(round(0.03 * rate)), [])
    samples = driver.decode(encode_samples(sound(5000).T, driver.options.encoding)[0])
    np.testing.assert_array_equal(driver.whole(samples, sizes), samples)


@settings(max_examples=30)
@given(rate=st.sampled_from([*RATES, 22_050]), sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=12))
def test_the_latency_that_it_tells_is_kept(models: ServedModels, rate: int, sizes: list[int]) -> None:
    driver = Driver(models, sample_rate=rate)
    latency_samples = driver.sound.latency_samples()
    num_in = num_out = 0
    for size in sizes:
        num_in += size
        num_out += len(driver.decode(driver.feed(sound(size))))
        assert num_in - latency_samples <= num_out <= num_in


def test_resampling_adds_little_to_the_latency(models: ServedModels) -> None:
    own_s = models.default.engine.latency_samples / models.default.sample_rate
    for rate in RATES:
        added_s = Driver(models, sample_rate=rate).sound.latency_samples() / rate - own_s
        assert 0 <= added_s < 0.005


@pytest.mark.parametrize("rate", RATES)
def test_a_change_makes_no_click(models: ServedModels, rate: int) -> None:
    t = np.arange(rate)[:, None] / rate
    samples = (0.5 * np.sin(2 * np.pi * 200 * t)).astype(np.float32)
    denoised, input_ = (
        Driver(models, encoding="pcm_f32le", sample_rate=rate, strength=strength).whole(samples, [])
        for strength in (1.0, 0.0)
    )
    driver = Driver(models, encoding="pcm_f32le", sample_rate=rate)
    parts = []
    changes = [Update(strength=0.0), Update(strength=1.0, bypass=True), Update(bypass=False), Update(0.5)]
    for number, chunk in enumerate(np.array_split(samples, 100)):
        if number % 7 == 3:  # the fourth change comes before the third is over
            driver.sound.update(changes[number // 7 % 4])
        parts.append(driver.feed(chunk))
    changed = driver.decode(b"".join([*parts, driver.end()]))

    def largest_step(signal: np.ndarray) -> float:
        return float(np.abs(np.diff(signal, axis=0)).max())

    ramp_step = float(np.abs(denoised - input_).max()) / (RAMP_S * rate)
    assert largest_step(changed) <= max(largest_step(denoised), largest_step(input_)) + 1.01 * ramp_step
    low, high = np.minimum(denoised, input_), np.maximum(denoised, input_)
    assert (changed >= low - 1e-6).all()
    assert (changed <= high + 1e-6).all()
    assert not np.allclose(changed, denoised, atol=1e-3), "the changes did nothing"


def test_an_update_is_complete_after_20_ms(models: ServedModels) -> None:
    driver = Driver(models, encoding="pcm_f32le")
    driver.whole(sound(4000), [])
    driver.sound.update(Update(strength=0.0))
    samples = sound(4000)
    changed = driver.whole(samples, [100] * 30)
    ramp = round(RAMP_S * 16_000)
    np.testing.assert_array_equal(changed[ramp:], samples[ramp:])
    assert (changed[: ramp - 1] != samples[: ramp - 1]).any()


def test_what_is_too_loud_for_16_bits_is_clipped_and_counted() -> None:
    loud = np.array([[0.0, 1.0, 1.5, -1.0, -1.1, 0.99999]], np.float32)
    data, num_clipped = encode_samples(loud, "pcm_s16le")
    assert np.frombuffer(data, "<i2").tolist() == [0, 32767, 32767, -32768, -32768, 32767]
    assert num_clipped == 4  # full scale itself ends one step below 1
    assert encode_samples(loud, "pcm_f32le") == (loud.astype("<f4").tobytes(), 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 30_000.0])
def test_no_sound_is_refused_and_nothing_of_it_taken(models: ServedModels, bad: float) -> None:
    driver = Driver(models, encoding="pcm_f32le")
    samples = sound(100)
    samples[50] = bad
    with pytest.raises(ProtocolError, match="full scale") as info:
        driver.feed(samples)
    assert info.value.code == "bad_audio"
    assert driver.sound.num_in == 0


def test_an_empty_stream_is_over_at_once(models: ServedModels) -> None:
    driver = Driver(models)
    assert driver.sound.end().shape == (1, 0)
    assert driver.sound.is_over
