"""The losses: values, items that hold noise only, gradients, errors."""

import json

import pytest
import torch
from torch import Tensor

from tests.ww_models.goldens.make_loss_goldens import GOLDENS, PAIRS, probe
from tests.ww_models.goldens.make_loss_goldens import pair as golden_pair
from tests.ww_models.samples import noise, speech_like
from ww_models import DenoisingLoss, LossConfig, score_clip
from ww_models.losses import _compressed_distance
from ww_models.quality import MEASURES

OFF = {
    "l1_weight": 0.0,
    "stft_weight": 0.0,
    "compressed_weight": 0.0,
    "si_sdr_weight": 0.0,
    "stoi_weight": 0.0,
}
ONLY = {
    "l1": LossConfig(**{**OFF, "l1_weight": 1.0}),
    "stft": LossConfig(**{**OFF, "stft_weight": 1.0}),
    "compressed": LossConfig(**{**OFF, "compressed_weight": 1.0}),
    "si_sdr": LossConfig(**{**OFF, "si_sdr_weight": 1.0}),
    "stoi": LossConfig(**{**OFF, "stoi_weight": 1.0}),
}
ALL = LossConfig(l1_weight=1, stft_weight=2, compressed_weight=3, si_sdr_weight=0.5, stoi_weight=0.7)


PARTS = {
    "l1": ONLY["l1"],
    "spectral_convergence": LossConfig(
        **{**OFF, "stft_weight": 1.0}, spectral_convergence_factor=1.0, log_magnitude_factor=0.0
    ),
    "log_magnitude": LossConfig(
        **{**OFF, "stft_weight": 1.0}, spectral_convergence_factor=0.0, log_magnitude_factor=1.0
    ),
}


def loss_of(config: LossConfig) -> DenoisingLoss:
    return DenoisingLoss(config, sample_rate=16_000)


def pair(batch: int = 3, num_samples: int = 16_000) -> tuple[Tensor, Tensor]:
    clean = speech_like(num_samples, batch=batch)
    return clean + noise(num_samples, batch=batch), clean


@pytest.mark.parametrize("term", ONLY)
def test_a_better_estimate_has_a_lower_loss(term: str) -> None:
    noisy, clean = pair()
    loss = loss_of(ONLY[term])
    values = [loss(torch.lerp(clean, noisy, share), clean).total for share in (0.0, 0.1, 0.5, 1.0)]
    assert values == sorted(values)
    assert values[0] < values[1] < values[3]


def test_total_is_the_weighted_sum_of_the_terms() -> None:
    noisy, clean = pair()
    total, terms = loss_of(ALL)(noisy, clean, noisy)
    assert list(terms) == ["l1", "stft", "compressed", "si_sdr", "missing_stoi"]
    assert not terms.keys() & MEASURES.keys(), (
        "in the curves of a validation one would take the other's place"
    )
    weighted = (
        2 * terms["stft"] + 3 * terms["compressed"] + 0.5 * terms["si_sdr"] + 0.7 * terms["missing_stoi"]
    )
    torch.testing.assert_close(total, terms["l1"] + weighted)


def test_terms_without_weight_are_left_out_except_l1() -> None:
    noisy, clean = pair()
    total, terms = loss_of(ONLY["si_sdr"])(noisy, clean)
    assert set(terms) == {"l1", "si_sdr"}
    torch.testing.assert_close(total, terms["si_sdr"])
    assert terms["l1"] == (noisy - clean).abs().mean()


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize(
    ("library", "term"),
    [(library, term) for library, terms in json.loads(GOLDENS.read_text()).items() for term in terms],
)
def test_values_and_gradients_are_those_of_denoiser_and_auraloss(library: str, term: str, name: str) -> None:
    """Of one item at a time: over a batch they take one convergence of all items, where ours is the items' mean.

    Resolutions, windows, padding and the floor of 1e-7 under powers coincide (auraloss has 1e-8 unless told). A
    clean side below -60 dBFS has no convergence here, in the others it has; no pair here is as quiet.
    """
    value, slope = json.loads(GOLDENS.read_text())[library][term][name]
    estimate, clean = golden_pair(name)
    total = loss_of(PARTS[term])(estimate.requires_grad_(), clean).total
    assert total.item() == pytest.approx(value, rel=1e-5)
    (gradient,) = torch.autograd.grad(total, estimate)
    # What cancels in the sum over samples is not counted as error of the gradient.
    assert float((gradient * probe()).sum()) == pytest.approx(
        slope, rel=1e-4, abs=1e-4 * float((gradient * probe()).abs().sum())
    )


