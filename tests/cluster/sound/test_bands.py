"""What lies above a model's band comes back as it was, turned as the model turns what lies just below."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import firwin, lfilter

from cluster.sound.bands import Band, FullBand, ModelBand, back_to
from cluster.sound.resampling import StreamResampler

RATE, MODEL_RATE = 48_000, 16_000
START_S = 0.02  # over which it fades in


def noise(seconds: float, channels: int = 1, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (0.1 * rng.standard_normal((channels, round(seconds * RATE)))).astype(np.float32)


def through(
    dry_CT: np.ndarray,
    gain_T: np.ndarray | float,
    band: Band = "full",
    piece: int = 4800,
    voice_CT: np.ndarray | None = None,
) -> np.ndarray:
    """With a model that turns its sound by a gain, sample by sample at its rate, but for a voice in it."""
    down, voice_down = (StreamResampler(RATE, MODEL_RATE, len(dry_CT)) for _ in range(2))
    voice_CT = np.zeros_like(dry_CT) if voice_CT is None else voice_CT
    back = back_to(band, RATE, MODEL_RATE, len(dry_CT))
    num_done, parts = 0, []
    for start in range(0, dry_CT.shape[-1] + piece, piece):
        piece_CT = dry_CT[:, start : start + piece]
        is_end = not piece_CT.shape[-1]
        noisy_CT = down.flush() if is_end else down.feed(piece_CT)
        left_CT = voice_down.flush() if is_end else voice_down.feed(voice_CT[:, start : start + piece])
        back.hear(piece_CT, noisy_CT)
        now = gain_T if isinstance(gain_T, float) else gain_T[num_done : num_done + noisy_CT.shape[-1]]
        num_done += noisy_CT.shape[-1]
        parts.append(back.feed((left_CT + now * (noisy_CT - left_CT)).astype(np.float32)))
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
    assert change_db < -80 if gain == 0 else change_db == pytest.approx(20 * np.log10(gain), abs=0.3)


def test_it_is_never_louder_than_it_was() -> None:
    dry_CT = noise(1)
    inner = slice(round(START_S * RATE), -100)
    assert high_dbfs(through(dry_CT, 3.0)[0, inner]) == pytest.approx(high_dbfs(dry_CT[0, inner]), abs=0.1)


def bursts(rise_db: float) -> tuple[np.ndarray, np.ndarray]:
    """Noise that is louder for 0.1 s in each 0.4 s; and where, at the model's rate."""
    dry_CT = 0.02 * noise(2)
    is_loud = np.arange(dry_CT.shape[-1]) / RATE % 0.4 > 0.3
    return dry_CT * np.where(is_loud, 10 ** (rise_db / 20), 1).astype(np.float32), is_loud[::3]


def falls_db(wet_CT: np.ndarray, dry_CT: np.ndarray) -> tuple[float, float]:
    """How far the high band came down, within a loud part and the quiet one after it."""
    loud, quiet = (slice(round(at_s * RATE), round((at_s + 0.06) * RATE)) for at_s in (1.13, 1.3))
    return tuple(high_dbfs(dry_CT[0, part]) - high_dbfs(wet_CT[0, part]) for part in (loud, quiet))


@pytest.mark.parametrize("in_bursts", [1.0, 0.1])
def test_sibilants_stay_though_the_model_takes_them_for_noise(in_bursts: float) -> None:
    noise_CT, is_loud = bursts(25)
    voice_CT = 0.5 * np.sin(2 * np.pi * 60 * np.arange(noise_CT.shape[-1]) / RATE)[None].astype(np.float32)
    dry_CT = noise_CT + voice_CT
    wet_CT = through(dry_CT, np.where(is_loud, in_bursts, 0.1), voice_CT=voice_CT)
    loud_db, quiet_db = falls_db(wet_CT, dry_CT)
    assert loud_db < 1
    assert quiet_db > 15, "the hiss between them has to go"


def test_strikes_go_where_the_model_takes_much_away() -> None:
    dry_CT, _ = bursts(25)
    assert falls_db(through(dry_CT, 0.03), dry_CT)[0] == pytest.approx(30, abs=2)


def test_it_waits_for_nothing_and_no_sample_hears_a_later_one() -> None:
    full, model = (back_to(band, RATE, MODEL_RATE, 1) for band in ("full", "model"))
    assert full.resampler.num_finished(10_000) == model.resampler.num_finished(10_000)
    first_CT, gain_T = noise(0.5), np.abs(np.sin(np.arange(MODEL_RATE) / 300))
    other_CT = first_CT.copy()
    changed = RATE // 4
    other_CT[:, changed:] *= 30
    reach = 2 * 50  # of the resampling, there and back
    first_CT, other_CT = (through(dry_CT, gain_T) for dry_CT in (first_CT, other_CT))
    np.testing.assert_allclose(first_CT[:, : changed - reach], other_CT[:, : changed - reach], atol=1e-6)


@given(
    cutoff_hz=st.sampled_from([3400, 7000, 11_000]),
    gain=st.floats(0, 2),
    level_db=st.floats(-60, 0),
    seed=st.integers(0, 99),
)
@settings(max_examples=15, deadline=None)
def test_nothing_is_invented_where_the_recording_has_nothing(
    cutoff_hz: float, gain: float, level_db: float, seed: int
) -> None:
    filter_ = firwin(511, cutoff_hz, fs=RATE)
    dry_CT = lfilter(filter_, 1.0, noise(0.5, seed=seed) * 10 ** (level_db / 20)).astype(np.float32)
    wet_CT = through(dry_CT, gain)
    above = np.fft.rfftfreq(dry_CT.shape[-1], 1 / RATE) > max(cutoff_hz, 8000) + 500
    window = np.hanning(dry_CT.shape[-1])
    dry, wet = (np.sum(np.abs(np.fft.rfft(x_CT[0] * window)[above]) ** 2) for x_CT in (dry_CT, wet_CT))
    everything = np.sum(np.abs(np.fft.rfft(dry_CT[0] * window)) ** 2)
    # Below -60 dB lies what the resampling leaves above the model's band.
    assert wet <= 1.1 * dry + 1e-6 * everything * max(1, gain) ** 2
    assert np.isfinite(wet_CT).all()


@pytest.mark.parametrize("seconds", [0.3, 1.5])
def test_after_digital_silence_the_noise_is_the_noise_that_was(seconds: float) -> None:
    dry_CT = noise(4)
    quiet = slice(2 * RATE, round((2 + seconds) * RATE))
    dry_CT[:, quiet] = 0
    wet_T = through(dry_CT, 0.1)[0]
    after = slice(quiet.stop + RATE // 20, quiet.stop + RATE // 4)
    assert high_dbfs(dry_CT[0, after]) - high_dbfs(wet_T[after]) > 17


@pytest.mark.parametrize("piece", [1, 37, 1000, 7001])
def test_pieces_are_the_whole(piece: int) -> None:
    dry_CT = noise(0.2, channels=2, seed=3)
    gain_T = np.abs(np.sin(np.arange(MODEL_RATE) / 300))
    np.testing.assert_allclose(through(dry_CT, gain_T, piece=piece), through(dry_CT, gain_T), atol=1e-6)


def test_there_is_nothing_to_keep_where_the_model_hears_all() -> None:
    assert isinstance(back_to("full", 16_000, 16_000, 1), ModelBand)
    assert isinstance(back_to("full", 8_000, 16_000, 1), ModelBand)
    assert isinstance(back_to("full", 22_050, 16_000, 1), FullBand)
