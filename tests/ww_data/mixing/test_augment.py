"""Augmentations: drawn apart from each other, each does what it says, and none lets a row depend on its company."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ww_data.made_sounds import RATE, hiss, syllables
from tests.ww_data.mixing.made_blocks import block_of, noise_bank, room_bank
from ww_data import AugmentConfig, MixingConfig, Mixtures, NoiseBank, RoomBank, SegmentBlock, mix_segments
from ww_data.corpus.banks import BankRow
from ww_data.mixing.augment import EFFECTS
from ww_data.mixing.draw_effects import DRAWS, Echo
from ww_data.mixing.equaliser import mel_of
from ww_data.mixing.reverb import echo_kernel
from ww_data.randomness import scattered
from ww_data.write.pieces import to_pcm

LINEAR = ("gain_change", "equaliser", "telephone", "low_pass", "band_mask")
NOISY_SIDE = ("rumble", "clipping", "dropouts", "quantisation")
ALL = dict.fromkeys(EFFECTS, 0.5) | {"noise_only": 0.1, "clean_only": 0.1}


@functools.cache
def sources() -> tuple[SegmentBlock, NoiseBank, RoomBank]:
    folder = Path(tempfile.mkdtemp())
    clips = [to_pcm(syllables(row, 1.0)) for row in range(12)]
    clips[0] = clips[0][:9000]
    return block_of(clips), noise_bank(folder), room_bank(folder)


def mixed(crop_s: float | None = 0.7, epoch: int = 0, rooms: bool = True, **chances: float) -> Mixtures:
    block, bank, room_bank = sources()
    config = MixingConfig(crop_s=crop_s, augment=AugmentConfig(**chances))
    return mix_segments(block, epoch, bank, config, 0, room_bank if rooms else None)


# Configuration


def test_a_chain_gives_what_is_not_set() -> None:
    assert AugmentConfig().is_off
    default = AugmentConfig(chain="default")
    assert {name for name in EFFECTS if getattr(default, name)} == {
        "room",
        "equaliser",
        "band_mask",
        "second_noise",
    }
    changed = AugmentConfig(chain="default", room=0, clipping=0.2)
    assert (changed.room, changed.clipping, changed.equaliser) == (0.0, 0.2, default.equaliser)
    assert AugmentConfig(**asdict(changed)) == changed
    assert AugmentConfig(chain="default", room=None) == default
    assert default.chances == {name: getattr(default, name) for name in EFFECTS}
    assert hash(MixingConfig(augment=changed)) == hash(MixingConfig(augment=AugmentConfig(**asdict(changed))))


@pytest.mark.parametrize(
    "wrong",
    [
        {"room": 1.2},
        {"room": float("nan")},
        {"chain": "all"},
        {"noise_only": 0.6, "clean_only": 0.5},
        {"speed_factor": (1.1, 0.9)},
        {"early_ms": -1.0},
        {"quantisation_bits": (0, 8)},
        {"quantisation_bits": (6.5, 8)},
        {"clipping_db": (1.0,)},
        {"clipping_db": 3.0},
        {"clipping_db": ("a", 3.0)},
        {"early_ms": (1.0, 2.0)},
        {"early_ms": None},
        {"room": "x"},
        {"room": (0.1, 0.2)},
        {"room": -1.0},
        {"room": True},
        {"chain": ["default"]},
        {"third_noise": 0.5},
        {"third_noise": 0.5, "second_noise": 0.0, "chain": "default"},
    ],
)
def test_settings_are_checked(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=rf"augment\.{next(iter(wrong))} is .*: expected") as failed:
        AugmentConfig(**wrong)
    assert "\n" not in str(failed.value)


def test_settings_may_come_as_lists_and_numpy_numbers() -> None:
    config = AugmentConfig(
        room=np.float32(0.5), clipping_db=[1, 2], quantisation_bits=np.array([6, 8]), early_ms=20
    )
    assert (config.room, config.clipping_db, config.quantisation_bits) == (0.5, (1.0, 2.0), (6, 8))
    assert hash(config) == hash(
        AugmentConfig(room=0.5, clipping_db=(1.0, 2.0), quantisation_bits=(6, 8), early_ms=20.0)
    )


# Draws


@pytest.mark.parametrize("crop_s", [0.7, None])
def test_chances_of_0_and_absent_rooms_leave_the_mixture_as_it_is(crop_s: float | None) -> None:
    plain = mixed(crop_s)
    for other in (mixed(crop_s, room=0.0, clean_only=0.0), mixed(crop_s, rooms=False, room=1.0)):
        np.testing.assert_array_equal(other.noisy_NT, plain.noisy_NT)
        np.testing.assert_array_equal(other.clean_NT, plain.clean_NT)


def test_one_effect_s_chance_does_not_change_what_others_draw() -> None:
    fields_of = {"room": ("room_index",), "echo": ("echo",), "speed": (), "equaliser": ("biquads",)}
    fields_of |= {
        "telephone": ("pass_band_hz",),
        "low_pass": ("pass_band_hz",),
        "band_mask": ("masked_band_hz",),
    }
    fields_of |= {
        "clipping": ("clipping_db",),
        "second_noise": ("further_noises",),
        "third_noise": ("further_noises",),
    }
    both = [draw.augmentation for draw in mixed(**ALL).draws]
    for name in EFFECTS:
        own = fields_of.get(name, (name,)) + (("echo",) if name == "room" else ())
        off = {name: 0.0, "third_noise": 0.0} if name == "second_noise" else {name: 0.0}
        without = [draw.augmentation for draw in mixed(**(ALL | off)).draws]
        for one, other in zip(both, without, strict=True):
            one_drawn, other_drawn = ({} if a is None else asdict(a) for a in (one, other))
            for field in (one_drawn.keys() & other_drawn.keys()) - set(own):
                assert one_drawn[field] == other_drawn[field], (name, field)


def test_each_effect_occurs_as_often_as_asked_for() -> None:
    block, bank, _ = sources()
    many = block.take(np.zeros(600, int))
    many = replace(
        many,
        key_N=np.arange(600, dtype=np.uint64),
        pcm_NT=many.pcm_NT[:, :3200],
        valid_samples_N=np.full(600, 3200),
    )
    config = MixingConfig(
        crop_s=0.1,
        augment=AugmentConfig(
            clipping=0.3, second_noise=0.5, third_noise=0.5, noise_only=0.2, clean_only=0.1
        ),
    )
    draws = [draw.augmentation for draw in mix_segments(many, 0, bank, config, seed=1).draws]
    found = [draw for draw in draws if draw is not None]
    assert 130 < sum(draw.clipping_db is not None for draw in found) < 230
    assert 250 < sum(len(draw.further_noises) > 0 for draw in found) < 350
    assert 100 < sum(len(draw.further_noises) == 2 for draw in found) < 200
    assert 80 < sum(draw.noise_only for draw in found) < 165
    assert 35 < sum(draw.clean_only for draw in found) < 90


def test_new_draws_come_last() -> None:
    """A run that goes on after an update must draw what it would have drawn: never take any of these away."""
    assert DRAWS[:5] == ("remix", "speed", "speed_factor", "room", "room_index")
    assert (len(set(DRAWS)), DRAWS.index("quantisation_mu_law")) == (len(DRAWS), 44)
    assert DRAWS[45:] == ("rumble", "rumble_dbfs", "rumble_tones")


# What is mixed


@settings(deadline=None, max_examples=12)
@given(
    st.permutations(range(12)), st.integers(1, 12), st.sampled_from([0.7, None]), st.integers(0, 2**32 - 1)
)
def test_a_row_is_the_same_bit_for_bit_in_any_company(
    order: list[int], num_rows: int, crop_s: float | None, seed: int
) -> None:
    """With all effects on: what a worker mixes depends on nothing but seed, epoch and segment."""
    block, bank, rooms = sources()
    config = MixingConfig(crop_s=crop_s, level_dbfs=(-25, -5), augment=AugmentConfig(**ALL))
    rows, epochs = np.array(order[:num_rows]), np.arange(12) % 3
    whole = mix_segments(block, epochs, bank, config, seed, rooms)
    part = mix_segments(block.take(rows), epochs[rows], bank, config, seed, RoomBank(rooms.paths))
    np.testing.assert_array_equal(part.noisy_NT, whole.noisy_NT[rows])
    np.testing.assert_array_equal(part.clean_NT, whole.clean_NT[rows])
    assert list(part.draws) == [whole.draws[row] for row in rows]
    assert np.isfinite(whole.noisy_NT).all()
    assert max(np.abs(whole.noisy_NT).max(), np.abs(whole.clean_NT).max()) <= 1.0


@pytest.mark.parametrize("name", EFFECTS)
def test_each_effect_has_an_effect_on_its_sides(name: str) -> None:
    plain = mixed(second_noise=float(name == "third_noise"))
    effect = mixed(**{name: 1.0} | ({"second_noise": 1.0} if name == "third_noise" else {}))
    changed_noisy = (effect.noisy_NT != plain.noisy_NT).any(axis=1)
    changed_clean = (effect.clean_NT != plain.clean_NT).any(axis=1)
    assert changed_noisy.sum() >= 4  # a speed of 1 or no lost packet is drawn now and then
    assert changed_clean.any() == (name in (*LINEAR, "speed", "room", "echo", "noise_only"))


@pytest.mark.parametrize("extra", [{}, {"second_noise": 1.0, "third_noise": 1.0}, {"speed": 1.0}])
def test_the_difference_is_noise_at_the_snr_drawn(extra: dict[str, float]) -> None:
    """Over the whole crop. The noise is whatever the bank's clips add up to; it correlates with each of them."""
    block, bank, _ = sources()
    config = MixingConfig(crop_s=0.7, snr_over="clip", level_dbfs=(-40, -30), augment=AugmentConfig(**extra))
    result = mix_segments(block.take(range(1, 12)), 0, bank, config, 0)
    for noisy, clean, draw in zip(result.noisy_NT, result.clean_NT, result.draws, strict=True):
        drawn = draw.augmentation.further_noises if draw.augmentation else ()
        sounds = [bank.crop(draw.noise_index, draw.noise_start, draw.num_samples)]
        sounds += [bank.crop(noise.noise_index, noise.noise_start, draw.num_samples) for noise in drawn]
        levels_db = np.array([0.0, *(noise.level_db for noise in drawn)])
        scaled = [x / np.sqrt(np.mean(x.astype(np.float64) ** 2)) for x in sounds]
        expected = sum(10 ** (level / 20) * x for level, x in zip(levels_db, scaled, strict=True))
        difference = noisy.astype(np.float64) - clean
        gain = difference @ expected / (expected @ expected)
        np.testing.assert_allclose(difference, gain * expected, atol=1e-7)
        ratio = np.mean(clean.astype(np.float64) ** 2) / np.mean((gain * expected) ** 2)
        assert 10 * np.log10(ratio) == pytest.approx(draw.snr_db, abs=2e-3)


