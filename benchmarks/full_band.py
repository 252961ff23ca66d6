"""What becomes of the sound above the model's band: kept and turned, dropped, or passed through.

    python benchmarks/full_band.py
    python benchmarks/full_band.py --bundle runs/first/bundle --minutes 4

Synthetic voices and noises of 22.05 kHz, which have content up to 11 kHz, mixed at 0 to 15 dB; noise of the same level
fills the rest of 48 kHz. Whole clips. SI-SDR is that of all 24 kHz, log-spectral distances (LSD) are of 8 to 11 kHz.
The cost is CPU time of a call of 48 kHz, one hop of 20 ms after the other, beside the same call in the model's band.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.signal import firwin, lfilter

from cluster.enhancement import enhance_audio
from cluster.serving.live.protocol import CallOptions, encode_samples
from cluster.serving.live.sound import CallSound
from cluster.sound.bands import BANDS
from ww_data import read_mono, resample
from ww_data.synthetic.corpus import write_synthetic_corpus
from ww_models import PRETRAINED, Denoiser, StreamBatch, load_bundle, si_sdr_db
from ww_models.streaming.onnx_engine import OnnxEngine

RATE = 48_000
SNRS_DB = (0, 5, 10, 15)
WAYS = ("full", "dropped", "passed through")
BAND_HZ = (8200, 11_000)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--bundle", type=Path, default=PRETRAINED, metavar="DIR", help="(default: the one in the box)")
    add("--minutes", type=float, default=4.0, metavar="M", help="of synthetic speech (default: %(default)s)")
    add(
        "--seconds",
        type=float,
        default=20.0,
        metavar="S",
        help="of a call that is timed (default: %(default)s)",
    )
    return parser


def clips(minutes: float) -> list[tuple[np.ndarray, np.ndarray, int]]:
    """(clean_T, noise_T, SNR in dB) at 48 kHz, the noise at its level."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        speech, noise = write_synthetic_corpus(Path(folder) / "made", minutes=minutes)
        voices = [read_mono(path, RATE) for path in sorted(speech.rglob("*.wav"))]
        noises = [read_mono(path, RATE) for path in sorted(noise.rglob("*.wav")) if "babble" not in path.name]
    above = firwin(255, 10_500, pass_zero=False, fs=RATE)
    found = []
    for number, clean_T in enumerate(voices):
        noise_T = np.resize(noises[number % len(noises)], len(clean_T)).astype(np.float64)
        noise_T += lfilter(above, 1.0, rng.standard_normal(len(clean_T))) * 0.2 * np.std(noise_T)
        snr_db = SNRS_DB[number % len(SNRS_DB)]
        noise_T *= np.sqrt(np.mean(clean_T**2) / np.mean(noise_T**2)) * 10 ** (-snr_db / 20)
        found.append((clean_T, noise_T.astype(np.float32), snr_db))
    return found


def ways_of(model: Denoiser, noisy_T: np.ndarray) -> dict[str, np.ndarray]:
    """The output with what lies above the model's band kept and turned, dropped, or passed through."""
    full, dropped = (
        enhance_audio(model, noisy_T[:, None], RATE, band=band)[:, 0] for band in ("full", "model")
    )
    below_T = resample(resample(noisy_T, RATE, model.sample_rate), model.sample_rate, RATE)[: len(noisy_T)]
    return dict(zip(WAYS, (full, dropped, dropped + noisy_T - below_T), strict=True))


def lsd_db(clean_T: np.ndarray, estimate_T: np.ndarray) -> float:
    """Log-spectral distance of 8.2 to 11 kHz over frames of 32 ms in which the clean sound has something there."""
    spectra = []
    for x_T in (clean_T, estimate_T):
        frames = np.lib.stride_tricks.sliding_window_view(x_T.astype(np.float64), 1536)[::768]
        spectra.append(np.abs(np.fft.rfft(frames * np.hanning(1536))) ** 2)
    frequencies = np.fft.rfftfreq(1536, 1 / RATE)
    inside = (frequencies > BAND_HZ[0]) & (frequencies < BAND_HZ[1])
    clean, estimate = (spectrum[:, inside] for spectrum in spectra)
    level_db = 10 * np.log10(clean.mean(axis=1) + 1e-12)
    heard = level_db > level_db.max() - 40
    difference_db = 10 * np.log10((clean[heard] + 1e-9) / (estimate[heard] + 1e-9))
    return float(np.mean(np.sqrt(np.mean(difference_db**2, axis=1))))


def call_cpu_s(engine: OnnxEngine, options: CallOptions, seconds: float) -> Iterator[float]:
    """CPU seconds per second of sound of a call, over each half second."""
    sound = CallSound(options, engine.sample_rate, engine.latency_samples)
    batch = StreamBatch(engine, 1)
    stream = batch.join()
    rng, hop = np.random.default_rng(0), options.sample_rate // 50
    samples = (0.1 * rng.standard_normal((25, 1, hop))).astype(np.float32)
    pieces = [encode_samples(piece, options.encoding)[0] for piece in samples]
    for _ in range(round(2 * seconds)):
        began = time.process_time()
        for piece in pieces:
            batch.feed(stream, sound.feed(piece)[0])
            while finished := batch.advance():
                sound.finish(finished[stream][None])
        yield 2 * (time.process_time() - began)


def main() -> None:
    arguments = parser().parse_args()
    model = load_bundle(arguments.bundle)
    found = clips(arguments.minutes)
    clean_lsd = [lsd_db(clean_T, ways_of(model, clean_T)["full"]) for clean_T, _, _ in found]
    print(f"clean in: LSD of 8 to 11 kHz {np.mean(clean_lsd):.2f} dB over {len(found)} clips of {RATE} Hz\n")
    print(
        "| SNR in dB | noisy | full | dropped | passed through | full, LSD | dropped, LSD | passed through, LSD |"
    )
    print("|---" * 8 + "|")
    for snr_db in SNRS_DB:
        rows = []
        for clean_T, noise_T, own_db in found:
            if own_db == snr_db:
                ways = ways_of(model, clean_T + noise_T)
                scores = [
                    si_sdr_db(clean_T, clean_T + noise_T),
                    *(si_sdr_db(clean_T, ways[way]) for way in WAYS),
                ]
                rows.append([*scores, *(lsd_db(clean_T, ways[way]) for way in WAYS)])
        print(f"| {snr_db} | " + " | ".join(f"{value:.2f}" for value in np.mean(rows, axis=0)) + " |")
    engine = OnnxEngine.from_model(model)
    calls = [
        call_cpu_s(engine, CallOptions(sample_rate=RATE, band=band), arguments.seconds) for band in BANDS
    ]
    # In turn, half a second each, so that neighbours disturb both alike.
    full, model_only = (
        statistics.median(measured) for measured in zip(*zip(*calls, strict=True), strict=True)
    )
    print(
        f"\na call of {RATE} Hz: {full:.4f} CPU s per second, {model_only:.4f} in the model's band alone: "
        f"{100 * (full / model_only - 1):+.0f} %"
    )


if __name__ == "__main__":
    main()
