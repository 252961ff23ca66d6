"""Reading a file once, from end to end: how long and loud it is, what is in it, and whether it is of use."""

from __future__ import annotations

import hashlib
import math
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

import numpy as np
import numpy.typing as npt

from ww_data.audio import AudioError, Reader, iter_blocks, open_audio
from ww_data.dsp import HIGH_PASS_HZ, FloatArray
from ww_data.manifest import Clip, Role
from ww_data.scan.files import Recording
from ww_data.scan.hearing import heard_dbfs, surely_heard
from ww_data.scan.moved import sample_hash

MIN_SECONDS: dict[Role, float] = {"speech": 0.5, "noise": 0.1, "rir": 0.005}
# An impulse response is quiet on the whole: a click and a long tail.
SILENT_BELOW_DBFS: dict[Role, float] = {"speech": -80.0, "noise": -80.0, "rir": -120.0}
# Channels that lose more than this by being averaged, beyond what different ones do, are turned over.
_CANCELLED_DB = 6.0
# Of a file that was listed and is not there: whoever listed it knows what that means.
NOT_REACHED = ": is not reached from node "
# What is read as int16 without a change, in half the time of float32.
_INT16_SUBTYPES = frozenset(("PCM_16", "PCM_S8", "PCM_U8"))
_FULL_SCALE = 32768.0
_PIVOT_FRAMES = 8192
# How much of a pair's difference may be its clean sound, and how far apart both sides are looked at. Noise alone has a
# few per cent of anything.
_MAX_CLEAN_SHARE, _MAX_LAG_S = 0.25, 0.5


def inspect_all(recordings: Sequence[Recording]) -> list[Clip]:
    """The clips of some recordings, without a split; those of no use with a `skip_reason`."""
    return [inspect(recording) for recording in recordings]


def inspect(recording: Recording) -> Clip:
    """Reads one file (or pair) to its end, block by block. Never raises for what is wrong with it."""
    clip = clip_of(recording)
    if clip.skip_reason:
        return clip
    try:
        with ExitStack() as stack:
            file = stack.enter_context(open_audio(recording.path))
            sample_rate, num_channels = file.sample_rate, file.num_channels
            peaks = [0.0]
            blocks_TC = _blocks(file, recording, peaks, stack)
            measured = _measure(blocks_TC, num_channels, sample_rate, is_rir=recording.role == "rir")
        reason = _why_useless(measured.num_frames / sample_rate, num_channels, measured, recording.role)
        reason = reason or _why_inaudible(recording, measured)
    except AudioError as error:
        reason = _without_name(error, recording)
        if isinstance(error.__cause__, FileNotFoundError):
            reason += f"{NOT_REACHED}{socket.gethostname()}"
        return replace(clip, skip_reason=reason)
    clip = replace(
        clip,
        sample_rate=sample_rate,
        num_frames=measured.num_frames,
        num_channels=num_channels,
        seconds=measured.num_frames / sample_rate,
        level_dbfs=measured.level_dbfs,
        peak=max(measured.peak, *peaks),
        offset=measured.constant,
    )
    if reason:
        return replace(clip, skip_reason=reason)
    return replace(clip, content_hash=measured.content, sample_hash=sample_hash(recording))


def unreadable(recording: Recording) -> Clip:
    """The clip of a file that is not to be read again."""
    return replace(
        clip_of(recording), skip_reason="it ended the process that read it: convert it to WAV or FLAC"
    )


def clip_of(recording: Recording) -> Clip:
    """What is known of an recording's clip before its file is read."""
    return Clip(
        id=recording.id,
        path=recording.path,
        role=recording.role,
        speaker=recording.group,
        skip_reason=recording.skip_reason,
        layout=recording.layout,
        size_bytes=recording.size_bytes,
        modified_ns=recording.modified_ns,
        minus=recording.minus,
    )


def _blocks(
    file: Reader, recording: Recording, peaks: list[float], stack: ExitStack
) -> Iterator[npt.NDArray[Any]]:
    """Blocks (n, C) of an open recording: int16 where it is that, else float32."""
    if recording.minus:
        return _difference(file, stack.enter_context(open_audio(recording.minus)), peaks)
    return iter_blocks(file, "", "int16" if file.subtype in _INT16_SUBTYPES else "float32")


