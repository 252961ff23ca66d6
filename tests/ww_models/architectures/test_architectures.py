"""What holds for every architecture, in every form."""

from collections.abc import Iterable
from math import lcm

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ww_models.samples import (
    CAUSAL_PRESETS,
    COMPACT_PRESETS,
    SMALL,
    SMALL_BOUNDED,
    SMALL_CAUSAL,
    noise,
    small,
    speech_like,
)
from ww_models import PRESETS, Denoiser, DenoisingLoss, LossConfig, build_model, si_sdr_db

LENGTHS = [1, 2, 3, 15, 16, 17, 63, 64, 65, 255, 256, 257, 1000, 1023, 1024, 1025, 4001]


def lookahead(model: Denoiser, outputs: Iterable[int], num_samples: int) -> int:
    """How far ahead of output sample n its gradient reaches in the input, the most over `outputs`."""
    for module in model.modules():
        if isinstance(module, torch.nn.Conv1d | torch.nn.ConvTranspose1d):
            # No unit may sleep: behind a ReLU that is off no gradient passes.
            module.weight.data.abs_()
            if module.bias is not None:
                module.bias.data.abs_().add_(1)
    noisy = noise(num_samples).requires_grad_()
    estimate = model.eval()(noisy)
    furthest = -num_samples
    for n in outputs:
        (gradient,) = torch.autograd.grad(estimate[0, 0, n], noisy, retain_graph=True)
        furthest = max(furthest, int(gradient[0, 0].nonzero().max()) - n)
    return furthest


@pytest.mark.parametrize("name", SMALL)
def test_output_has_the_shape_of_the_input_for_any_length(name: str) -> None:
    model = small(name).eval()
    for num_samples in LENGTHS:
        with torch.no_grad():
            estimate = model(noise(num_samples, batch=2))
        assert estimate.shape == (2, 1, num_samples)
        assert estimate.isfinite().all()
        assert model.valid_length(num_samples) >= num_samples


@pytest.mark.parametrize("name", PRESETS)
def test_presets_run_on_one_sample_and_on_an_odd_length(name: str) -> None:
    model = build_model(**PRESETS[name]).eval()
    for num_samples in (1, 1501):
        with torch.no_grad():
            assert model(noise(num_samples)).shape == (1, 1, num_samples)


@pytest.mark.parametrize("shape", [(16,), (1, 16), (1, 2, 16), (1, 1, 0)])
def test_a_wrong_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"takes \(batch, 1, samples\)"):
        small("gatewave")(torch.zeros(shape))


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    model = small(name).train()
    estimate = model(speech_like(4000, batch=2) + noise(4000, batch=2))
    (estimate - speech_like(4000, batch=2)).square().sum().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.abs().max() > 0, parameter_name


@pytest.mark.parametrize("normalize", ["running", "none"])
@pytest.mark.parametrize("name", SMALL_BOUNDED)
def test_the_output_looks_exactly_as_far_ahead_as_is_said(name: str, normalize: str) -> None:
    model = small(name, normalize=normalize)
    assert model.lookahead_samples is not None
    start = 4 * model.hop_samples
    outputs = range(start, start + model.stride)
    num_samples = start + model.stride + model.lookahead_samples + 500
    furthest = lookahead(model, outputs, num_samples)
    assert furthest == model.lookahead_samples
    assert furthest <= (model.latency_samples or furthest)


