"""Made-up noise. Each kind is a function of a generator and a length: no recording is like another.

All return float64 (T,) at any level. Filters shape the spectrum of the whole recording at once.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Signal = npt.NDArray[np.float64]
Noise = Callable[[np.random.Generator, int, int], Signal]


def coloured(rng: np.random.Generator, num_samples: int, sample_rate: int, exponent: float) -> Signal:
    """Noise whose power falls with frequency to the power `exponent`: 0 white, 1 pink, 2 brown."""
    spectrum = np.fft.rfft(rng.standard_normal(num_samples))
    hz = np.fft.rfftfreq(num_samples, 1 / sample_rate)
    spectrum *= np.maximum(hz, 40.0) ** (-exponent / 2) * (hz > 20)
    return _unit(np.fft.irfft(spectrum, num_samples))


def swelling(exponents: tuple[float, float]) -> Noise:
    """Slowly swelling noise of a colour: each recording has an exponent of its own between these two."""

    def noise(rng: np.random.Generator, num_samples: int, sample_rate: int) -> Signal:
        steady = coloured(rng, num_samples, sample_rate, rng.uniform(*exponents))
        return steady * _swell(rng, num_samples, sample_rate)

    return noise


def hum(rng: np.random.Generator, num_samples: int, sample_rate: int) -> Signal:
    """Mains hum of 50 or 60 Hz with its overtones over faint hiss."""
    mains_hz = rng.choice([50.0, 60.0]) * rng.uniform(0.998, 1.002)
    tones = _harmonics(rng, np.full(num_samples, mains_hz), sample_rate, num_harmonics=24, decay=0.75)
    return tones + rng.uniform(0.03, 0.15) * coloured(rng, num_samples, sample_rate, 1.0)


def fan(rng: np.random.Generator, num_samples: int, sample_rate: int) -> Signal:
    """A fan: air noise that its blades modulate, and their tone."""
    wander = 1 + 0.01 * _slow(rng, num_samples, sample_rate, 0.3)
    blade_hz = rng.uniform(40, 160) * wander
    phase = 2 * np.pi * np.cumsum(blade_hz) / sample_rate
    air = coloured(rng, num_samples, sample_rate, rng.uniform(1.0, 1.8))
    tones = _harmonics(rng, blade_hz, sample_rate, num_harmonics=12, decay=0.8)
    return air * (1 + rng.uniform(0.1, 0.5) * np.sin(phase)) + rng.uniform(0.1, 0.5) * tones


def rain(rng: np.random.Generator, num_samples: int, sample_rate: int) -> Signal:
    """Rain: a bright hiss and very many drops of a few sizes."""
    drops = np.zeros(num_samples)
    for _ in range(3):
        per_s, decay_s = rng.uniform(40, 200), rng.uniform(0.001, 0.006)
        drops += _strikes(rng, num_samples, sample_rate, per_s=per_s, decay_s=decay_s)
    hiss = coloured(rng, num_samples, sample_rate, rng.uniform(0.2, 0.9))
    return (hiss + rng.uniform(0.5, 1.5) * _unit(drops)) * _swell(rng, num_samples, sample_rate)


def clicks(rng: np.random.Generator, num_samples: int, sample_rate: int) -> Signal:
    """Clicks as of keys and switches, over a quiet room."""
    keys = _strikes(rng, num_samples, sample_rate, per_s=rng.uniform(3, 9), decay_s=rng.uniform(0.004, 0.02))
    return _unit(keys) + rng.uniform(0.03, 0.1) * coloured(rng, num_samples, sample_rate, 1.0)


KINDS: dict[str, Noise] = {
    "white": swelling((-0.3, 0.3)),
    "pink": swelling((0.8, 1.2)),
    "brown": swelling((1.7, 2.3)),
    "hum": hum,
    "rain": rain,
    "clicks": clicks,
    "fan": fan,
}


def _strikes(
    rng: np.random.Generator, num_samples: int, sample_rate: int, *, per_s: float, decay_s: float
) -> Signal:
    """Strikes at random times and levels, each a decaying tone in noise."""
    times = rng.integers(0, num_samples, rng.poisson(per_s * num_samples / sample_rate) + 1)
    train = np.zeros(num_samples)
    np.add.at(train, times, rng.lognormal(0.0, 0.7, len(times)) * rng.choice([-1.0, 1.0], len(times)))
    t = np.arange(round(8 * decay_s * sample_rate)) / sample_rate
    ring = np.sin(2 * np.pi * rng.uniform(800, 5000) * t) + 0.5 * rng.standard_normal(len(t))
    size = 1 << (num_samples + len(t) - 1).bit_length()  # odd sizes are slow
    spectrum = np.fft.rfft(train, size) * np.fft.rfft(ring * np.exp(-t / decay_s), size)
    return np.fft.irfft(spectrum, size)[:num_samples]


def _harmonics(
    rng: np.random.Generator, hz: Signal, sample_rate: int, *, num_harmonics: int, decay: float
) -> Signal:
    """Overtones of a (moving) frequency with random levels that fall by `decay` each."""
    phase = 2 * np.pi * np.cumsum(hz) / sample_rate
    rotation = np.exp(1j * phase)
    current, total = np.ones_like(rotation), np.zeros(len(hz))
    for number in range(num_harmonics):
        current *= rotation
        weight = decay**number * rng.uniform(0.2, 1.0) * np.exp(2j * np.pi * rng.random())
        total += (weight * current).real
    return _unit(total)


def _slow(rng: np.random.Generator, num_samples: int, sample_rate: int, hz: float) -> Signal:
    """A random curve of about unit size that moves `hz` times a second."""
    points = rng.standard_normal(max(int(num_samples / sample_rate * hz), 1) + 2)
    return np.interp(np.linspace(0, len(points) - 1, num_samples), np.arange(len(points)), points)


def _swell(rng: np.random.Generator, num_samples: int, sample_rate: int) -> Signal:
    """A positive gain curve: how loud a noise is from moment to moment."""
    curve = _slow(rng, num_samples, sample_rate, rng.uniform(0.2, 2.0))
    return np.exp(rng.uniform(0.0, 0.35) * curve)


def _unit(x: Signal) -> Signal:
    return x / np.sqrt(np.mean(np.square(x)) + 1e-12)
