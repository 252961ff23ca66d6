"""The embedded corpus: made from nothing, the same byte for byte in each process, and fit to be prepared."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ww_data import CorpusError, scan_corpus
from ww_data.synthetic.corpus import write_synthetic_corpus
from ww_data.synthetic.noises import KINDS
from ww_data.synthetic.voices import SpeechError

ROOT = Path(__file__).parents[3]
HAS_ESPEAK = importlib.util.find_spec("espeakng_loader") is not None


@pytest.mark.parametrize("kind", KINDS)
def test_noise_is_sound_and_every_recording_another(kind: str) -> None:
    one, two = (KINDS[kind](np.random.default_rng(seed), 22050, 22050) for seed in (0, 1))
    assert one.shape == (22050,)
    assert np.isfinite(one).all()
    assert np.std(one) > 0
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.5
    np.testing.assert_array_equal(one, KINDS[kind](np.random.default_rng(0), 22050, 22050))


def hashes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*.wav")
    }


@pytest.mark.skipif(not HAS_ESPEAK, reason="espeakng-loader is not installed")
def test_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []
    speech, noise = write_synthetic_corpus(
        tmp_path / "a", minutes=0.5, progress=lambda *step: told.append(step)
    )
    assert told[-1][0] == told[-1][1] == len(told)
    code = "import sys; from ww_data.synthetic.corpus import write_synthetic_corpus as w; w(sys.argv[1], minutes=0.5)"
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "b")],
        check=True,
        timeout=480,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")
    manifest = scan_corpus(speech, noise)
    assert not manifest.skipped
    assert len({clip.speaker for clip in manifest.clips if clip.role == "speech"}) >= 24
    assert len(set(hashes(tmp_path / "a").values())) == len(manifest.clips)
    assert all(
        manifest.used(role, split) for role in ("speech", "noise") for split in ("train", "val", "test")
    )
    assert write_synthetic_corpus(tmp_path / "a", minutes=0.5) == (speech, noise)
    with pytest.raises(CorpusError, match="holds something else"):
        write_synthetic_corpus(tmp_path / "a", minutes=0.5, seed=1)


def test_without_espeak_it_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SpeechError, match=r"pip install 'wave-wizard\[synthetic\]'"):
        write_synthetic_corpus(tmp_path / "corpus", minutes=0.5)
    assert not list(tmp_path.iterdir())
