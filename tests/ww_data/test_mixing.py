"""Mixing: the SNR that was asked for, nothing but noise added, draws that depend on their key alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ww_data import (
    MixingConfig,
    MixtureParams,
    NoiseBank,
    SegmentBlock,
    draw_mixture,
    mix,
    mix_segments,
    mixture_rng,
    segment_key,
)
from ww_data.activity import active_floor
from ww_data.mixing import mix_crops
from ww_data.noise_bank import write_noise_bank
from ww_data.shards import to_pcm

from .made_sounds import RATE, hiss, syllables

FRAME = 320  # 20 ms


def params_of(num_samples: int, **changes: object) -> MixtureParams:
    params = MixtureParams(
        crop_start=0,
        num_samples=num_samples,
        valid_samples=num_samples,
        noise_index=0,
        noise_start=0,
        snr_db=5.0,
        level_dbfs=-25.0,
        snr_over="active",
        sample_rate=RATE,
    )
    return replace(params, **changes)


def db(ratio: float) -> float:
    return float(10 * np.log10(ratio))


def active_samples(pcm_T: np.ndarray, floor: int) -> np.ndarray:
    """(T,) bool, written the slow way."""
    active = np.zeros(len(pcm_T), bool)
    for start in range(0, len(pcm_T), FRAME):
        frame = pcm_T[start : start + FRAME].astype(np.int64)
        active[start : start + FRAME] = (frame**2).sum() >= max(floor, 1)
    return active


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    num_samples=st.integers(4000, 9000),
    snr_db=st.floats(-20, 40),
    level_dbfs=st.floats(-60, 0),
    speech_gain=st.floats(0.01, 1.9),
    over=st.sampled_from(["active", "clip"]),
)
def test_the_snr_is_the_one_asked_for_and_the_difference_is_the_noise(
    seed: int, num_samples: int, snr_db: float, level_dbfs: float, speech_gain: float, over: str
) -> None:
    speech = to_pcm(speech_gain * syllables(seed, num_samples / RATE))
    noise = to_pcm(hiss(seed, num_samples / RATE))
    floor = active_floor(speech, RATE)
    active = active_samples(speech, floor) if over == "active" else np.ones(num_samples, bool)
    assume(active_samples(speech, floor).sum() >= 5 * FRAME)
    params = params_of(num_samples, snr_db=snr_db, level_dbfs=level_dbfs, snr_over=over)
    noisy, clean = mix(speech, noise, params, active_floor=floor)
    assert noisy.dtype == clean.dtype == np.float32
    assert max(np.abs(noisy).max(), np.abs(clean).max()) <= 1.0
    difference = noisy.astype(np.float64) - clean
    gain = difference @ noise / (noise.astype(np.float64) @ noise)
    assert gain > 0
    np.testing.assert_allclose(difference, gain * noise, atol=1e-7)
    speech_power = np.mean(clean[active].astype(np.float64) ** 2)
    # The gain is a least-squares estimate over rounded samples, hence the last digits.
    assert db(speech_power / np.mean((gain * noise) ** 2)) == pytest.approx(snr_db, abs=2e-3)
    level = db(speech_power)
    assert level <= level_dbfs + 1e-4
    if max(np.abs(noisy).max(), np.abs(clean).max()) < 0.99:  # nothing had to be brought down
        assert level == pytest.approx(level_dbfs, abs=1e-4)


def test_inactive_speech_stays_as_it_is_and_noise_takes_the_level() -> None:
    speech = to_pcm(0.001 * hiss(0, 1.0))  # a pause: far below the floor of its clip
    noise = to_pcm(hiss(1, 1.0))
    mixed = mix_crops(speech[None], noise[None], [params_of(RATE, level_dbfs=-30.0)], np.array([10**9]))
    assert not mixed.speech_active_N[0]
    assert mixed.noise_active_N[0]
    np.testing.assert_array_equal(mixed.clean_NT[0], speech / np.float32(32768))
    difference = (mixed.noisy_NT - mixed.clean_NT).astype(np.float64)
    assert db(np.mean(difference**2)) == pytest.approx(-30.0, abs=1e-3)


@pytest.mark.parametrize("over", ["active", "clip"])
def test_silence_is_flagged_and_never_divided_by(over: str) -> None:
    silence, speech, noise = np.zeros(RATE, np.int16), to_pcm(syllables(0, 1.0)), to_pcm(hiss(0, 1.0))
    sources = [(silence, silence), (silence, noise), (speech, silence), (speech, noise)]
    with np.errstate(all="raise"):
        mixed = mix_crops(
            np.stack([pair[0] for pair in sources]),
            np.stack([pair[1] for pair in sources]),
            [params_of(RATE, snr_over=over)] * 4,
            np.zeros(4, np.int64),
        )
    assert mixed.speech_active_N.tolist() == [False, False, True, True]
    assert mixed.noise_active_N.tolist() == [False, True, False, True]
    assert np.isfinite(mixed.noisy_NT).all()
    assert not mixed.noisy_NT[0].any()
    np.testing.assert_array_equal(mixed.noisy_NT[2], mixed.clean_NT[2])
    assert not mixed.clean_NT[1].any()


def test_a_word_s_last_sound_is_not_blown_up() -> None:
    """60 ms over the floor are no speech yet: their level says nothing about the speaker's."""
    speech = to_pcm(0.0001 * hiss(0, 1.0))
    speech[: 3 * FRAME] = to_pcm(0.02 * hiss(1, 3 * FRAME / RATE))
    floor = int((speech[: 3 * FRAME].astype(np.int64) ** 2).sum()) // 6
    mixed = mix_crops(speech[None], speech[None], [params_of(RATE)], np.array([floor]))
    assert not mixed.speech_active_N[0]


