"""A made-up corpus, for benchmarks that need one and are given none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from ww_data import scan_corpus, write_corpus

RATE = 16_000


def make_corpus(folder: Path, hours: float, num_test_mixtures: int = 1) -> Path:
    """A corpus of noise in syllables, and of noise, in recordings of a minute; `hours` are those of speech."""
    rng = np.random.default_rng(0)
    syllables_T = np.clip(np.sin(2 * np.pi * 3 * np.arange(60 * RATE) / RATE), 0, 1).astype(np.float32)
    for role, num_recordings, envelope_T in (
        ("speech", round(60 * hours), syllables_T),
        ("noise", 30, np.ones(1, np.float32)),
    ):
        for number in range(max(num_recordings, 12)):
            path = folder / role / f"{number % 12:02d}" / f"{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            sound_T = 0.1 * rng.standard_normal(60 * RATE, np.float32) * envelope_T
            soundfile.write(path, np.clip(sound_T, -1, 1), RATE)
    manifest = scan_corpus([folder / "speech"], [folder / "noise"], val_fraction=0.08, test_fraction=0.08)
    write_corpus(manifest, folder / "corpus", num_val_mixtures=2, num_test_mixtures=num_test_mixtures)
    return folder / "corpus"
