"""What lies above a model's band comes back as it was, turned as the model turns what lies just below."""

from __future__ import annotations

import numpy as np
import pytest

from cluster.sound.bands import Band, FullBand, ModelBand, back_to
from cluster.sound.resampling import StreamResampler

RATE, MODEL_RATE = 48_000, 16_000
START_S = 0.02  # over which it fades in


def noise(seconds: float, channels: int = 1, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (0.1 * rng.standard_normal((channels, round(seconds * RATE)))).astype(np.float32)


def through(
    dry_CT: np.ndarray, gain_T: np.ndarray | float, band: Band = "full", piece: int = 4800
) -> np.ndarray:
    """With a model that turns its sound by a gain, sample by sample at its rate."""
    down = StreamResampler(RATE, MODEL_RATE, len(dry_CT))
    back = back_to(band, RATE, MODEL_RATE, len(dry_CT))
    num_done, parts = 0, []
    for start in range(0, dry_CT.shape[-1] + piece, piece):
        piece_CT = dry_CT[:, start : start + piece]
        noisy_CT = down.feed(piece_CT) if piece_CT.shape[-1] else down.flush()
        back.hear(piece_CT, noisy_CT)
        now = gain_T if isinstance(gain_T, float) else gain_T[num_done : num_done + noisy_CT.shape[-1]]
        num_done += noisy_CT.shape[-1]
        parts.append(back.feed((noisy_CT * now).astype(np.float32)))
    return np.concatenate([*parts, back.flush()], axis=-1)


def high_dbfs(samples_T: np.ndarray) -> float:
    """Level of what lies above 8.5 kHz."""
    spectrum = np.fft.rfft(samples_T * np.hanning(len(samples_T)))
    frequencies = np.fft.rfftfreq(len(samples_T), 1 / RATE)
    return float(10 * np.log10(np.mean(np.abs(spectrum[frequencies > 8500]) ** 2) + 1e-20))


def test_a_model_that_does_nothing_gives_the_recording_back() -> None:
    dry_CT = noise(1, channels=2)
    wet_CT = through(dry_CT, 1.0)
    assert wet_CT.shape == dry_CT.shape
    inner = slice(round(START_S * RATE), -100)
    np.testing.assert_allclose(wet_CT[:, inner], dry_CT[:, inner], atol=1e-6)
    outside = through(dry_CT, 1.0, "model")
    assert high_dbfs(outside[0]) < high_dbfs(dry_CT[0]) - 40


@pytest.mark.parametrize("gain", [0.5, 0.1, 0.0])
def test_it_goes_with_what_lies_below(gain: float) -> None:
    dry_T, wet_T = noise(1)[0], through(noise(1), gain)[0]
    inner = slice(round(START_S * RATE), None)
    change_db = high_dbfs(wet_T[inner]) - high_dbfs(dry_T[inner])
    assert change_db < -90 if gain == 0 else change_db == pytest.approx(20 * np.log10(gain), abs=0.3)


def test_it_is_never_louder_than_it_was() -> None:
    dry_CT = noise(1)
    inner = slice(round(START_S * RATE), -100)
    assert high_dbfs(through(dry_CT, 3.0)[0, inner]) == pytest.approx(high_dbfs(dry_CT[0, inner]), abs=0.1)


def test_it_follows_within_hundredths_of_a_second_and_waits_for_nothing() -> None:
    gain_T = np.repeat([0.01, 1.0, 0.01], MODEL_RATE // 2)
    dry_CT = noise(1.5)
    wet_T = through(dry_CT, gain_T, piece=160)[0]
    half, lag = RATE // 2, round(0.04 * RATE)
    level_db = [
        high_dbfs(wet_T[part]) - high_dbfs(dry_CT[0, part])
        for part in (slice(lag, half), slice(half + lag, 2 * half), slice(2 * half + 2 * lag, None))
    ]
    assert level_db[1] == pytest.approx(0, abs=1)
    assert max(level_db[0], level_db[2]) < -30
    full, model = (back_to(band, RATE, MODEL_RATE, 1) for band in ("full", "model"))
    assert full.resampler.num_finished(10_000) == model.resampler.num_finished(10_000)


@pytest.mark.parametrize("piece", [1, 37, 1000, 7001])
def test_pieces_are_the_whole(piece: int) -> None:
    dry_CT = noise(0.2, channels=2, seed=3)
    gain_T = np.abs(np.sin(np.arange(MODEL_RATE) / 300))
    np.testing.assert_allclose(through(dry_CT, gain_T, piece=piece), through(dry_CT, gain_T), atol=1e-6)


def test_there_is_nothing_to_keep_where_the_model_hears_all() -> None:
    assert isinstance(back_to("full", 16_000, 16_000, 1), ModelBand)
    assert isinstance(back_to("full", 8_000, 16_000, 1), ModelBand)
    assert isinstance(back_to("full", 22_050, 16_000, 1), FullBand)
