"""The level normaliser by itself."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ww_models.samples import noise, speech_like
from ww_models.layers.level import LevelNormalizer, decaying_sums, uniform_from_bits


def running(hop: int = 64, memory_hops: float = 20.0, floor: float = 1e-3) -> LevelNormalizer:
    return LevelNormalizer(mode="running", hop=hop, memory_hops=memory_hops, floor=floor).eval()


@given(num_hops=st.integers(1, 400), decay=st.floats(0.0, 0.9999))
@settings(max_examples=30, deadline=None)
def test_decaying_sums_are_the_recursion(num_hops: int, decay: float) -> None:
    values = torch.rand(2, num_hops, dtype=torch.float64)
    state = torch.rand(2, dtype=torch.float64)
    sums = decaying_sums(values, state, decay)
    for k in range(num_hops):
        torch.testing.assert_close(sums[:, k], state)
        state = decay * state + values[:, k]
    torch.testing.assert_close(sums[:, -1], state)


def test_running_level_is_causal_and_updated_once_per_hop() -> None:
    level = running(hop=64)
    x = noise(1000)
    _, scale = level(x)
    changed = x.clone()
    changed[..., 500:] *= 100
    _, other = level(changed)
    # Samples 500 to 511 end hop 7, so the level first differs at 512, where hop 8 begins.
    assert torch.equal(scale[..., :512], other[..., :512])
    assert (other[..., 512:] > scale[..., 512:]).all()
    hops = scale[0, 0, : 15 * 64].reshape(15, 64)
    assert torch.equal(hops, hops[:, :1].expand(15, 64))


def test_output_is_multiplied_by_what_the_input_was_divided_by() -> None:
    for mode in ("running", "none"):
        level = LevelNormalizer(mode=mode, hop=64, memory_hops=20, floor=1e-3).eval()
        x = noise(777, batch=3)
        scaled, scale = level(x)
        torch.testing.assert_close(scaled * scale, x)


@pytest.mark.parametrize("rms", [1e-2, 0.1, 0.7])
def test_running_level_settles_at_the_level_of_the_signal(rms: float) -> None:
    scaled, _ = running()(noise(64 * 100, rms=rms))
    assert scaled[..., 64 * 50 :].square().mean().sqrt() == pytest.approx(1, rel=0.1)


def test_a_pause_at_the_start_does_not_make_the_first_word_loud() -> None:
    x = torch.cat([torch.zeros(1, 1, 8000), speech_like(16_000)], dim=-1)
    scaled, _ = LevelNormalizer(mode="running", hop=256, memory_hops=125, floor=1e-3).eval()(x)
    assert scaled[..., 8000:12_000].square().mean().sqrt() < 4


def test_silence_is_not_raised_above_the_floor() -> None:
    scaled, scale = running(floor=1e-3)(torch.zeros(1, 1, 64 * 500))
    assert (scaled == 0).all()
    assert scale.min() == pytest.approx(1e-3)


def test_utterance_level_is_that_of_denoiser() -> None:
    x = noise(5000, batch=2)
    level = LevelNormalizer(mode="utterance", hop=64, memory_hops=20, floor=1e-3)
    scaled, scale = level(x)
    torch.testing.assert_close(scale, x.std(dim=-1, keepdim=True))
    torch.testing.assert_close(scaled, x / (1e-3 + x.std(dim=-1, keepdim=True)))


def test_training_starts_at_many_levels_drawn_from_the_item_alone() -> None:
    level = running(hop=256).train()
    items = speech_like(24_000, batch=4).repeat(16, 1, 1) + noise(24_000, batch=64)
    _, scale = level(items)
    first_db = 20 * torch.log10(scale[:, 0, 0])
    crop_db = 10 * torch.log10(items.square().mean(dim=(1, 2)))
    is_cold = (first_db + 25).abs() < 1e-3
    assert 4 <= is_cold.sum() <= 32
    jitter_db = (first_db - crop_db)[~is_cold]
    assert jitter_db.abs().max() <= 20.01
    assert jitter_db.abs().max() > 10
    assert 0.1 <= (jitter_db.abs() <= 6).float().mean() <= 0.5
    # The same draw alone, in another order, and again.
    _, alone = level(items[5:6])
    torch.testing.assert_close(alone, scale[5:6])


def test_draws_are_uniform_and_depend_on_every_sample() -> None:
    items = torch.randn(2000, 100)
    draws = uniform_from_bits(items)
    assert draws.min() >= 0
    assert draws.max() < 1
    assert torch.histc(draws, 10, 0, 1).min() > 140
    for index in (0, 50, 99):
        other = items[:1].clone()
        other[0, index] += 1e-3
        assert uniform_from_bits(other) != draws[0]