def test_in_a_room_the_snr_is_that_of_what_is_heard() -> None:
    """The noisy side less the reverberant speech is the noise; without noise, the noisy side is that speech."""
    block, bank, rooms = sources()
    config = MixingConfig(crop_s=0.7, snr_over="clip", level_dbfs=(-40, -30), augment=AugmentConfig(room=1.0))
    heard_only = replace(config, augment=AugmentConfig(room=1.0, clean_only=1.0))
    rows = block.take(range(1, 12))
    noisy, heard = (mix_segments(rows, 0, bank, choice, 0, rooms) for choice in (config, heard_only))
    np.testing.assert_array_equal(noisy.clean_NT, heard.clean_NT)
    noise_NT = noisy.noisy_NT.astype(np.float64) - heard.noisy_NT
    ratio_N = np.mean(heard.noisy_NT.astype(np.float64) ** 2, axis=1) / np.mean(noise_NT**2, axis=1)
    np.testing.assert_allclose(10 * np.log10(ratio_N), noisy.snr_db_N, atol=0.01)
    late_N = np.mean((heard.noisy_NT - heard.clean_NT).astype(np.float64) ** 2, axis=1)
    assert (late_N > 1e-4 * np.mean(heard.clean_NT.astype(np.float64) ** 2, axis=1)).all()


