"""What training minimises: L1, multi-resolution STFT, compressed spectral, negative SI-SDR and STOI, each weighted.

Every term is computed per item and then averaged over items, so a loud item counts no more than a quiet one and the
value does not depend on how items are dealt over workers.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ww_models.checks import require
from ww_models.intelligibility import Intelligibility

# (fft size, hop, window) in samples: Yamamoto et al., arXiv 1910.11480.
RESOLUTIONS = ((512, 50, 240), (1024, 120, 600), (2048, 240, 1200))
COMPRESSED_FFT, COMPRESSED_HOP, COMPRESSED_POWER = 512, 128, 0.3
# An item whose clean side has a lower root mean square (-60 dBFS) holds noise only.
NOISE_ONLY_RMS = 1e-3


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the terms, 0 or more, not all zero; the two factors are those of the STFT term's parts.

    compressed_erb_power: frequencies count in the compressed term by this power of how narrow an ear's filters are
        there (1 / ERB; Glasberg and Moore, 1990), on average alike: 0 all the same, 1 low ones far more than high ones.
    """

    l1_weight: float = 1.0
    stft_weight: float = 1.0
    compressed_weight: float = 0.0
    si_sdr_weight: float = 0.0
    stoi_weight: float = 0.0
    compressed_erb_power: float = 0.0
    spectral_convergence_factor: float = 0.5
    log_magnitude_factor: float = 0.5

    def __post_init__(self) -> None:
        values = vars(self)
        for name, value in values.items():
            is_valid = 0 <= value < float("inf")
            require(is_valid, f"loss {name} is {value}: give a finite number of at least 0")
        require(
            any(value for name, value in values.items() if name.endswith("_weight")),
            "all weights of the loss are 0, nothing would be learned: give one of them a value above 0",
        )
        require(
            not self.stft_weight or bool(self.spectral_convergence_factor or self.log_magnitude_factor),
            "stft_weight is above 0 but both its factors are 0: raise spectral_convergence_factor or "
            "log_magnitude_factor, or set stft_weight to 0",
        )


class LossTerms(NamedTuple):
    """total: the weighted sum, a scalar with gradient; terms: each before its weight, detached, to log."""

    total: Tensor
    terms: dict[str, Tensor]


