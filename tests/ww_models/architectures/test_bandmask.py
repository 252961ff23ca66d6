"""What BandMask does to a spectrum, to silence and to very quiet sound."""

import numpy as np
import pytest
import torch

from tests.ww_models.samples import heard, noise, small, speech_like
from ww_models import PRESETS, BandMask, DenoisingLoss, LossConfig, build_model
from ww_models.architectures.bandmask import COMPRESSION, POWER_FLOOR, filtered
from ww_models.layers.short_time import band_shares
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


def by_the_formula(model: BandMask, noisy_T: np.ndarray) -> np.ndarray:
    """What the model's docstring says, with complex numbers and a frame at a time, in double precision."""
    config, part = model.config, {name: value.double().numpy() for name, value in model.state_dict().items()}
    size, hop, num_low = config.fft_size, config.hop, config.num_low_bins
    num_frames = -(-len(noisy_T) // hop) + size // hop - 1
    padded = np.zeros(num_frames * hop + size - hop)
    padded[size - hop : size - hop + len(noisy_T)] = noisy_T
    place = np.arange(size) + 0.5
    window = np.sin(np.pi * place / size) * np.sqrt(4 / size / (size // hop))
    wave = np.exp(-2j * np.pi / size * np.outer(place - size / 2, np.arange(size // 2) + 0.5))
    shares = band_shares(config.num_bands, size // 2, config.sample_rate / size).numpy()
    state, spectra = (
        np.zeros((config.gru_layers, config.hidden)),
        np.zeros((num_frames + config.num_taps - 1, size // 2), complex),
    )
    output = np.zeros_like(padded)
    kept = np.exp(-hop / config.sample_rate / config.memory_s) if config.memory_s else 1.0
    for m in range(num_frames):
        spectrum = (window * padded[m * hop : m * hop + size]) @ wave
        spectra[m + config.num_taps - 1] = spectrum
        power = np.abs(spectrum) ** 2 + POWER_FLOOR
        low = spectrum[:num_low] * power[:num_low] ** ((COMPRESSION - 1) / 2)
        x = np.concatenate([np.log(shares @ power / shares.sum(1)), low.real, low.imag])
        x = (x - part["norm.running_mean"]) / np.sqrt(part["norm.running_var"] + model.norm.eps)
        x = linear(part, "front", x * part["norm.weight"] + part["norm.bias"])
        x = (x - x.mean()) / np.sqrt(x.var() + model.front_norm.eps)
        x = silu(x * part["front_norm.weight"] + part["front_norm.bias"])
        for layer in range(config.gru_layers):
            x = state[layer] = kept * gru_cell(part, layer, x, state[layer])
        x = linear(part, "head", silu(linear(part, "back", x)))
        gains = sigmoid(linear(part, "bins", x[: config.num_bands]))
        taps = x[config.num_bands :].reshape(config.num_taps, 2, num_low)
        result = gains * spectrum
        result[:num_low] += ((taps[:, 0] + 1j * taps[:, 1]) * spectra[m : m + config.num_taps, :num_low]).sum(
            0
        )
        output[m * hop : m * hop + size] += window * (wave.conj() @ result).real
    return output[size - hop : size - hop + len(noisy_T)]


def linear(part: dict[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    return np.asarray(part[f"{name}.weight"] @ x + part[f"{name}.bias"])


def gru_cell(part: dict[str, np.ndarray], layer: int, x: np.ndarray, state: np.ndarray) -> np.ndarray:
    """As torch.nn.GRU has it."""
    ours, theirs = (
        part[f"gru.weight_{kind}_l{layer}"] @ value + part[f"gru.bias_{kind}_l{layer}"]
        for kind, value in (("ih", x), ("hh", state))
    )
    (r, z, n), (state_r, state_z, state_n) = np.split(ours, 3), np.split(theirs, 3)
    r, z = sigmoid(r + state_r), sigmoid(z + state_z)
    return np.asarray((1 - z) * np.tanh(n + r * state_n) + z * state)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def silu(x: np.ndarray) -> np.ndarray:
    return x * sigmoid(x)


@pytest.mark.parametrize("name", ["bandmask", "bandmask-dense"])
def test_the_network_is_its_formula(name: str) -> None:
    model = heard(small(name, normalize="none"))
    assert isinstance(model, BandMask)
    noisy = speech_like(2000) + noise(2000)
    with torch.no_grad():
        given = model.double()(noisy.double())[0, 0].numpy()
    expected = by_the_formula(model, noisy[0, 0].double().numpy())
    assert np.abs(expected).max() > 0.01
    assert np.abs(given - expected).max() <= 1e-5 * np.abs(expected).max()
