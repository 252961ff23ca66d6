"""What a user hears first: a mixture at 5 dB of what the folders begin with, and what the model makes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from cluster.first_sound import MAX_S, hear_first
from ww_models import si_sdr_db

RATE = 16_000


def tone(seconds: float, hz: float = 300.0) -> np.ndarray:
    return 0.2 * np.cos(2 * np.pi * hz * np.arange(round(seconds * RATE)) / RATE)


def folder(path: Path, **sounds: np.ndarray) -> Path:
    path.mkdir()
    for name, sound_T in sounds.items():
        sf.write(path / f"{name}.wav", sound_T, RATE)
    return path


def test_it_is_mixed_at_its_snr_and_both_are_of_one_length(tmp_path: Path) -> None:
    speech = folder(tmp_path / "speech", a=tone(1), b=tone(4), c=tone(5))
    rng = np.random.default_rng(0)
    # Silence in front, as long as the sentence: without it, nothing would be mixed in.
    noise = folder(
        tmp_path / "noise", a=np.concatenate([np.zeros(4 * RATE), 0.01 * rng.standard_normal(RATE)])
    )
    noisy, enhanced = hear_first(speech, noise, tmp_path / "out")
    noisy_T, _ = sf.read(noisy)
    assert len(noisy_T) == sf.info(enhanced).frames == 4 * RATE, "the first that is long enough"
    assert np.isfinite(noisy_T).all()
    assert si_sdr_db(tone(4), noisy_T) == pytest.approx(5, abs=0.3)


def test_what_cannot_be_read_or_is_silent_is_passed_over_and_hours_are_not_read(tmp_path: Path) -> None:
    speech = folder(tmp_path / "speech", a=np.zeros(5 * RATE), b=np.zeros(0), d=tone(20))
    (speech / "c.wav").write_bytes(b"RIFF, and then nothing of the kind")
    noisy, _ = hear_first(speech, folder(tmp_path / "noise", a=tone(0.1, 900)), tmp_path / "out")
    assert sf.info(noisy).duration == pytest.approx(MAX_S, abs=0.01)


def test_a_folder_without_sound_is_one_line(tmp_path: Path) -> None:
    silent = folder(tmp_path / "silent", a=np.zeros(RATE))
    with pytest.raises(ValueError, match=r"none of the first recordings of .*silent can be read"):
        hear_first(silent, silent, tmp_path / "out")
