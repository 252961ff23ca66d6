"""Mixing: the SNR that was asked for, nothing but noise added, draws that depend on their key alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.ww_data.made_sounds import RATE, hiss, syllables
from tests.ww_data.mixing.made_blocks import block_of, noise_bank
from ww_data import MixingConfig, MixtureDraw, NoiseBank, SegmentBlock, mix_segments, segment_key
from ww_data.corpus.banks import BankRow
from ww_data.dsp import active_floor
from ww_data.mixing.draw import SnrOver, draw_mixture, mixture_rng
from ww_data.mixing.mix import mix
from ww_data.randomness import PhiloxStreams
from ww_data.write.pieces import to_pcm

FRAME = 320  # 20 ms


def draw_of(num_samples: int, **changes: object) -> MixtureDraw:
    draw = MixtureDraw(
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
    return replace(draw, **changes)


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
    draw = draw_of(num_samples, snr_db=snr_db, level_dbfs=level_dbfs, snr_over=over)
    noisy, clean = mix(speech, noise, draw, active_floor=floor)
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
    noisy, clean = mix(speech, noise, draw_of(RATE, level_dbfs=-30.0), active_floor=10**9)
    np.testing.assert_array_equal(clean, speech / np.float32(32768))
    difference = (noisy - clean).astype(np.float64)
    assert db(np.mean(difference**2)) == pytest.approx(-30.0, abs=1e-3)


@pytest.mark.parametrize("over", ["active", "clip"])
def test_silence_is_flagged_and_never_divided_by(over: SnrOver, tmp_path: Path) -> None:
    silence, speech, noise = np.zeros(RATE, np.int16), to_pcm(syllables(0, 1.0)), to_pcm(hiss(0, 1.0))
    config = MixingConfig(crop_s=None, snr_over=over)
    for is_noise, noise_T in ((False, silence), (True, noise)):
        block = block_of([silence, speech, to_pcm(0.0001 * hiss(0, 1.0))], floors=[0, 0, 10**9])
        NoiseBank.write(tmp_path / "bank", [BankRow("n", "n", 0, noise_T)], RATE)
        with np.errstate(all="raise"):
            mixed = mix_segments(block, 0, NoiseBank(tmp_path / "bank"), config, seed=0)
        assert mixed.speech_active_N.tolist() == [False, True, False]
        assert mixed.noise_active_N.tolist() == [is_noise] * 3
        assert np.isfinite(mixed.noisy_NT).all()
        assert not mixed.clean_NT[0].any()
        assert is_noise or (mixed.noisy_NT == mixed.clean_NT).all()


def test_a_word_s_last_sound_is_not_blown_up() -> None:
    """60 ms over the floor are no speech yet: their level says nothing about the speaker's."""
    speech = to_pcm(0.0001 * hiss(0, 1.0))
    speech[: 3 * FRAME] = to_pcm(0.02 * hiss(1, 3 * FRAME / RATE))
    floor = int((speech[: 3 * FRAME].astype(np.int64) ** 2).sum()) // 6
    _, clean = mix(speech, speech, draw_of(RATE), active_floor=floor)
    np.testing.assert_array_equal(clean, speech / np.float32(32768))


def test_padding_does_not_count_as_clip() -> None:
    speech, noise = to_pcm(hiss(0, 1.0)), to_pcm(hiss(1, 2.0))
    padded = np.concatenate([speech, np.zeros(RATE, np.int16)])
    draw = draw_of(2 * RATE, valid_samples=RATE, snr_over="clip", snr_db=10.0)
    noisy, clean = mix(padded, noise, draw)
    power = np.mean(clean[:RATE].astype(np.float64) ** 2)
    assert db(power / np.mean((noisy - clean).astype(np.float64) ** 2)) == pytest.approx(10.0, abs=1e-3)