def _difference(noisy: Reader, clean: Reader, peaks: list[float]) -> Iterator[FloatArray]:
    """The noise of a recorded pair, noisy - clean, as blocks (n, C) of two open files; adds the peaks of both sides.

    Raises AudioError, without a name, if their rates, channels or lengths are not the same, if the clean sound is in
    the difference, or like `iter_blocks`.
    """
    for what, unit in (("sample_rate", "Hz"), ("num_channels", "channels"), ("num_frames", "samples")):
        came, expected = getattr(noisy, what), getattr(clean, what)
        if None not in (came, expected) and came != expected:
            raise AudioError(f"does not fit its clean file ({came} {unit}, the clean file has {expected})")
    likeness = _Likeness(round(_MAX_LAG_S * clean.sample_rate))
    for noisy_TC, clean_TC in zip_longest(iter_blocks(noisy, ""), iter_blocks(clean, "its clean file")):
        if noisy_TC is None or clean_TC is None or noisy_TC.shape != clean_TC.shape:
            raise AudioError("does not fit its clean file (one of them is longer)")
        peaks += [_peak(_mean_of_channels(block_TC)) for block_TC in (noisy_TC, clean_TC)]
        difference_TC = noisy_TC - clean_TC
        likeness.add(_mean_of_channels(difference_TC), _mean_of_channels(clean_TC))
        yield difference_TC
    if likeness.share > _MAX_CLEAN_SHARE:
        raise AudioError(
            f"does not fit its clean file ({likeness.share:.0%} of their difference is the clean sound: one of them "
            "is louder, later, inverted, or of another recording)"
        )


class _Likeness:
    """How much of one signal is the other one, at the lag where it is most, from blocks of both."""

    def __init__(self, max_lag: int) -> None:
        self._max_lag = max_lag
        self._products = np.zeros(2 * max_lag + 1)  # by lag
        self._energies = np.zeros(2)

    def add(self, x_T: FloatArray, y_T: FloatArray) -> None:
        size = 1 << (len(x_T) + self._max_lag).bit_length()
        x, y = (np.fft.rfft(each_T.astype(np.float64), size) for each_T in (x_T, y_T))
        products = np.fft.irfft(x * y.conj(), size)
        self._products += np.concatenate([products[-self._max_lag :], products[: self._max_lag + 1]])
        self._energies += [float(np.square(each_T, dtype=np.float64).sum()) for each_T in (x_T, y_T)]

    @property
    def share(self) -> float:
        """Of the energy, 0 to 1."""
        together = float(self._energies.prod())
        return float(np.square(self._products).max()) / together if together else 0.0


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """Levels are in dBFS without the channels' constant parts, `constant` is the largest of these at full scale 1,
    `surely_heard_dbfs` a level above 20 Hz that it has at the very least."""

    num_frames: int
    level_dbfs: float
    mono_level_dbfs: float
    constant: float
    surely_heard_dbfs: float
    peak: float
    content: str


@np.errstate(over="ignore", invalid="ignore")  # samples beyond all measure are told by their level
def _measure(
    blocks_TC: Iterator[npt.NDArray[Any]], num_channels: int, sample_rate: int, *, is_rir: bool
) -> _Measured:
    """Lengths, levels and a hash of the channels' mean, from blocks (n, C) of int16 or of float32 at full scale 1."""
    digest = hashlib.sha256(str(sample_rate).encode())  # processors have instructions for it
    num_frames, energy, mono_energy, peak, sure = 0, 0.0, 0.0, 0.0, 0.0
    sum_C = np.zeros(num_channels)
    pivot_C: FloatArray | None = None
    for block_TC in blocks_TC:
        is_int16 = block_TC.dtype == np.int16
        x_TC = block_TC.astype(np.float32) if is_int16 else block_TC * np.float32(_FULL_SCALE)
        mono_T = x_TC[:, 0] if num_channels == 1 else _mean_of_channels(x_TC)
        digest.update(block_TC.data if is_int16 and num_channels == 1 else _canonical(mono_T))
        # Whole numbers are compared fastest, and as they are.
        heard = block_TC if num_channels == 1 and is_int16 else x_TC[:, 0] if is_rir else mono_T
        peak = max(peak, _peak(heard))
        if pivot_C is None:
            pivot_C = _pivot(x_TC[:_PIVOT_FRAMES])
        if pivot_C.any():
            x_TC -= pivot_C
        flat = x_TC.reshape(-1)
        energy += float(np.dot(flat, flat))
        sum_C += x_TC.sum(axis=0) if num_channels > 1 else flat.sum()
        if num_channels > 1:
            mono_T -= pivot_C.mean()
            mono_energy += float(np.dot(mono_T, mono_T))
        sure += 0.0 if is_rir else surely_heard(mono_T, sample_rate)
        num_frames += len(block_TC)
    assert pivot_C is not None  # the blocks of `iter_blocks` are never none
    mean_C = sum_C / num_frames
    variance = energy / (num_frames * num_channels) - float(np.mean(mean_C**2))
    mono_variance = mono_energy / num_frames - float(np.mean(mean_C)) ** 2 if num_channels > 1 else variance
    return _Measured(
        num_frames=num_frames,
        level_dbfs=_dbfs(variance),
        mono_level_dbfs=_dbfs(mono_variance),
        constant=float(np.abs(mean_C + pivot_C).max()) / _FULL_SCALE,
        surely_heard_dbfs=_dbfs(sure / num_frames),
        peak=peak / _FULL_SCALE,
        content=digest.hexdigest()[:32],
    )


