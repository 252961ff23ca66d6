"""Pictures of sound for trackers: what a mixture, its clean side and the estimate look like."""

from __future__ import annotations

from typing import Any

import numpy as np


def compare_signals(
    noisy_T: np.ndarray, clean_T: np.ndarray, estimate_T: np.ndarray, sample_rate: int
) -> Any:
    """A matplotlib figure: waveform (left) and spectrogram (right) of noisy, estimate and clean, one row each.

    Signals are (T,) at full scale +-1; all rows share their axes and colours, so that they can be compared.
    """
    from matplotlib.figure import Figure  # no pyplot: no global state, no display

    rows = {"noisy": noisy_T, "estimate": estimate_T, "clean": clean_T}
    figure = Figure(figsize=(11, 6), layout="constrained")
    axes = figure.subplots(3, 2, sharex=True, width_ratios=(1, 1.4))
    limit = max(float(np.abs(signal).max(initial=0.0)) for signal in rows.values()) or 1.0
    for (wave, spectrum), (name, signal_T) in zip(axes, rows.items(), strict=True):
        wave.plot(np.arange(len(signal_T)) / sample_rate, signal_T, linewidth=0.4)
        wave.set(ylabel=name, ylim=(-limit, limit))
        spectrum.specgram(
            signal_T + 1e-9, NFFT=512, Fs=sample_rate, noverlap=384, vmin=-140, vmax=-40, cmap="magma"
        )
        spectrum.set(ylabel="Hz")
    axes[-1][0].set(xlabel="s")
    axes[-1][1].set(xlabel="s")
    return figure