@pytest.mark.parametrize("effect", ["room", "echo"])
def test_a_pause_stays_a_pause_where_it_reverberates(effect: str, tmp_path: Path) -> None:
    """Reverberation adds 5 dB here, to the breath in the pause as well; the level is that of the speech alone."""
    x = np.concatenate([10 ** (-31 / 20) * hiss(0, 0.5), hiss(1, 0.5)])
    block, bank = block_of([to_pcm(x)]), noise_bank(tmp_path)
    response = np.concatenate(
        [[1.0], np.full(240, 0.1) * np.sign(np.random.default_rng(0).standard_normal(240))]
    )
    RoomBank.write(tmp_path / "rooms", [BankRow("r", "r", 0, response.astype(np.float32))], RATE)
    echo = {"echo_initial": (0.3, 0.3), "echo_delay_ms": (3.0, 3.0), "echo_rt60_s": (0.1, 0.1)}
    augment = AugmentConfig(clean_only=1.0, **{effect: 1.0}, **echo)
    config = MixingConfig(crop_s=None, level_dbfs=(-30, -30), augment=augment)
    heard = mix_segments(block, 0, bank, config, 0, RoomBank(tmp_path / "rooms")).noisy_NT[0]
    speech_dbfs = 10 * np.log10(np.mean(heard[8000:].astype(np.float64) ** 2))
    assert speech_dbfs == pytest.approx(-30, abs=0.4)


