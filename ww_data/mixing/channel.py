"""What a channel does: a turned knob, rumble, overdriven peaks, lost packets, coarse quantisation."""

from __future__ import annotations

import numpy as np

from ww_data.dsp import FloatArray
from ww_data.mixing.draw_effects import Dropouts, GainChange, Quantisation, Rumble
from ww_data.randomness import scattered

_PACKET_S = 0.02
_LONGEST_LOSS = 3  # packets in a row
_RUMBLE_HZ = (2.0, 20.0)
_RUMBLE_TONES = 3


def gain_over_time(change: GainChange, num_samples: int, sample_rate: int) -> FloatArray:
    """Gains (T,) of a knob that is turned, evenly in dB."""
    after_T = np.arange(num_samples, dtype=np.float32) - np.float32(change.position * num_samples)
    turned_T = np.clip(after_T * np.float32(1 / (change.seconds * sample_rate)), 0, 1)
    return np.exp2(turned_T * np.float32(change.gain_db / (20 * np.log10(2))))


def rumbling(rumble: Rumble, num_samples: int, sample_rate: int) -> FloatArray:
    """Tones (T,) that are felt rather than heard, their power that of the level as a whole."""
    hz_K, phase_K, share_K = scattered(rumble.tones_key, 3 * _RUMBLE_TONES).reshape(3, _RUMBLE_TONES, 1)
    turns_K = (_RUMBLE_HZ[0] + (_RUMBLE_HZ[1] - _RUMBLE_HZ[0]) * hz_K) / sample_rate
    weight_K = np.sqrt(2 * share_K / share_K.sum()) * 10 ** (rumble.level_dbfs / 20)
    tones_KT = np.sin(2 * np.pi * (turns_K * np.arange(num_samples) + phase_K))
    return (weight_K * tones_KT).sum(0).astype(np.float32)


def clipped(x_T: FloatArray, clipping_db: float) -> FloatArray:
    """Cut off `clipping_db` below its peak."""
    ceiling = np.float32(max(x_T.max(), -x_T.min()) * 10 ** (-clipping_db / 20))
    return np.clip(x_T, -ceiling, ceiling)


def with_dropouts(x_T: FloatArray, dropouts: Dropouts, sample_rate: int) -> FloatArray:
    """Silent where packets of 20 ms were lost, one to three in a row."""
    packet = round(_PACKET_S * sample_rate)
    num_packets = -(-len(x_T) // packet)
    starts_P, lengths_P = scattered(dropouts.packets_key, 2 * num_packets).reshape(2, num_packets)
    mean_loss = (1 + _LONGEST_LOSS) / 2
    x_T = x_T.copy()
    for start in np.flatnonzero(starts_P < dropouts.share / mean_loss).tolist():
        length = 1 + int(lengths_P[start] * _LONGEST_LOSS)
        x_T[start * packet : (start + length) * packet] = 0
    return x_T


def quantised(x_T: FloatArray, quantisation: Quantisation) -> FloatArray:
    """Rounded to the 2**bits values of full scale; on the mu-law they are denser where it is quiet (ITU-T G.711)."""
    mu = np.float32(2**quantisation.bits - 1)
    if not quantisation.mu_law:
        half = np.float32(2 ** (quantisation.bits - 1))
        return np.clip(np.rint(x_T * half), -half, half - 1) / half
    # As torchaudio.functional.mu_law_encoding and _decoding, but with an odd number of values: silence stays silent.
    steps = mu // 2
    loudness_T = np.rint(np.log1p(mu * np.abs(x_T)) * (steps / np.log1p(mu))) / steps
    return np.copysign(np.minimum(np.expm1(loudness_T * np.log1p(mu)) / mu, np.float32(1)), x_T)
