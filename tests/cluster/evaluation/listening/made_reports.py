"""Reports as jobs.evaluate leaves them, as far as a listening test looks at them, and answers about them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cluster.evaluation.listening.answers import Answer
from tests.conftest import SAMPLE_RATE, speech_like
from ww_data import write_audio

BUNDLE_IDS = {"noisy": None, "one": "gatewave-0123456789ab", "two": "demucs-0123456789ab"}


def write_made_report(
    folder: Path,
    *,
    snrs_db: tuple[float, ...] = (-5.0, 0.0, 5.0),
    seconds: float = 1.5,
    **changes: Any,
) -> Path:
    """A report of "noisy", "one" and "two", which is far louder; changes: of report.json."""
    rng = np.random.default_rng(0)
    (folder / "examples").mkdir(parents=True)
    examples = []
    for number, snr_db in enumerate(snrs_db):
        clean_T = speech_like(rng, seconds)
        noise_T = 0.05 * rng.standard_normal(len(clean_T))
        signals = {
            "noisy": clean_T + noise_T,
            "one": 0.3 * (clean_T + 0.2 * noise_T),
            "two": 2 * (clean_T + 0.5 * noise_T),
            "clean": clean_T,
        }
        audio = {name: f"examples/{number}-{name}.wav" for name in signals}
        for name, signal_T in signals.items():
            write_audio(folder / audio[name], np.clip(signal_T, -1, 1), SAMPLE_RATE)
        facts = {"clip_id": f"test-{number:05}", "input_snr_db": snr_db, "speaker": "s", "noise_id": "n"}
        examples.append({**facts, "sample_rate": SAMPLE_RATE, "audio": audio})
    systems = [{"name": name, "model": id and {"bundle_id": id}} for name, id in BUNDLE_IDS.items()]
    content = {
        "format": "wave-wizard-evaluation",
        "format_version": 2,
        "manifest_hash": "abc123",
        "sources": {"corpus": "data/mine"},
        "systems": systems,
        "examples": examples,
    }
    (folder / "report.json").write_text(json.dumps(content | changes), encoding="utf-8")
    return folder


def made_answer(
    listener: str = "anna",
    clip: str = "test-00000",
    ratings: Mapping[str, float] | None = None,
    **changes: Any,
) -> Answer:
    """A rated screen, unless `mode` says otherwise."""
    usual: dict[str, Any] = {
        "at": "2030-01-02T03:04:05+00:00",
        "listener": listener,
        "session": "s",
        "mode": "mushra",
        "report": "r",
        "clip": clip,
        "snr_db": 0.0,
        "order": tuple(ratings or ("one", "two")),
        "plays": {},
        "seconds": 10.0,
        "ratings": ratings or {},
    }
    return Answer(**(usual | changes))