def test_noise_only_and_clean_only() -> None:
    noise_only, clean_only = mixed(noise_only=1.0), mixed(clean_only=1.0)
    assert not noise_only.clean_NT.any()
    assert noise_only.noisy_NT.any(axis=1).all()
    assert not noise_only.speech_active_N.any()
    np.testing.assert_array_equal(clean_only.noisy_NT, clean_only.clean_NT)
    assert not clean_only.noise_active_N.any()
    spoilt = mixed(clean_only=1.0, quantisation=1.0)
    np.testing.assert_array_equal(spoilt.clean_NT, clean_only.clean_NT)


def test_linear_effects_are_the_same_on_both_sides() -> None:
    """Without noise both sides stay equal; with it, the noise alone went through the same."""
    for name in LINEAR:
        both = mixed(clean_only=1.0, **{name: 1.0})
        np.testing.assert_array_equal(both.noisy_NT, both.clean_NT)


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_faster_speech_is_higher_and_ends_early(factor: float, tmp_path: Path) -> None:
    t = np.arange(RATE) / RATE
    block, bank = block_of([to_pcm(0.3 * np.sin(2 * np.pi * 1000 * t))]), noise_bank(tmp_path)
    augment = AugmentConfig(speed=1.0, speed_factor=(factor, factor))
    for crop_s in (0.5, None):
        config = MixingConfig(crop_s=crop_s, augment=augment)
        result = mix_segments(block, 0, bank, config, 0)
        tone = result.clean_NT[0][: result.draws[0].valid_samples]
        assert len(tone) == (12800 if (crop_s, factor) == (None, 1.25) else result.clean_NT.shape[1])
        peak_hz = np.abs(np.fft.rfft(tone * np.hanning(len(tone)))).argmax() * RATE / len(tone)
        assert peak_hz == pytest.approx(1000 * factor, abs=3)
        assert not result.clean_NT[0][len(tone) :].any()