class DenoisingLoss(nn.Module):
    """forward(estimate, clean, noisy=None), all (B, 1, T) -> LossTerms.

    Terms: "l1" (always), "stft", "compressed", "si_sdr" (the negative SI-SDR in dB), "missing_stoi" (to 1);
    those of weight 0 are not computed. Noise-only items (clean side below -60 dBFS) have no SI-SDR, no STOI and no
    spectral convergence; `noisy` gives their level to the compressed term. ValueError if the segments are shorter than
    the terms need.
    """

    def __init__(self, config: LossConfig, sample_rate: int | None = None) -> None:
        """sample_rate: in Hz, asked for by `stoi_weight` and by `compressed_erb_power`."""
        super().__init__()
        self.config = config
        self._min_samples = 1
        for name in ("stoi_weight", "compressed_erb_power"):
            is_told = sample_rate is not None or not getattr(config, name)
            require(is_told, f"loss {name} is above 0: give the sample rate, too")
        if config.stoi_weight:
            self.intelligibility = Intelligibility(int(sample_rate or 0))
            self._min_samples = self.intelligibility.min_samples
        if config.stft_weight:
            for fft, _, window in RESOLUTIONS:
                self.register_buffer(f"window_{fft}", torch.hann_window(window), persistent=False)
                self._min_samples = max(self._min_samples, fft // 2 + 1)
        if config.compressed_weight:
            self.register_buffer("compressed_window", torch.hann_window(COMPRESSED_FFT), persistent=False)
            shares = (
                _erb_shares(config.compressed_erb_power, sample_rate) if config.compressed_erb_power else None
            )
            self.register_buffer("compressed_shares", shares, persistent=False)
            self._min_samples = max(self._min_samples, COMPRESSED_FFT // 2 + 1)

    def forward(self, estimate: Tensor, clean: Tensor, noisy: Tensor | None = None) -> LossTerms:
        self._check(estimate, clean)
        # There is no STFT of half precision, and logarithms need the range.
        estimate_BT, clean_BT = estimate[:, 0].float(), clean[:, 0].float()
        rms_B = clean_BT.square().mean(-1).sqrt()
        has_speech_B = rms_B >= NOISE_ONLY_RMS
        terms = {"l1": (estimate_BT - clean_BT).abs().mean()}
        if self.config.stft_weight:
            terms["stft"] = self._stft_term(estimate_BT, clean_BT, has_speech_B)
        if self.config.compressed_weight:
            noisy_BT = clean_BT if noisy is None else noisy[:, 0].float()
            level_B = torch.where(has_speech_B, rms_B, noisy_BT.square().mean(-1).sqrt())
            level_B1 = level_B.clamp(min=NOISE_ONLY_RMS)[:, None]
            terms["compressed"] = self._compressed_term(estimate_BT / level_B1, clean_BT / level_B1)
        if self.config.si_sdr_weight:
            terms["si_sdr"] = negative_si_sdr(estimate_BT, clean_BT, has_speech_B)
        if self.config.stoi_weight:
            stoi_B, is_defined_B = self.intelligibility(estimate_BT, clean_BT)
            terms["missing_stoi"] = masked_mean(1 - stoi_B, has_speech_B & is_defined_B)
        weights = {name: getattr(self.config, f"{name.removeprefix('missing_')}_weight") for name in terms}
        total = sum((weights[name] * terms[name] for name in terms if weights[name]), estimate.new_zeros(()))
        return LossTerms(total, {name: term.detach() for name, term in terms.items()})

    def _check(self, estimate: Tensor, clean: Tensor) -> None:
        require(
            estimate.dim() == 3 and estimate.shape[1] == 1 and estimate.shape == clean.shape,
            "the loss takes estimate and clean of one shape (batch, 1, samples), "
            f"got {tuple(estimate.shape)} and {tuple(clean.shape)}",
        )
        require(
            estimate.shape[-1] >= self._min_samples,
            f"the loss got segments of {estimate.shape[-1]} samples, its terms need at least "
            f"{self._min_samples}: train on longer segments",
        )

    def _stft_term(self, estimate_BT: Tensor, clean_BT: Tensor, has_speech_B: Tensor) -> Tensor:
        total = estimate_BT.new_zeros(())
        for fft, hop, _ in RESOLUTIONS:
            window = self.get_buffer(f"window_{fft}")
            estimate_power = power_spectrum(estimate_BT, fft, hop, window).clamp(min=1e-7)
            clean_power = power_spectrum(clean_BT, fft, hop, window).clamp(min=1e-7)
            if self.config.spectral_convergence_factor:
                convergence = spectral_convergence(estimate_power.sqrt(), clean_power.sqrt(), has_speech_B)
                total = total + self.config.spectral_convergence_factor * convergence
            if self.config.log_magnitude_factor:
                # log of the magnitude is half the log of the power
                distance = 0.5 * (estimate_power.log() - clean_power.log()).abs().mean()
                total = total + self.config.log_magnitude_factor * distance
        return total / len(RESOLUTIONS)

    def _compressed_term(self, estimate_BT: Tensor, clean_BT: Tensor) -> Tensor:
        padding = COMPRESSED_FFT // 2, COMPRESSED_FFT // 2
        padded = (F.pad(x_BT[:, None], padding, "reflect")[:, 0] for x_BT in (estimate_BT, clean_BT))
        return _CompressedDistance.apply(*padded, self.compressed_window, self.compressed_shares)


class _CompressedDistance(torch.autograd.Function):
    """Two signals (B, T) -> the mean, over frames and frequencies of their spectra with compressed magnitudes, of 0.7
    times the squared difference of magnitudes and 0.3 times that of the complex numbers; shares (F,) or None: how much
    each frequency counts.

    The gradient is written out; left to autograd, this takes as long as a small model. On a CPU each item by itself
    stays in the cache from its samples to their gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, estimate_BT: Tensor, clean_BT: Tensor, window: Tensor, shares: Tensor | None
    ) -> Tensor:
        gradient_BT = torch.zeros_like(estimate_BT) if ctx.needs_input_grad[0] else None
        size = 1 if estimate_BT.device.type == "cpu" else len(estimate_BT)
        estimates, cleans = estimate_BT.split(size), clean_BT.split(size)
        gradients = [None] * len(estimates) if gradient_BT is None else gradient_BT.split(size)
        items = zip(estimates, cleans, gradients, strict=True)
        distances = [_compressed_distance(*item, window, shares) for item in items]
        ctx.save_for_backward(gradient_BT)
        ctx.num_parts = len(distances)
        return torch.stack(distances).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient_BT,) = ctx.saved_tensors
        return gradient_BT * (grad / ctx.num_parts), None, None, None


def _erb_shares(power: float, sample_rate: int | None) -> Tensor:
    """(F,), of mean 1."""
    hz = torch.arange(COMPRESSED_FFT // 2 + 1) * (int(sample_rate or 0) / COMPRESSED_FFT)
    shares = (1 + 0.00437 * hz) ** -power
    return shares / shares.mean()


def _compressed_distance(
    estimate_NT: Tensor,
    clean_NT: Tensor,
    gradient_NT: Tensor | None,
    window: Tensor,
    shares: Tensor | None = None,
) -> Tensor:
    """The distance of some items; its gradient by the estimate is added to `gradient_NT`."""
    x, y, scale, magnitude, power = _compressed(estimate_NT, window)
    clean_x, clean_y, clean_scale, clean_magnitude, _ = _compressed(clean_NT, window)
    between = magnitude - clean_magnitude
    x_error = torch.addcmul(x * scale, clean_x, clean_scale, value=-1)
    y_error = torch.addcmul(y * scale, clean_y, clean_scale, value=-1)
    parts = between, x_error, y_error
    counted = parts if shares is None else [part * shares for part in parts]
    squares = [one.flatten().dot(part.flatten()) for one, part in zip(counted, parts, strict=True)]
    if gradient_NT is not None:
        # How the distance grows with the log of the power, through both compressed magnitudes and what scales parts.
        along = between.mul_(magnitude).mul_(0.7 * COMPRESSED_POWER)
        inner = torch.addcmul(x_error * x, y_error, y).mul_(scale)
        along.add_(inner, alpha=0.3 * (COMPRESSED_POWER - 1)).div_(power)
        x_slope = torch.addcmul(along * x, scale, x_error, value=0.3)
        y_slope = torch.addcmul(along * y, scale, y_error, value=0.3)
        if shares is not None:
            x_slope, y_slope = x_slope * shares, y_slope * shares
        _add_signal(torch.complex(x_slope, y_slope), gradient_NT, window * (2 / x.numel()))
    return (0.7 * squares[0] + 0.3 * (squares[1] + squares[2])) / x.numel()


def _compressed(x_NT: Tensor, window: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Of the spectrum: real part, imaginary part, what scales both, compressed magnitude, power; (N, M, F) each."""
    spectrum = torch.fft.rfft(x_NT.unfold(-1, COMPRESSED_FFT, COMPRESSED_HOP) * window)
    x, y = (part.contiguous() for part in torch.view_as_real(spectrum).unbind(-1))
    # The offset (-80 dB of a signal of unit level) bounds the gradient where there is silence.
    power = torch.addcmul(x.square(), y, y).add_(1e-6)
    log_power = power.log()
    scale = (log_power * ((COMPRESSED_POWER - 1) / 2)).exp_()
    return x, y, scale, log_power.mul_(COMPRESSED_POWER / 2).exp_(), power


def _add_signal(slopes: Tensor, gradient_NT: Tensor, window: Tensor) -> None:
    """Adds the gradient by the samples to `gradient_NT`, from that by the spectrum (N, M, F): the STFT, transposed."""
    # The inverse transform counts frequencies twice, for their conjugates, but the first and the last.
    slopes[..., 1:-1] /= 2
    frames = torch.fft.irfft(slopes, COMPRESSED_FFT, norm="forward").mul_(window)
    num_frames, num_blocks = frames.shape[1], gradient_NT.shape[1] // COMPRESSED_HOP
    blocks = gradient_NT[:, : num_blocks * COMPRESSED_HOP].unflatten(-1, (num_blocks, COMPRESSED_HOP))
    for i, part in enumerate(frames.split(COMPRESSED_HOP, dim=-1)):
        blocks[:, i : i + num_frames] += part


def power_spectrum(x_BT: Tensor, fft: int, hop: int, window: Tensor) -> Tensor:
    """(B, T) -> (B, F, frames), squared magnitudes of the STFT with frames centred on multiples of `hop`."""
    spectrum = torch.stft(x_BT, fft, hop, len(window), window, return_complex=True)
    # Not a sum over the last axis: over two numbers at a time that takes several times as long.
    real, imaginary = torch.view_as_real(spectrum).unbind(-1)
    return torch.addcmul(real.square(), imaginary, imaginary)


def spectral_convergence(estimate: Tensor, clean: Tensor, has_speech_B: Tensor) -> Tensor:
    """Distance of magnitudes (B, F, frames) over the norm of the clean ones, mean over items with speech."""
    norm_B = torch.linalg.vector_norm(clean, dim=(1, 2))
    distance_B = torch.linalg.vector_norm(estimate - clean, dim=(1, 2))
    return masked_mean(distance_B / norm_B, has_speech_B)


def negative_si_sdr(estimate_BT: Tensor, clean_BT: Tensor, has_speech_B: Tensor) -> Tensor:
    """Negative SI-SDR in dB, mean over items with speech, with finite gradients for any estimate."""
    clean_energy_B = clean_BT.square().sum(-1)
    # -60 dB of the clean energy on both sides: silence scores 0 dB with a finite gradient, the best is 60 dB.
    offset_B = 1e-6 * clean_energy_B + 1e-12
    scale_B = (estimate_BT * clean_BT).sum(-1) / (clean_energy_B + 1e-12)
    target_BT = scale_B[:, None] * clean_BT
    error_B = (estimate_BT - target_BT).square().sum(-1) + offset_B
    ratio_db_B = 10 * torch.log10((target_BT.square().sum(-1) + offset_B) / error_B)
    return -masked_mean(ratio_db_B, has_speech_B)


def masked_mean(values_B: Tensor, mask_B: Tensor) -> Tensor:
    """Mean of the values where the mask holds, 0 where it never does; values elsewhere get no gradient."""
    return values_B.where(mask_B, 0).sum() / mask_B.sum().clamp(min=1)
