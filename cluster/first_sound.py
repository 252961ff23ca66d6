"""What the model in the box makes of a noisy recording, within seconds: the first thing that a new user hears."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cluster.enhancement import FileDenoiser, torch_threads
from ww_data import AudioError, resample, write_audio
from ww_data.audio import open_audio
from ww_data.scan.files import find_audio
from ww_models import load_pretrained

SNR_DB, MAX_S, MIN_S = 5.0, 12.0, 3.0
_MAX_TRIES = 50  # files of a folder that are looked at
_PEAK = 0.7


def hear_first(speech_dir: Path, noise_dir: Path, out: Path) -> tuple[Path, Path]:
    """Writes out/noisy.wav, a recording of each folder mixed at 5 dB, and out/enhanced.wav. Returns both.

    Raises ValueError where a folder holds no sound.
    """
    model = load_pretrained()
    rate = model.sample_rate
    speech_T = _first_sound(speech_dir, rate)
    noise_T = np.resize(_first_sound(noise_dir, rate), len(speech_T))
    level = np.sqrt(np.mean(speech_T**2) / np.mean(noise_T**2)) * 10 ** (-SNR_DB / 20)
    noisy_T = speech_T + level * noise_T
    noisy, enhanced = out / "noisy.wav", out / "enhanced.wav"
    out.mkdir(parents=True, exist_ok=True)
    write_audio(noisy, _PEAK * noisy_T / np.max(np.abs(noisy_T)), rate)
    with torch_threads(1):
        FileDenoiser(model, 1).enhance(noisy, enhanced)
    return noisy, enhanced


def _first_sound(folder: Path, sample_rate: int) -> np.ndarray:
    """(T,) float32, 12 s at most: of the first recording that is long enough, or else of the longest of the first."""
    longest = np.zeros(0, np.float32)
    for sound_T in _sounds(folder, sample_rate):
        if len(sound_T) > len(longest):
            longest = sound_T
        if len(longest) >= MIN_S * sample_rate:
            break
    if not len(longest):
        raise ValueError(f"none of the first recordings of {folder} can be read and holds sound")
    return longest


def _sounds(folder: Path, sample_rate: int) -> Iterator[np.ndarray]:
    for file in [file for file in find_audio(folder) if not file.skip_reason][:_MAX_TRIES]:
        try:
            sound_T = _beginning(file.path, sample_rate)
        except (AudioError, OSError):
            continue
        if np.any(sound_T):
            yield sound_T[np.argmax(sound_T != 0) :]  # or the noise beside a short sentence could be silence


def _beginning(path: str, sample_rate: int) -> np.ndarray:
    """12 s at most: recordings may have hours."""
    with open_audio(path) as file:
        blocks, num_left = [np.zeros(0, np.float32)], round(MAX_S * file.sample_rate)
        for block in file.blocks("float32"):
            blocks.append(block[:num_left].mean(axis=1))
            num_left -= len(block)
            if num_left <= 0:
                break
        return resample(np.concatenate(blocks), file.sample_rate, sample_rate)