def test_padding_does_not_count_as_clip() -> None:
    speech, noise = to_pcm(hiss(0, 1.0)), to_pcm(hiss(1, 2.0))
    padded = np.concatenate([speech, np.zeros(RATE, np.int16)])
    params = params_of(2 * RATE, valid_samples=RATE, snr_over="clip", snr_db=10.0)
    noisy, clean = mix(padded, noise, params)
    power = np.mean(clean[:RATE].astype(np.float64) ** 2)
    assert db(power / np.mean((noisy - clean).astype(np.float64) ** 2)) == pytest.approx(10.0, abs=1e-3)


@pytest.mark.parametrize("noise", [np.zeros(99, np.int16), np.zeros(100, np.float32)])
def test_what_does_not_fit_is_refused(noise: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected int16 PCM of one shape"):
        mix(np.zeros(100, np.int16), noise, params_of(100))


# Draws


def draw(seed: int, epoch: int, key: int, config: MixingConfig | None = None) -> MixtureParams:
    return draw_mixture(
        mixture_rng(seed, epoch, key),
        config or MixingConfig(),
        valid_samples=64000,
        sample_rate=RATE,
        noise_lengths=np.array([10000, 50000, 90000]),
    )


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1))
def test_a_draw_is_a_function_of_seed_epoch_and_key(seed: int, epoch: int, key: int) -> None:
    first = draw(seed, epoch, key)
    assert draw(seed, epoch, key) == first
    assert draw(seed, (epoch + 1) % 2**32, key) != first
    assert draw(seed, epoch, (key + 1) % 2**64) != first
    assert draw((seed + 1) % 2**32, epoch, key) != first


@given(st.integers(0, 2**64 - 1), st.integers(1, 64000), st.sampled_from([None, 0.1, 1.5, 4.0]))
def test_a_draw_stays_within_its_bounds(key: int, valid_samples: int, crop_s: float | None) -> None:
    lengths = np.array([1, 4000, 24000, 64000, 100000])
    config = MixingConfig(crop_s=crop_s)
    params = draw_mixture(
        mixture_rng(0, 0, key),
        config,
        valid_samples=valid_samples,
        sample_rate=RATE,
        noise_lengths=lengths,
        segment_samples=64000,
    )
    assert params.num_samples == (64000 if crop_s is None else round(crop_s * RATE))
    assert 0 <= params.crop_start <= max(valid_samples - params.num_samples, 0)
    assert 1 <= params.valid_samples <= min(params.num_samples, valid_samples)
    length = lengths[params.noise_index]
    assert 0 <= params.noise_start < length
    assert params.noise_start + params.num_samples <= length or length < params.num_samples
    assert -5 <= params.snr_db <= 25
    assert -35 <= params.level_dbfs <= -15


def test_draws_never_change() -> None:
    """A run that goes on after an update must see what it would have seen. Keys use all 64 bits."""
    drawn = mixture_rng(1, 2, 2**64 - 1).random(3)
    np.testing.assert_array_equal(drawn, [0.11990613315378229, 0.0725959532679471, 0.6211192569680816])