@pytest.mark.parametrize("name", CAUSAL_PRESETS)
def test_presets_look_exactly_as_far_ahead_as_they_say(name: str) -> None:
    # Channels don't change the look-ahead, so narrow models stand for the wide ones.
    model = build_model(**{**PRESETS[name], "hidden": 2})
    full = build_model(**PRESETS[name])
    assert full.lookahead_samples == model.lookahead_samples is not None
    assert full.latency_samples == model.latency_samples is not None
    start = 2 * model.stride
    num_samples = start + model.stride + model.latency_samples + 500
    # Where the model says that it looks furthest, and a coarse grid over the rest of a period.
    worst = max(range(start, start + model.stride), key=lambda n: model._last_input(n) - n)
    outputs = [worst, *range(start, start + model.stride, max(1, model.stride // 16))]
    furthest = lookahead(model, outputs, num_samples)
    assert furthest == model.lookahead_samples
    assert furthest <= model.latency_samples


@pytest.mark.parametrize("name", SMALL_CAUSAL)
def test_latency_is_the_lookahead_and_the_wait_for_the_end_of_a_hop(name: str) -> None:
    running, none = small(name, normalize="running", level_hop=96), small(name, normalize="none")
    assert none.hop_samples == none.stride
    assert none.latency_samples == none.lookahead_samples
    assert running.lookahead_samples == none.lookahead_samples
    # The level moves on a grid of its own: a step ends where both grids meet.
    assert running.hop_samples == lcm(running.stride, 96)
    assert running.latency_samples == running.lookahead_samples + running.hop_samples - running.stride


def test_models_that_need_the_whole_clip_have_no_latency() -> None:
    assert small("gatewave-original").latency_samples is None
    assert small("gatewave", normalize="utterance").latency_samples is None
    assert small("waveunet-both-ways").latency_ms is None
    # It looks both ways, if not far, and is streamed in windows.
    assert small("waveunet-original", normalize="none").latency_samples is None


LATENCIES = {
    "bandmask-compact": 511,
    "demucs48": 763,
    "demucs64": 763,
    "demucs-compact": 536,
    "gatewave": 2387,
    "gatewave-compact": 595,
    "waveunet-compact": 255,
    "waveunet": None,
}


@pytest.mark.parametrize("name", PRESETS)
def test_latencies_of_the_presets(name: str) -> None:
    assert build_model(**PRESETS[name]).latency_samples == LATENCIES[name]


@pytest.mark.parametrize("name", COMPACT_PRESETS)
def test_compact_presets_are_small_and_quick(name: str) -> None:
    model = build_model(**PRESETS[name])
    assert model.macs_per_second <= 0.5e9
    assert model.num_parameters <= 3e6
    assert model.latency_ms is not None
    assert model.latency_ms <= 40


@pytest.mark.parametrize("name", SMALL)
def test_macs_are_those_of_a_run(name: str) -> None:
    """Against torch's own count of a run, long enough for padding to matter little."""
    from torch.utils.flop_counter import FlopCounterMode

    model = small(name).eval()
    macs = {"all": 0.0}

    def count_recurrent(module: torch.nn.Module, inputs: tuple[torch.Tensor], _: object) -> None:
        # torch does not see inside an LSTM: its weights are used once per time step (time comes first).
        macs["all"] += inputs[0].shape[0] * sum(p.numel() for p in module.parameters() if p.dim() > 1)

    for module in model.modules():
        if isinstance(module, torch.nn.LSTM):
            module.register_forward_hook(count_recurrent)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(noise(4000))
    flops = counter.get_flop_counts()["Global"]
    macs["all"] += sum(count for op, count in flops.items() if "conv" in str(op) or "mm" in str(op)) / 2
    assert macs["all"] * 4 == pytest.approx(model.macs_per_second, rel=0.1)


@pytest.mark.parametrize("name", ["waveunet", "demucs", "gatewave", "bandmask"])
def test_running_level_makes_the_output_follow_the_input_once_settled(name: str) -> None:
    model = small(name).eval()
    noisy = speech_like(96_000) + noise(96_000)
    with torch.no_grad():
        quiet, loud = model(noisy), model(10 * noisy)
    error = (loud / 10 - quiet)[..., 80_000:].square().mean().sqrt()
    assert error < 0.01 * quiet[..., 80_000:].square().mean().sqrt()


@pytest.mark.parametrize(
    "name", ["waveunet-original", "demucs-original", "gatewave-original", "bandmask-both-ways"]
)
def test_utterance_level_makes_the_output_follow_the_input_exactly(name: str) -> None:
    model = small(name, level_floor=1e-9).eval()
    noisy = speech_like(8000) + noise(8000)
    with torch.no_grad():
        torch.testing.assert_close(model(8 * noisy), 8 * model(noisy), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", PRESETS)
def test_no_layer_is_shared_between_levels(name: str) -> None:
    """Earlier implementations gave all blocks one activation object, whose parameter then fitted none of them."""
    model = build_model(**PRESETS[name])
    each = [id(module) for _, module in model.named_modules(remove_duplicate=False)]
    assert len(each) == len(set(each))


def test_wave_u_net_has_no_convolution_in_the_middle() -> None:
    """An unused one had 221 M parameters: all there is are the levels' own."""
    model = build_model(**PRESETS["waveunet"])
    levels = [*model.encoder.parameters(), *model.decoder.parameters()]
    assert model.num_parameters == sum(parameter.numel() for parameter in levels) < 2.5e6


@pytest.mark.parametrize("name", ["waveunet", "demucs", "gatewave"])
def test_output_is_not_squashed(name: str) -> None:
    """No norm and no activation on the output, which would keep it from following the input's level."""
    *_, last = (module for module in small(name).decoder.modules() if not list(module.children()))
    assert isinstance(last, torch.nn.Conv1d | torch.nn.ConvTranspose1d)


@pytest.mark.parametrize("name", ["waveunet", "demucs", "gatewave", "bandmask"])
@given(cut=st.integers(1, 3000))
@settings(max_examples=10, deadline=None)
def test_a_longer_clip_changes_nothing_that_was_settled(name: str, cut: int) -> None:
    """The law that a stream rests on: what was said up to n - latency stays said."""
    torch.manual_seed(0)
    model = small(name).eval()
    noisy = noise(4000)
    with torch.no_grad():
        whole, part = model(noisy), model(noisy[..., :cut])
    assert model.latency_samples is not None
    settled = max(0, cut - model.latency_samples)
    torch.testing.assert_close(part[..., :settled], whole[..., :settled], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", SMALL_CAUSAL)
@given(cut=st.integers(1, 3000))
@settings(max_examples=10, deadline=None)
def test_the_end_of_a_clip_is_the_clip_followed_by_silence(name: str, cut: int) -> None:
    torch.manual_seed(0)
    model = small(name).eval()
    noisy = noise(cut)
    with torch.no_grad():
        followed = model(torch.cat([noisy, torch.zeros(1, 1, 500)], dim=-1))[..., :cut]
        torch.testing.assert_close(model(noisy), followed, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", SMALL)
def test_items_of_a_batch_do_not_mix(name: str) -> None:
    model = small(name).eval()
    noisy = torch.cat([noise(2000, seed=1), 30 * noise(2000, seed=2)])
    with torch.no_grad():
        torch.testing.assert_close(model(noisy)[:1], model(noisy[:1]), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["waveunet", "demucs", "gatewave", "bandmask"])
def test_a_training_step_in_mixed_precision_is_finite(name: str) -> None:
    model = small(name).train()
    clean = speech_like(3000, batch=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        estimate = model(clean + noise(3000, batch=2))
        total = DenoisingLoss(LossConfig(compressed_weight=1.0, si_sdr_weight=0.1))(estimate, clean).total
    total.backward()
    assert total.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_an_architecture_that_lacks_a_part_cannot_be_built() -> None:
    class Unfinished(Denoiser):
        name = "unfinished"

    with pytest.raises(TypeError, match=r"abstract method.*streaming_step"):
        Unfinished(build_model("gatewave", hidden=2).config)


def test_demucs_has_the_parameters_of_denoiser() -> None:
    """Names and count of dns48, so that its public checkpoint loads."""
    model = build_model("demucs", hidden=48)
    names = dict(model.state_dict())
    assert model.num_parameters == 18_867_937
    assert names["encoder.0.0.weight"].shape == (48, 1, 8)
    assert names["encoder.4.2.weight"].shape == (2 * 768, 768, 1)
    assert names["lstm.lstm.weight_ih_l0"].shape == (4 * 768, 768)
    assert names["decoder.0.0.weight"].shape == (2 * 768, 768, 1)
    assert names["decoder.4.2.weight"].shape == (48, 1, 8)
    assert not any("resampler" in name or "linear" in name for name in names)
    both_ways = build_model("demucs", hidden=4, depth=2, causal=False)
    assert both_ways.state_dict()["lstm.linear.weight"].shape == (8, 16)


@pytest.mark.parametrize("name", COMPACT_PRESETS)
def test_compact_presets_learn(name: str) -> None:
    """A few steps on one mixture gain some dB on it."""
    clean = speech_like(4000, batch=2)
    noisy = clean + noise(4000, batch=2, rms=0.08)
    model = build_model(**PRESETS[name])
    # The initial level of a training stream is drawn: the same each time here, since the mixture is.
    loss = DenoisingLoss(LossConfig(l1_weight=0, stft_weight=0, si_sdr_weight=1))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(30):
        optimizer.zero_grad()
        loss(model(noisy), clean).total.backward()
        optimizer.step()
    with torch.no_grad():
        gain_db = si_sdr_db(clean, model(noisy)) - si_sdr_db(clean, noisy)
    assert gain_db.mean() > 3
