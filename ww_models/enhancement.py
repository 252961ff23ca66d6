"""Denoising a clip of any length in bounded memory."""

import torch
from torch import Tensor

from ww_models.checks import require
from ww_models.denoiser import Denoiser, require_waveforms

WINDOW_S = 30.0
# What a window hears before its own part, so that recurrent states have settled; after it too if the model looks there.
WARM_UP_S = 5.0
FADE_S = 0.02


def enhance(model: Denoiser, noisy: Tensor, *, strength: float = 1.0) -> Tensor:
    """noisy (B, 1, T) at the model's sample rate -> (B, 1, T), aligned with the input.

    strength: 1 gives the model's output, 0 the input, between them a mix. Long input goes through the network in
    windows of 30 s, with 5 s of warm-up and cross-faded seams; the level is followed over all of it.
    """
    is_share = 0.0 <= strength <= 1.0
    require(is_share, f"strength is {strength}: give a number from 0 (input) to 1 (fully enhanced)")
    require_waveforms(noisy)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            scaled, scale = model.level(noisy)
            enhanced = _denoise_windowed(model, scaled) * scale
            return enhanced if strength == 1.0 else torch.lerp(noisy, enhanced, strength)
    finally:
        model.train(was_training)


def _denoise_windowed(model: Denoiser, scaled: Tensor) -> Tensor:
    num_samples = scaled.shape[-1]
    window, warm_up = (_on_grid(model, seconds) for seconds in (WINDOW_S, WARM_UP_S))
    fade = int(FADE_S * model.sample_rate)
    after = warm_up if model.latency_samples is None else model.latency_samples
    if num_samples <= window + warm_up:
        return model.denoise(scaled)
    ramp = torch.linspace(0.0, 1.0, fade + 2, device=scaled.device, dtype=scaled.dtype)[1:-1]
    out = torch.empty_like(scaled)
    for begin in range(0, num_samples, window):
        first = max(0, begin - warm_up)
        end = min(begin + window + fade, num_samples)
        part = model.denoise(scaled[..., first : end + after])[..., begin - first : end - first]
        if begin:
            # The window before reaches `fade` samples into this one.
            n = min(fade, part.shape[-1])
            part[..., :n] = torch.lerp(out[..., begin : begin + n], part[..., :n], ramp[:n])
        out[..., begin:end] = part
    return out


def _on_grid(model: Denoiser, seconds: float) -> int:
    """`seconds` in samples, up to where the network's frames start."""
    return -(-int(seconds * model.sample_rate) // model.stride) * model.stride