@pytest.mark.parametrize("term", ONLY)
def test_each_item_counts_the_same(term: str) -> None:
    """The loss of a batch is the mean of the losses of its items, however loud each is."""
    noisy, clean = pair()
    scale = torch.tensor([0.1, 1.0, 5.0])[:, None, None]
    noisy, clean = scale * noisy, scale * clean
    loss = loss_of(ONLY[term])
    alone = [loss(noisy[i : i + 1], clean[i : i + 1]).total for i in range(3)]
    torch.testing.assert_close(loss(noisy, clean).total, torch.stack(alone).mean(), rtol=1e-4, atol=1e-6)


def test_spectral_convergence_is_over_the_norm_of_the_clean_side() -> None:
    """Of an estimate that is twice the clean signal it is 1; with arguments swapped it would be 1/2."""
    _, clean = pair()
    config = LossConfig(
        **{**OFF, "stft_weight": 1.0}, spectral_convergence_factor=1.0, log_magnitude_factor=0.0
    )
    assert loss_of(config)(2 * clean, clean).total == pytest.approx(1.0, rel=1e-3)


def test_log_magnitude_of_a_doubled_signal_is_log_two() -> None:
    _, clean = noise(8000), noise(8000, seed=5)
    config = LossConfig(
        **{**OFF, "stft_weight": 1.0}, spectral_convergence_factor=0.0, log_magnitude_factor=1.0
    )
    assert loss_of(config)(2 * clean, clean).total == pytest.approx(0.6931, rel=1e-2)


@pytest.mark.parametrize("term", ["compressed", "si_sdr", "stoi"])
def test_terms_that_ignore_the_common_level(term: str) -> None:
    noisy, clean = pair()
    loss = loss_of(ONLY[term])
    torch.testing.assert_close(
        loss(noisy, clean).total, loss(4 * noisy, 4 * clean).total, rtol=1e-4, atol=1e-5
    )


def test_si_sdr_agrees_with_torchmetrics() -> None:
    from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio

    noisy, clean = pair()
    value = loss_of(ONLY["si_sdr"])(noisy, clean).total
    assert -value == pytest.approx(
        scale_invariant_signal_distortion_ratio(noisy, clean).mean().item(), abs=1e-2
    )


@pytest.mark.parametrize("sample_rate", [8000, 16_000, 48_000])
def test_stoi_is_nearly_that_of_the_measure(sample_rate: int) -> None:
    """With a pause, which does not count, and at any rate."""
    num_samples = 3 * sample_rate
    clean = speech_like(num_samples)
    clean[..., num_samples // 3 : num_samples // 2] *= 1e-3
    loss = DenoisingLoss(ONLY["stoi"], sample_rate)
    for level in (0.1, 1.0, 4.0):
        noisy = clean + level * noise(num_samples)
        measured = score_clip(clean[0, 0].numpy(), noisy[0, 0].numpy(), sample_rate).stoi
        assert 1 - loss(noisy, clean).total == pytest.approx(measured, abs=0.03)


@pytest.mark.parametrize("config", [*ONLY.values(), ALL])
@pytest.mark.parametrize("clean_level", [0.0, 1.0])
@pytest.mark.parametrize("estimate_level", [0.0, 1e-30, 1.0])
def test_gradients_stay_finite_on_silence(
    config: LossConfig, clean_level: float, estimate_level: float
) -> None:
    noisy, clean = pair()
    estimate = (estimate_level * noisy).requires_grad_()
    loss = loss_of(config)
    total, terms = loss(estimate, clean_level * clean, torch.zeros_like(noisy))
    total.backward()
    assert total.isfinite()
    assert all(term.isfinite() for term in terms.values())
    assert estimate.grad is not None
    assert estimate.grad.isfinite().all()


def test_gradient_is_finite_where_the_estimate_is_the_clean_signal() -> None:
    _, clean = pair()
    estimate = clean.clone().requires_grad_()
    loss_of(ALL)(estimate, clean).total.backward()
    assert estimate.grad is not None
    assert estimate.grad.isfinite().all()


def test_noise_only_items_have_no_si_sdr_no_stoi_and_no_spectral_convergence() -> None:
    noisy, clean = pair(batch=2)
    clean = torch.cat([clean[:1], 1e-4 * clean[1:]])
    convergence = LossConfig(**{**OFF, "stft_weight": 1.0}, log_magnitude_factor=0.0)
    for config in (ONLY["si_sdr"], ONLY["stoi"], convergence):
        loss = loss_of(config)
        estimate = noisy.clone().requires_grad_()
        total = loss(estimate, clean).total
        torch.testing.assert_close(total, loss(noisy[:1], clean[:1]).total)
        total.backward()
        assert estimate.grad is not None
        assert (estimate.grad[1] == 0).all()


def test_noise_only_items_are_scaled_by_the_noisy_level() -> None:
    noisy, clean = pair(batch=1)
    loss = loss_of(ONLY["compressed"])
    silent = torch.zeros_like(clean)
    quiet = loss(0.5 * noisy, silent, noisy).total
    loud = loss(0.5 * 8 * noisy, silent, 8 * noisy).total
    torch.testing.assert_close(quiet, loud, rtol=1e-4, atol=1e-6)


def test_a_segment_too_short_for_the_largest_stft_is_a_clear_error() -> None:
    loss = loss_of(LossConfig())
    loss(torch.zeros(1, 1, 1025), torch.zeros(1, 1, 1025))
    with pytest.raises(ValueError, match=r"segments of 1024 samples.* at least 1025"):
        loss(torch.zeros(1, 1, 1024), torch.zeros(1, 1, 1024))
    loss_of(ONLY["l1"])(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1))
    with pytest.raises(ValueError, match="at least 6355"):
        loss_of(ONLY["stoi"])(torch.zeros(1, 1, 6354), torch.zeros(1, 1, 6354))


