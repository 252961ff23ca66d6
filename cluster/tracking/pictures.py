"""Pictures of sound for trackers: what a mixture, its clean side and the estimate look like."""

from __future__ import annotations

from typing import Any

import numpy as np

WINDOW_S, HOP_S = 0.032, 0.008
NUM_MELS = 80
RANGE_DB = 70.0  # below the loudest point of all three: speech and audible noise, not the numbers' floor
_TICKS_KHZ = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)


def compare_signals(
    noisy_T: np.ndarray, clean_T: np.ndarray, estimate_T: np.ndarray, sample_rate: int
) -> Any:
    """A matplotlib figure: waveform (left) and mel spectrogram (right) of noisy, estimate and clean, a row each.

    Signals are (T,) at full scale +-1; all rows share their axes and colours, so that they can be compared.
    A sample that is not finite is shown as silence.
    """
    from matplotlib.figure import Figure  # no pyplot: no global state, no display

    signals = {"noisy": noisy_T, "estimate": estimate_T, "clean": clean_T}
    rows = {name: np.nan_to_num(signal_T, posinf=0.0, neginf=0.0) for name, signal_T in signals.items()}
    end_s = max(len(signal_T) for signal_T in rows.values()) / sample_rate
    limit = 1.05 * max(float(np.abs(signal_T).max(initial=0.0)) for signal_T in rows.values()) or 1.0
    spectra_db = {name: mel_spectrogram_db(signal_T, sample_rate) for name, signal_T in rows.items()}
    loudest_db = max(float(spectrum_DM.max()) for spectrum_DM in spectra_db.values())

    figure = Figure(figsize=(12, 6.5), dpi=100, layout="constrained")
    axes = figure.subplots(3, 2, sharex=True, sharey="col", width_ratios=(1, 1.5))
    for (wave, spectrum), (name, signal_T) in zip(axes, rows.items(), strict=True):
        wave.plot(np.arange(len(signal_T)) / sample_rate, signal_T, linewidth=0.4, color="tab:blue")
        wave.set(ylabel="amplitude", xlim=(0, end_s), ylim=(-limit, limit))
        wave.set_title(name, loc="left", fontweight="bold")
        wave.grid(alpha=0.3)
        extent = (0, len(signal_T) / sample_rate, 0, mel_of(sample_rate / 2))
        colours = {"vmin": loudest_db - RANGE_DB, "vmax": loudest_db, "cmap": "magma"}
        picture = spectrum.imshow(spectra_db[name], origin="lower", aspect="auto", extent=extent, **colours)
        spectrum.set(ylabel="kHz, mel scale", xlim=(0, end_s))
    ticks_khz = [tick for tick in _TICKS_KHZ if tick * 1000 <= sample_rate / 2]
    axes[0, 1].set_yticks([mel_of(tick * 1000) for tick in ticks_khz], [f"{tick:g}" for tick in ticks_khz])
    for bottom in axes[-1]:
        bottom.set(xlabel="time, s")
    figure.colorbar(picture, ax=list(axes[:, 1]), label="power, dB of full scale", pad=0.01)
    return figure


def pixels_of(figure: Any) -> np.ndarray:
    """A figure as (H, W, 3) uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def mel_spectrogram_db(signal_T: np.ndarray, sample_rate: int) -> np.ndarray:
    """(D mel bands, M frames): power of a Hann window's spectrum, dB; the band of a full-scale sine is about 0."""
    window, hop = round(WINDOW_S * sample_rate), round(HOP_S * sample_rate)
    hann = np.hanning(window + 1)[:-1]
    padded = np.pad(np.asarray(signal_T, dtype=np.float64), window // 2)
    frames_MW = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop] * hann
    power_MF = np.abs(np.fft.rfft(frames_MW) * 2 / hann.sum()) ** 2
    bands_DM = _mel_bands(sample_rate, window) @ power_MF.T
    return 10 * np.log10(np.maximum(bands_DM, 1e-12))


def mel_of(hz: float | np.ndarray) -> Any:
    """Mels of a frequency: 2595 log10(1 + f / 700)."""
    return 2595 * np.log10(1 + np.asarray(hz) / 700)


def _mel_bands(sample_rate: int, window: int) -> np.ndarray:
    """(D mel bands, F frequencies): overlapping triangles of peak 1, evenly spaced in mels up to half the rate.

    Drawn over bins in mels, and at least two bins wide: low bands narrower than a bin would come out black.
    """
    bins_hz = np.fft.rfftfreq(window, 1 / sample_rate)
    edges_hz = 700 * (10 ** (np.linspace(0, mel_of(sample_rate / 2), NUM_MELS + 2) / 2595) - 1)
    centres_hz = edges_hz[1:-1, None]
    bin_hz = sample_rate / window
    below = np.maximum(centres_hz - edges_hz[:-2, None], bin_hz)
    above = np.maximum(edges_hz[2:, None] - centres_hz, bin_hz)
    distance = bins_hz[None] - centres_hz
    return np.maximum(0.0, 1 - np.where(distance < 0, -distance / below, distance / above))