@pytest.mark.parametrize("noise", [np.zeros(99, np.int16), np.zeros(100, np.float32)])
def test_what_does_not_fit_is_refused(noise: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected int16 PCM of 100 and 100 samples"):
        mix(np.zeros(100, np.int16), noise, draw_of(100))


# Draws


def draw(seed: int, epoch: int, key: int, config: MixingConfig | None = None) -> MixtureDraw:
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
    draw = draw_mixture(
        mixture_rng(0, 0, key),
        config,
        valid_samples=valid_samples,
        sample_rate=RATE,
        noise_lengths=lengths,
        segment_samples=64000,
    )
    assert draw.num_samples == (64000 if crop_s is None else round(crop_s * RATE))
    assert 0 <= draw.crop_start <= max(valid_samples - draw.num_samples, 0)
    assert 1 <= draw.valid_samples <= min(draw.num_samples, valid_samples)
    length = lengths[draw.noise_index]
    assert 0 <= draw.noise_start < length
    assert draw.noise_start + draw.num_samples <= length or length < draw.num_samples
    assert -5 <= draw.snr_db <= 25
    assert -35 <= draw.level_dbfs <= -15


def test_draws_never_change() -> None:
    """A run that goes on after an update must see what it would have seen. Keys use all 64 bits."""
    drawn = mixture_rng(1, 2, 2**64 - 1).random(3)
    np.testing.assert_array_equal(drawn, [0.11990613315378229, 0.0725959532679471, 0.6211192569680816])


@given(
    st.lists(st.tuples(*[st.integers(0, 2**32 - 1)] * 2, st.integers(0, 2**64 - 1)), min_size=1, max_size=5)
)
def test_one_generator_for_many_streams_gives_what_new_ones_give(names: list[tuple[int, int, int]]) -> None:
    streams = PhiloxStreams()
    for index, name in enumerate(names):
        num_drawn = index % 3 + 1  # what is left in its buffer is not seen again
        np.testing.assert_array_equal(
            streams.at(*name).random(num_drawn), mixture_rng(*name).random(num_drawn)
        )
        assert streams.at(*name).integers(0, 2**31, dtype=np.int32) == mixture_rng(*name).integers(
            0, 2**31, dtype=np.int32
        )


def test_levels_of_a_list_occur_equally_often() -> None:
    levels = (-5.0, 0.0, 10.0)
    drawn = [draw(0, 0, key, MixingConfig(snr_levels_db=levels)).snr_db for key in range(1500)]
    assert all(430 < drawn.count(level) < 570 for level in levels)
    assert set(drawn) == set(levels)


def test_draws_reach_all_of_their_ranges() -> None:
    draws = [draw(0, 0, key) for key in range(2000)]
    snrs = np.array([draw.snr_db for draw in draws])
    assert np.abs(np.histogram(snrs, 10, (-5, 25))[0] - 200).max() < 70
    assert set(np.bincount([draw.noise_index for draw in draws]) // 100) <= {5, 6, 7}
    starts = np.array([draw.crop_start for draw in draws])
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


def test_no_two_of_a_million_segments_share_a_key() -> None:
    """Of 10 million 64-bit keys, two are the same with a chance of 3 in a million, if all bits are used evenly."""
    keys = np.array(
        [
            segment_key("train", f"speech/{clip}.flac", 64000 * n)
            for clip in range(100_000)
            for n in range(10)
        ],
        np.uint64,
    )
    assert len(np.unique(keys)) == len(keys)
    share = np.array(
        [np.count_nonzero(keys >> np.uint64(bit) & np.uint64(1)) / len(keys) for bit in range(64)]
    )
    assert np.abs(share - 0.5).max() < 0.003  # 6 standard deviations
    # Draws of neighbours have nothing to do with each other either: any 32 of the bits collide as chance has it.
    for part in (keys >> np.uint64(32), keys & np.uint64(0xFFFFFFFF)):
        assert abs(len(keys) - len(np.unique(part)) - 116) < 60


@pytest.mark.parametrize(
    "wrong",
    [
        {"crop_s": 0.0},
        {"crop_s": float("nan")},
        {"snr_db": (5, -5)},
        {"snr_db": (0, float("inf"))},
        {"level_dbfs": (-20, 3)},
        {"snr_over": "peak"},
        {"snr_levels_db": (0, 200)},
        {"remix": 1.5},
        {"crop_s": "x"},
        {"crop_s": (1.5,)},
        {"snr_db": 5},
        {"snr_db": ("a", 1)},
        {"snr_db": None},
        {"snr_levels_db": 5},
        {"snr_levels_db": "5"},
        {"level_dbfs": (-20, -15, -10)},
        {"snr_over": ["active"]},
        {"remix": None},
        {"augment": "default"},
    ],
)
def test_settings_are_checked(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))} is .*: expected ") as failed:
        MixingConfig(**wrong)
    assert "\n" not in str(failed.value)