def test_draws_reach_all_of_their_ranges() -> None:
    draws = [draw(0, 0, key) for key in range(2000)]
    snrs = np.array([params.snr_db for params in draws])
    assert np.abs(np.histogram(snrs, 10, (-5, 25))[0] - 200).max() < 70
    assert set(np.bincount([params.noise_index for params in draws]) // 100) <= {5, 6, 7}
    starts = np.array([params.crop_start for params in draws])
    assert starts.min() < 400
    assert starts.max() > 39600


def test_segment_keys_tell_segments_apart() -> None:
    keys = {
        segment_key(split, clip, start)
        for split in ("train", "val")
        for clip in ("a", "b", "a1")
        for start in (0, 1, 10)
    }
    assert len(keys) == 18
    assert (
        segment_key("train", "speech/a.wav", 64000) == 13626701077869371914
    )  # never changes: runs depend on it


@pytest.mark.parametrize(
    "wrong",
    [
        {"crop_s": 0.0},
        {"crop_s": float("nan")},
        {"snr_db": (5, -5)},
        {"snr_db": (0, float("inf"))},
        {"level_dbfs": (-20, 3)},
        {"snr_over": "peak"},
    ],
)
def test_settings_are_checked(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        MixingConfig(**wrong)


# Blocks


def make_block(num_rows: int, num_samples: int = 2 * RATE) -> SegmentBlock:
    pcm = np.stack([to_pcm(syllables(row, num_samples / RATE)) for row in range(num_rows)])
    valid = np.full(num_rows, num_samples)
    valid[0], pcm[0, 12000:] = 12000, 0  # a short one
    return SegmentBlock(
        pcm_NS=pcm,
        valid_samples_N=valid,
        key_N=np.array([segment_key("train", "x", row) for row in range(num_rows)], np.uint64),
        start_N=np.zeros(num_rows, np.int64),
        active_floor_N=np.array([active_floor(row, RATE) for row in pcm]),
        clip_id_N=np.full(num_rows, "x", object),
        speaker_N=np.full(num_rows, "y", object),
    )


@pytest.fixture
def bank(tmp_path: Path) -> NoiseBank:
    clips = ((f"n{index}", f"n{index}", to_pcm(hiss(index, 0.3 + index))) for index in range(4))
    write_noise_bank(tmp_path / "bank.arrow", clips, RATE)
    return NoiseBank(tmp_path / "bank.arrow")


@pytest.mark.parametrize("crop_s", [1.5, None])
def test_a_block_is_mixed_as_its_segments_one_by_one(bank: NoiseBank, crop_s: float | None) -> None:
    """Bit for bit, in any order and company: what a worker mixes does not depend on what else it mixes."""
    block, config = make_block(11), MixingConfig(crop_s=crop_s, level_dbfs=(-20, -10))
    epochs = np.arange(11) % 3
    mixed = mix_segments(block, epochs, bank, config, seed=5)
    order = np.random.default_rng(0).permutation(11)
    shuffled = mix_segments(block.take(order), epochs[order], bank, config, seed=5)
    np.testing.assert_array_equal(shuffled.noisy_NT, mixed.noisy_NT[order])
    for row in range(11):
        params = draw_mixture(
            mixture_rng(5, int(epochs[row]), int(block.key_N[row])),
            config,
            valid_samples=int(block.valid_samples_N[row]),
            sample_rate=RATE,
            noise_lengths=bank.lengths_N,
            segment_samples=2 * RATE,
        )
        assert params == mixed.params[row]
        speech = block.pcm_NS[row, params.crop_start : params.crop_start + params.num_samples]
        noise = bank.crop(params.noise_index, params.noise_start, params.num_samples)
        noisy, clean = mix(speech, noise, params, active_floor=int(block.active_floor_N[row]))
        np.testing.assert_array_equal(noisy, mixed.noisy_NT[row])
        np.testing.assert_array_equal(clean, mixed.clean_NT[row])


def test_another_epoch_is_another_mixture(bank: NoiseBank) -> None:
    block = make_block(4)
    one, two = (mix_segments(block, epoch, bank, MixingConfig(), seed=0) for epoch in (0, 1))
    assert all((a != b).any() for a, b in zip(one.noisy_NT, two.noisy_NT, strict=True))


def test_an_empty_block_is_mixed_to_nothing(bank: NoiseBank) -> None:
    mixed = mix_segments(make_block(2).take([]), [], bank, MixingConfig(), seed=0)
    assert mixed.noisy_NT.shape == (0, 24000)


def test_a_crop_longer_than_the_segments_is_refused(bank: NoiseBank) -> None:
    with pytest.raises(ValueError, match=r"crop_s is 2\.5 but the segments have 2 s"):
        mix_segments(make_block(1), 0, bank, MixingConfig(crop_s=2.5), seed=0)
