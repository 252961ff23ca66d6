"""The denoiser in the box: whole, small, causal, and better than nothing on sound that it has never heard."""

from __future__ import annotations

import numpy as np
import torch

from ww_models import PRETRAINED, load_pretrained, read_bundle_info, si_sdr_db

MAX_BYTES = 6 * 2**20


def voice(rng: np.random.Generator, rate: int) -> np.ndarray:
    """(T,): 3 s of a buzz with moving formants, in syllables, as a voice has them."""
    time_T = np.arange(3 * rate) / rate
    pitch_T = 2 * np.pi * np.cumsum(130 + 25 * np.sin(2 * np.pi * 0.8 * time_T)) / rate
    formant_T = 700 + 300 * np.sin(2 * np.pi * 1.3 * time_T)
    harmonics = [
        np.exp(-(((k * 130 - formant_T) / 400) ** 2)) * np.sin(k * pitch_T + rng.uniform(0, 6))
        for k in range(1, 25)
    ]
    return 0.1 * np.sum(harmonics, axis=0) * np.clip(np.sin(2 * np.pi * 1.7 * time_T), 0, 1)


def test_it_is_small_and_says_what_it_is() -> None:
    files = [path for path in PRETRAINED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES
    info = read_bundle_info(PRETRAINED)
    assert info.sample_rate == 16_000
    assert info.latency_ms is not None
    assert info.latency_ms <= 40
    card = (PRETRAINED / "README.md").read_text(encoding="utf-8")
    assert info.id in card
    assert "| PESQ |" in card
    assert "CC BY" in (PRETRAINED.parent / "ATTRIBUTION.md").read_text(encoding="utf-8")


def test_it_takes_noise_away_and_leaves_silence_silent() -> None:
    model, rng = load_pretrained(), np.random.default_rng(0)
    clean_T = voice(rng, model.sample_rate)
    noise_T = rng.standard_normal(len(clean_T))
    noise_T *= np.sqrt(np.mean(clean_T**2) / np.mean(noise_T**2))  # 0 dB
    with torch.inference_mode():
        heard_T, silent_T = (
            model(torch.tensor(x_T, dtype=torch.float32)[None, None])[0, 0].numpy()
            for x_T in (clean_T + noise_T, np.zeros_like(clean_T))
        )
    assert si_sdr_db(clean_T, heard_T) > si_sdr_db(clean_T, clean_T + noise_T) + 5
    assert 10 * np.log10(np.mean(silent_T.astype(np.float64) ** 2) + 1e-12) < -70
