"""What training minimises: L1, multi-resolution STFT, compressed spectral and negative SI-SDR, each weighted.

Every term is computed per item and then averaged over items, so a loud item counts no more than a quiet one and the
value does not depend on how items are dealt over workers.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ww_models.checks import require

# (fft size, hop, window) in samples: Yamamoto et al., arXiv 1910.11480.
RESOLUTIONS = ((512, 50, 240), (1024, 120, 600), (2048, 240, 1200))
COMPRESSED_FFT, COMPRESSED_HOP, COMPRESSED_POWER = 512, 128, 0.3
# An item whose clean side has a lower root mean square (-60 dBFS) holds noise only.
NOISE_ONLY_RMS = 1e-3


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the terms, 0 or more, not all zero; the two factors are those of the STFT term's parts."""

    l1_weight: float = 1.0
    stft_weight: float = 1.0
    compressed_weight: float = 0.0
    si_sdr_weight: float = 0.0
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

    Terms: "l1" (always), "stft", "compressed", "si_sdr" (the negative SI-SDR in dB); those of weight 0 are not
    computed. Noise-only items (clean side below -60 dBFS) have no SI-SDR and no spectral convergence; `noisy` gives
    their level to the compressed term. ValueError if the segments are shorter than the largest STFT needs.
    """

    def __init__(self, config: LossConfig) -> None:
        super().__init__()
        self.config = config
        self._min_samples = 1
        if config.stft_weight:
            for fft, _, window in RESOLUTIONS:
                self.register_buffer(f"window_{fft}", torch.hann_window(window), persistent=False)
                self._min_samples = max(self._min_samples, fft // 2 + 1)
        if config.compressed_weight:
            self.register_buffer("compressed_window", torch.hann_window(COMPRESSED_FFT), persistent=False)
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
        weights = {name: getattr(self.config, f"{name}_weight") for name in terms}
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
            f"the loss got segments of {estimate.shape[-1]} samples, its largest STFT needs at least "
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
        estimate, estimate_magnitude = self._compressed(estimate_BT)
        clean, clean_magnitude = self._compressed(clean_BT)
        magnitude_error = (estimate_magnitude - clean_magnitude).square().mean()
        # The mean of |difference|^2: real and imaginary parts add.
        complex_error = 2 * (estimate - clean).square().mean()
        return 0.7 * magnitude_error + 0.3 * complex_error

    def _compressed(self, x_BT: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T) -> spectrum with compressed magnitudes (B, F, frames, 2), and those magnitudes (B, F, frames)."""
        window = self.get_buffer("compressed_window")
        spectrum = torch.stft(x_BT, COMPRESSED_FFT, COMPRESSED_HOP, window=window, return_complex=True)
        spectrum = torch.view_as_real(spectrum)
        # The offset (-80 dB of a signal of unit level) bounds the gradient where there is silence.
        log_power = (spectrum.square().sum(-1) + 1e-6).log()
        scale = (log_power * ((COMPRESSED_POWER - 1) / 2)).exp()
        return spectrum * scale[..., None], (log_power * (COMPRESSED_POWER / 2)).exp()


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