def test_stoi_asks_for_the_sample_rate() -> None:
    with pytest.raises(ValueError, match="stoi_weight is above 0: give the sample rate"):
        DenoisingLoss(ONLY["stoi"])
    with pytest.raises(ValueError, match="compressed_erb_power is above 0: give the sample rate"):
        DenoisingLoss(LossConfig(compressed_weight=1, compressed_erb_power=1))


def test_shapes_that_differ_are_an_error() -> None:
    with pytest.raises(ValueError, match="one shape"):
        loss_of(LossConfig())(torch.zeros(2, 1, 4000), torch.zeros(1, 1, 4000))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (OFF, "all weights"),
        ({"l1_weight": -1.0}, "l1_weight is -1"),
        ({"stft_weight": float("nan")}, "stft_weight"),
        ({"spectral_convergence_factor": 0.0, "log_magnitude_factor": 0.0}, "factors"),
    ],
)
def test_weights_that_cannot_work_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LossConfig(**settings)


def test_windows_follow_the_module_to_its_device_and_are_not_saved() -> None:
    loss = loss_of(ALL)
    assert all(buffer.device.type == "meta" for buffer in loss.to("meta").buffers())
    assert len(list(loss.buffers())) == 6
    assert not loss.state_dict()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_loss_on_a_gpu_is_that_on_the_cpu() -> None:
    noisy, clean = pair()
    on_cpu = loss_of(ALL)(noisy, clean).total
    on_gpu = loss_of(ALL).cuda()(noisy.cuda(), clean.cuda()).total
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("erb_power", [0.0, 0.5])
def test_the_compressed_term_has_the_value_and_the_gradient_of_its_formula(erb_power: float) -> None:
    """Against autograd through the plain formula, in double precision."""
    config = LossConfig(**{**OFF, "compressed_weight": 1.0}, compressed_erb_power=erb_power)
    shares = (24.7 * (1 + 4.37 * torch.linspace(0, 8, 257, dtype=torch.float64)[:, None])) ** -erb_power
    shares /= shares.mean()
    noisy, clean = pair(batch=3, num_samples=4001)
    noisy[1] = 0  # and an item of silence
    level = clean.square().mean(-1, keepdim=True).sqrt()
    window = torch.hann_window(512, dtype=torch.float64)

    def compressed(x: Tensor) -> tuple[Tensor, Tensor]:
        spectrum = torch.stft(x, 512, 128, window=window, return_complex=True)
        power = spectrum.real.square() + spectrum.imag.square() + 1e-6
        return spectrum * power ** (-0.35), power**0.15

    results = []
    for dtype in (torch.float32, torch.float64):
        estimate = noisy.to(dtype).requires_grad_()
        if dtype is torch.float32:
            value = loss_of(config)(estimate, clean).total
        else:
            (given, magnitude), (wanted, wanted_magnitude) = (
                compressed((x / level)[:, 0]) for x in (estimate, clean.double())
            )
            value = 0.7 * (shares * (magnitude - wanted_magnitude).square()).mean()
            error = torch.view_as_real(given - wanted).square().sum(-1)
            value = value + 0.3 * (shares * error).mean()
        (gradient,) = torch.autograd.grad(3 * value, estimate)
        results.append((value.detach().double(), gradient.double()))
    (value, gradient), (expected, expected_gradient) = results
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=0)
    error = (gradient - expected_gradient).abs().amax(-1) / expected_gradient.abs().amax(-1)
    assert error.max() < 3e-4


def test_the_compressed_term_of_all_items_at_once_is_that_of_each() -> None:
    """On a GPU they are computed at once, here one by one."""
    noisy, clean = (signal[:, 0] for signal in pair(batch=3, num_samples=4001))
    window, results = torch.hann_window(512), []
    for size in (1, 3):
        gradient = torch.zeros_like(noisy)
        parts = zip(noisy.split(size), clean.split(size), gradient.split(size), strict=True)
        values = [_compressed_distance(*part, window) for part in parts]
        results.append((torch.stack(values).mean(), gradient / len(values)))
    torch.testing.assert_close(results[0], results[1])