def _peak(samples: npt.NDArray[Any]) -> float:
    return max(float(samples.max()), -float(samples.min())) if samples.size else 0.0


def _pivot(x_TC: FloatArray) -> FloatArray:
    """(C,) what to take off before squaring: nothing, unless constant parts would drown the rest in float32."""
    mean_C = x_TC.mean(axis=0, dtype=np.float32)
    flat = x_TC.reshape(-1)
    is_large = float(np.dot(mean_C, mean_C)) * len(x_TC) > 0.01 * float(np.dot(flat, flat))
    return mean_C if is_large else np.zeros_like(mean_C)


def _mean_of_channels(x_TC: FloatArray) -> FloatArray:
    """`mean(axis=1)`, which is slow over so short an axis."""
    total_T = x_TC[:, 0].copy()
    for channel in range(1, x_TC.shape[1]):
        total_T += x_TC[:, channel]
    return total_T / np.float32(x_TC.shape[1])


def _canonical(mono_T: FloatArray) -> Any:
    """The bytes of samples in units of int16: the same for one sound in 16 bits, in 24 and in floating point."""
    whole_T = mono_T.astype(np.int16)
    return whole_T.data if np.array_equal(whole_T, mono_T) else np.ascontiguousarray(mono_T).data


def _dbfs(variance: float) -> float:
    if not math.isfinite(variance):
        return math.inf
    return 10 * math.log10(variance / _FULL_SCALE**2) if variance > 0 else -math.inf


def _why_useless(seconds: float, num_channels: int, measured: _Measured, role: Role) -> str:
    silent_below = SILENT_BELOW_DBFS[role]
    if seconds < MIN_SECONDS[role]:
        return f"too short ({seconds:.3f} s, at least {MIN_SECONDS[role]} s of {role} are needed)"
    if measured.level_dbfs == math.inf:
        return "far beyond full scale (its samples are too large for a level): write it again from its source"
    if measured.level_dbfs < silent_below and measured.constant > 10 ** (silent_below / 20):
        return f"nothing but a constant (a DC offset of {measured.constant:.3g})"
    if measured.level_dbfs < silent_below:
        return f"silent ({measured.level_dbfs:.0f} dBFS, below {silent_below:.0f})"
    # Of N channels that differ, or of one of N, so much is left on average.
    lost_db = measured.level_dbfs - measured.mono_level_dbfs - 10 * math.log10(num_channels)
    if role != "rir" and (lost_db > _CANCELLED_DB or measured.mono_level_dbfs < silent_below):
        return "its channels cancel each other out, one is another turned over: give one channel of it"
    return ""


def _why_inaudible(recording: Recording, measured: _Measured) -> str:
    """The reason to skip what preparation would leave nothing of; the few that may be such are read again."""
    silent_below = SILENT_BELOW_DBFS[recording.role]
    if recording.role == "rir" or measured.surely_heard_dbfs >= silent_below:
        return ""
    with ExitStack() as stack:
        file = stack.enter_context(open_audio(recording.path))
        blocks_TC = _blocks(file, recording, [], stack)
        scaled_TC = (x_TC / _FULL_SCALE if x_TC.dtype == np.int16 else x_TC for x_TC in blocks_TC)
        level_dbfs = heard_dbfs(scaled_TC, file.sample_rate)
    if level_dbfs < silent_below:
        return f"nothing above {HIGH_PASS_HZ:g} Hz is in it ({level_dbfs:.0f} dBFS, below {silent_below:.0f})"
    return ""


def _without_name(error: AudioError, recording: Recording) -> str:
    """What an error says, without the path that stands beside it in the manifest."""
    text = str(error)
    for path in filter(None, (recording.minus, "its clean file")):
        if text.startswith(f"{path}: "):
            return f"its clean file cannot be used ({text.removeprefix(f'{path}: ')})"
    return text.removeprefix(recording.path).removeprefix(": ")
