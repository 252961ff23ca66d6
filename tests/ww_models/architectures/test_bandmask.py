"""What BandMask does to a spectrum, to silence and to very quiet sound."""

import numpy as np
import pytest
import torch

from tests.ww_models.samples import heard, noise, small, speech_like
from ww_models import PRESETS, BandMask, DenoisingLoss, LossConfig, build_model
from ww_models.architectures.bandmask import filtered
from ww_models.streaming.onnx_engine import OnnxEngine
from ww_models.streaming.streamer import Streamer

FORMS = ["bandmask", "bandmask-dense", "bandmask-both-ways"]


def forced(name: str, *, gain: float, tap: int | None = None) -> BandMask:
    """A model that sets all gains to `gain` (0 or 1) and one tap to 1: that of so many frames ago."""
    model = small(name, normalize="none").eval()
    assert isinstance(model, BandMask)
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.zero_()
        model.bins.bias.fill_(100.0 if gain else -200.0)
        if tap is not None:
            num_bands, num_low = model.config.num_bands, model.config.num_low_bins
            taps = model.head.bias[num_bands:].view(model.config.num_taps, 2, num_low)
            taps[model.config.num_taps - 1 - tap, 0] = 1.0
    return model


@pytest.mark.parametrize("name", FORMS)
def test_gains_of_one_give_the_input(name: str) -> None:
    noisy = noise(1001, batch=2, rms=0.3)
    with torch.no_grad():
        torch.testing.assert_close(forced(name, gain=1.0)(noisy), noisy, rtol=0, atol=1e-5)


def test_taps_of_one_pass_the_low_bins() -> None:
    time = torch.arange(4000)
    low, high = ((2 * torch.pi * bin_ / 64 * time).sin()[None, None] for bin_ in (4, 28))
    with torch.no_grad():
        given = forced("bandmask", gain=0.0, tap=0)(low + high)
    torch.testing.assert_close(given[..., 64:-64], low[..., 64:-64], rtol=0, atol=0.03)


@pytest.mark.parametrize("tap", [1, 2])
def test_a_tap_of_an_earlier_frame_is_a_delay_by_hops(tap: int) -> None:
    noisy, delay = noise(1000), 32 * tap
    with torch.no_grad():
        now, then = (forced("bandmask", gain=0.0, tap=each)(noisy) for each in (0, tap))
    torch.testing.assert_close(then[..., delay:], now[..., :-delay])
    assert then[..., : delay - 32].abs().sum() == 0


def test_taps_filter_each_bin_over_its_own_past() -> None:
    generator = torch.Generator().manual_seed(0)
    spectrum = torch.randn(2, 9, 5, dtype=torch.complex64, generator=generator)
    taps = [torch.randn(2, 9, 5, dtype=torch.complex64, generator=generator) for _ in range(3)]
    expected = torch.zeros_like(spectrum)
    for frame in range(9):
        for before in range(min(3, frame + 1)):
            expected[:, frame] += taps[2 - before][:, frame] * spectrum[:, frame - before]
    parts = [part for tap in taps for part in (tap.real, tap.imag)]
    torch.testing.assert_close(torch.complex(*filtered(spectrum.real, spectrum.imag, parts)), expected)


@pytest.mark.parametrize("normalize", ["none", "running"])
def test_silence_gives_silence(normalize: str) -> None:
    model = heard(build_model(**{**PRESETS["bandmask-compact"], "normalize": normalize}))
    sound = speech_like(16_000) + noise(16_000)
    with torch.no_grad():
        assert model(torch.zeros(1, 1, 8000)).abs().max() == 0
        after = model(torch.cat([sound, torch.zeros_like(sound)], dim=-1))
    # A frame after the last sound, and as many hops as there are taps for.
    assert after[..., :16_000].abs().max() > 0.01
    after = after[..., 16_000 + 512 + 3 * 256 :]
    assert after.abs().max() == 0


@pytest.mark.parametrize("peak", [1e-4, 1e-20, 1e-40])
def test_very_quiet_sound_stays_quiet_and_finite(peak: float) -> None:
    model = heard(build_model(**PRESETS["bandmask-compact"]))
    noisy = (peak * torch.rand(1, 1, 8000)).requires_grad_()
    estimate = model(noisy)
    assert estimate.abs().max() <= 10 * peak
    estimate.sum().backward()
    assert noisy.grad is not None
    assert noisy.grad.isfinite().all()


def test_a_training_step_on_silence_is_finite() -> None:
    model = small("bandmask", normalize="none").train()
    silence = torch.zeros(2, 1, 4000)
    loss = DenoisingLoss(LossConfig(l1_weight=1, stft_weight=0, compressed_weight=10, si_sdr_weight=0.03))
    loss(model(silence), silence, silence).total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_long_stream_does_not_drift() -> None:
    """What a stream of as many steps as 5 min of the preset have ends with is what a young one gives: it forgets."""
    engine = OnnxEngine.from_model(heard(small("bandmask", normalize="none")))
    # Sound that comes again.
    part = (speech_like(32 * 3750) + noise(32 * 3750))[0].numpy()
    old, young = Streamer(engine), Streamer(engine)
    for _ in range(4):
        old.feed(part)
    last = np.concatenate([old.feed(part), old.flush()], axis=-1)[:, 32:]
    first = np.concatenate([young.feed(part), young.flush()], axis=-1)
    settled = slice(part.shape[-1] // 2, None)
    assert np.abs(last - first)[:, settled].max() <= 1e-5 * np.abs(first).max()


@pytest.mark.parametrize(("sample_rate", "fft_size"), [(8000, 256), (48_000, 1536), (44_100, 1024)])
def test_any_rate_will_do(sample_rate: int, fft_size: int) -> None:
    model = build_model("bandmask", sample_rate=sample_rate, fft_size=fft_size, hop=fft_size // 2, hidden=8)
    assert model.latency_ms == pytest.approx(
        1000 * (fft_size + model.hop_samples - fft_size // 2 - 1) / sample_rate
    )
    with torch.no_grad():
        assert model.eval()(noise(3000)).isfinite().all()


def test_the_transforms_stay_as_they_are_in_int8() -> None:
    """They are constants of the graph, not weights: of spectra in 8 bits quiet bins would be noise."""
    import onnx

    model = heard(build_model(**PRESETS["bandmask-compact"]))
    graph = onnx.load_from_string(OnnxEngine.from_model(model, "int8").graph).graph
    num_int8 = sum(node.op_type == "MatMulInteger" for node in graph.node)
    large = [item for item in graph.initializer if item.data_type == onnx.TensorProto.INT8]
    assert num_int8 == len(large) == 11
    hidden = model.config.hidden
    assert sorted(tuple(item.dims) for item in large) == sorted(
        [(256, hidden), (hidden, 640), *5 * [(hidden, hidden)], *4 * [(hidden, 2 * hidden)]]
    )