# Blocks


def make_block(num_rows: int, num_samples: int = 2 * RATE) -> SegmentBlock:
    clips = [to_pcm(syllables(row, num_samples / RATE)) for row in range(num_rows)]
    clips[0] = clips[0][:12000]  # a short one
    return block_of(clips)


@pytest.fixture
def bank(tmp_path: Path) -> NoiseBank:
    return noise_bank(tmp_path)


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
        draw = draw_mixture(
            mixture_rng(5, int(epochs[row]), int(block.key_N[row])),
            config,
            valid_samples=int(block.valid_samples_N[row]),
            sample_rate=RATE,
            noise_lengths=bank.lengths_N,
            segment_samples=2 * RATE,
        )
        assert draw == mixed.draws[row]
        speech = block.pcm_NT[row, draw.crop_start : draw.crop_start + draw.num_samples]
        noise = bank.crop(draw.noise_index, draw.noise_start, draw.num_samples)
        noisy, clean = mix(speech, noise, draw, active_floor=int(block.active_floor_N[row]))
        np.testing.assert_array_equal(noisy, mixed.noisy_NT[row])
        np.testing.assert_array_equal(clean, mixed.clean_NT[row])
        assert mixed.snr_db_N[row] == draw.snr_db


def test_another_epoch_is_another_mixture(bank: NoiseBank) -> None:
    block = make_block(4)
    one, two = (mix_segments(block, epoch, bank, MixingConfig(), seed=0) for epoch in (0, 1))
    assert all((a != b).any() for a, b in zip(one.noisy_NT, two.noisy_NT, strict=True))


def test_an_empty_block_is_mixed_to_nothing(bank: NoiseBank) -> None:
    mixed = mix_segments(make_block(2).take([]), [], bank, MixingConfig(), seed=0)
    assert mixed.noisy_NT.shape == (0, 24000)


def test_a_crop_longer_than_the_segments_is_refused(bank: NoiseBank) -> None:
    with pytest.raises(ValueError, match=r"crop_s is 2\.5 but the segments have 2 s"):
        mix_segments(make_block(2), 0, bank, MixingConfig(crop_s=2.5), seed=0)


# What was mixed from these sounds before there were augmentations.
BEFORE = [
    *(4523.005044989608, 1757.0756076237958, 2988.808787685739, 2540.0777574931344),
    *(695.4566958333453, 1034.1369335437375, 1905.5824234244792, 2023.1671118283994),
]


def test_mixtures_without_augmentation_never_change(bank: NoiseBank) -> None:
    """A run that goes on after an update must see what it would have seen, on one kind of machine bit for bit."""
    mixed = mix_segments(make_block(4), np.arange(4), bank, MixingConfig(level_dbfs=(-20, -10)), seed=5)
    sums = [float(np.abs(x_T.astype(np.float64)).sum()) for x_T in (*mixed.noisy_NT, *mixed.clean_NT)]
    np.testing.assert_allclose(sums, BEFORE, rtol=1e-9)


@pytest.mark.parametrize("remix", [0.0, 0.5])
def test_a_pair_s_own_noise_is_taken_where_it_was_recorded(remix: float, tmp_path: Path) -> None:
    ramp = (np.arange(4 * RATE) % 20000 + 1).astype(np.int16)
    rows = [BankRow("noise/x", "x", 0, ramp), BankRow("noise/z", "z", 0, to_pcm(hiss(1, 4.0)))]
    NoiseBank.write(tmp_path / "bank", rows, RATE)
    block = make_block(40)
    block = replace(block, clip_id_N=np.full(40, "speech/x", object), start_N=np.full(40, RATE))
    mixed = mix_segments(
        block, 0, NoiseBank(tmp_path / "bank"), MixingConfig(remix=remix, crop_s=1.0), seed=0
    )
    own = [draw.noise_index == 0 and draw.noise_start == RATE + draw.crop_start for draw in mixed.draws]
    assert sum(own) == 40 if remix == 0 else 8 < sum(own) < 32
    strangers = replace(block, clip_id_N=np.full(40, "speech/y", object))
    drawn = mix_segments(strangers, 0, NoiseBank(tmp_path / "bank"), MixingConfig(remix=0.0), seed=0).draws
    assert {draw.noise_index for draw in drawn} == {0, 1}