# Single effects


def test_rumble_is_on_the_noisy_side_alone() -> None:
    quiet, rumbles = mixed(), mixed(rumble=1.0, rumble_dbfs=(-40.0, -40.0))
    np.testing.assert_array_equal(rumbles.clean_NT, quiet.clean_NT)
    added = (rumbles.noisy_NT - quiet.noisy_NT).astype(np.float64)
    assert np.sqrt(np.mean(added**2, axis=1)).max() < 0.02
    assert np.abs(added).max(axis=1).min() > 0


def test_echoes_decay_in_time() -> None:
    echo = Echo(initial=0.3, delay_s=0.02, rt60_s=0.5, kept=0.1, jitter_key=5)
    kernel = echo_kernel(echo, RATE)
    found = np.flatnonzero(kernel)
    assert 285 <= found[0] <= 355
    assert kernel.max() <= 3 * 0.3 + 1e-6
    assert len(kernel) == pytest.approx(0.5 * RATE, rel=0.25)
    assert kernel[found[-1]] < 0.3 * 1.1e-3
    assert kernel[found].min() > 0
    np.testing.assert_array_equal(echo_kernel(echo, RATE), kernel)
    assert (echo_kernel(echo._replace(jitter_key=6), RATE)[: len(kernel)] != kernel[: len(kernel)]).any()


def test_an_echo_keeps_its_part_in_the_target() -> None:
    for kept in (0.0, 1.0):
        block, bank, _ = sources()
        augment = AugmentConfig(echo=1.0, clean_only=1.0, echo_kept=kept, echo_initial=(0.3, 0.3))
        result = mix_segments(block, 0, bank, MixingConfig(crop_s=0.7, augment=augment), 0)
        assert (np.abs(result.noisy_NT - result.clean_NT).max() > 1e-4) == (kept == 0.0)


def test_masked_bands_lie_within_the_mel_scale() -> None:
    for epoch in range(5):
        for draw in mixed(crop_s=0.1, band_mask=1.0, epoch=epoch).draws:
            low_hz, high_hz = draw.augmentation.masked_band_hz
            assert 40 - 1e-6 <= low_hz <= high_hz <= 8000 + 1e-6
            assert mel_of(high_hz) - mel_of(low_hz) <= 0.2 * (mel_of(8000) - mel_of(40)) + 1e-6


def test_scattered_numbers_never_change_and_are_even() -> None:
    numbers = scattered(2**53 - 1, 10000)
    assert np.histogram(numbers, 10, (0, 1))[0].min() > 900
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.04
    np.testing.assert_array_equal(numbers[:100], scattered(2**53 - 1, 100))
    assert scattered(0, 1)[0] == pytest.approx(0.8833108082136426, abs=1e-15)


def test_silent_noises_are_never_divided_by(tmp_path: Path) -> None:
    silence = BankRow("a", "a", 0, np.zeros(RATE, np.int16))
    NoiseBank.write(tmp_path / "bank", [silence, BankRow("b", "b", 0, to_pcm(hiss(0, 1.0)))], RATE)
    block, _, rooms = sources()
    config = MixingConfig(crop_s=0.5, augment=AugmentConfig(**(ALL | {"second_noise": 1.0})))
    block = replace(block, pcm_NT=np.where(np.arange(12)[:, None] % 3 > 0, block.pcm_NT, 0).astype(np.int16))
    with np.errstate(divide="raise", invalid="raise"):
        result = mix_segments(block, np.arange(12), NoiseBank(tmp_path / "bank"), config, 0, rooms)
    assert np.isfinite(result.noisy_NT).all()
