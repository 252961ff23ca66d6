"""Recordings enhanced as they come: any rate, any number of channels, same length and format, nothing shifted."""

from __future__ import annotations

import contextlib
import io
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import torch

from ww_data import read_audio, resample, write_audio
from ww_data.audio import open_audio, set_channel_mask
from ww_models import Denoiser, enhance
from ww_models.whole_files import write_whole

# What can be written, by the ending of a file's name.
FORMATS = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG"}


@contextlib.contextmanager
def torch_threads(num_threads: int) -> Iterator[None]:
    """Runs a `with` block with so many threads for torch's arithmetic.

    One is right where cores are shared: recurrent layers meet at a barrier in every step, and with a second
    thread that waits for a busy core a clip can take a hundred times as long.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def enhance_audio(
    model: Denoiser, samples_TC: np.ndarray, sample_rate: int, strength: float = 1.0
) -> np.ndarray:
    """Returns the denoised recording, sample by sample beside its input.

    samples_TC: (T, C) floats, full scale +-1; each channel is enhanced by itself.
    sample_rate: of the recording, in Hz. It is converted to the model's rate and back, so that whatever lies
        above half the model's rate is kept only in the dry share.
    strength: share of the enhanced signal, 0 (the input, untouched) to 1; the rest is the input, aligned.
    Returns (T, C) float32. Raises ValueError for anything that is no recording.
    """
    samples_TC = _checked(samples_TC, sample_rate, strength)
    if strength == 0:
        return samples_TC.copy()
    enhanced_TC = np.empty_like(samples_TC)
    for channel, samples_T in enumerate(samples_TC.T):
        enhanced_TC[:, channel] = _enhance_channel(model, samples_T, sample_rate)
    if strength == 1:
        return enhanced_TC
    return np.float32(strength) * enhanced_TC + np.float32(1 - strength) * samples_TC


def read_recording(path: Path) -> tuple[np.ndarray, int, str, int]:
    """Samples (T, C), their rate in Hz, encoding (libsndfile's subtype) and channel mask. Raises AudioError."""
    with open_audio(path) as file:
        about = file.subtype, file.channel_mask
    return *read_audio(path), *about


def write_recording(
    path: Path, samples_TC: np.ndarray, sample_rate: int, source_subtype: str, channel_mask: int = 0
) -> None:
    """Writes a recording, whole or not at all, in the format of its name and the resolution of its source.

    channel_mask: of the source, or 0; WAV says by it which speakers the channels are for.
    Its folder is made if needed. Peaks beyond full scale are clipped.
    Raises ValueError where the format has no room for this rate or number of channels.
    """
    file_format = FORMATS[path.suffix.lower()]
    subtype = stored_subtype(source_subtype, file_format)
    buffer, num_channels = io.BytesIO(), samples_TC.shape[1]
    has_mask = file_format == "WAV" and channel_mask != 0
    try:
        written_as = "WAVEX" if has_mask else file_format
        write_audio(buffer, np.clip(samples_TC, -1, 1), sample_rate, subtype, written_as)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        reason = f"{file_format} cannot hold {num_channels} channel(s) at {sample_rate} Hz; choose WAV"
        raise ValueError(reason) from error
    if has_mask:
        set_channel_mask(buffer, channel_mask)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole({path: buffer.getvalue()})


def stored_subtype(source_subtype: str, file_format: str) -> str:
    """The encoding (libsndfile's subtype) that keeps a recording's resolution in "WAV", "FLAC" or "OGG".

    16 bits for sources of 16 bits or fewer, lossy ones included; 24 bits for everything finer.
    """
    if file_format == "OGG":
        return "VORBIS"
    return "PCM_24" if source_subtype in {"PCM_24", "PCM_32", "FLOAT", "DOUBLE"} else "PCM_16"


def measure_real_time_factor(model: Denoiser, *, clip_s: float = 4.0, repeats: int = 3) -> float:
    """Seconds of computing per second of audio, for a whole clip with the threads torch has now; a median.

    Below 1 is faster than real time. The clip is noise: digital silence can be faster than any recording.
    """
    noise_T = np.random.default_rng(0).normal(scale=0.1, size=round(clip_s * model.sample_rate))
    noise_B1T = torch.from_numpy(noise_T.astype(np.float32)).reshape(1, 1, -1)
    enhance(model, noise_B1T)  # the first call also pays for allocating and for choosing kernels
    times_s = []
    for _ in range(repeats):
        start = time.perf_counter()
        enhance(model, noise_B1T)
        times_s.append(time.perf_counter() - start)
    return statistics.median(times_s) / clip_s


def _enhance_channel(model: Denoiser, samples_T: np.ndarray, sample_rate: int) -> np.ndarray:
    at_model_rate_T = resample(samples_T, sample_rate, model.sample_rate)
    noisy_B1T = torch.from_numpy(np.array(at_model_rate_T)).reshape(1, 1, -1)
    enhanced_T = resample(enhance(model, noisy_B1T).reshape(-1).numpy(), model.sample_rate, sample_rate)
    # Rounding there and back may leave a sample too many or, at the very end, too few.
    missing = max(0, len(samples_T) - len(enhanced_T))
    return np.pad(enhanced_T, (0, missing))[: len(samples_T)]


def _checked(samples_TC: np.ndarray, sample_rate: int, strength: float) -> np.ndarray:
    samples_TC = np.asarray(samples_TC)
    if samples_TC.ndim != 2 or 0 in samples_TC.shape:
        raise ValueError(
            f"expected samples (T, C), at least one sample of one channel; got the shape {samples_TC.shape}"
        )
    if not np.issubdtype(samples_TC.dtype, np.floating):
        raise ValueError(
            f"expected floats with full scale +-1; got {samples_TC.dtype}: divide by the full scale"
        )
    samples_TC = samples_TC.astype(np.float32, copy=False)
    if not np.isfinite(samples_TC).all():
        raise ValueError("the samples hold NaN or infinity; replace them or leave the recording out")
    if sample_rate <= 0:
        raise ValueError(f"sample_rate must be positive, in Hz; got {sample_rate}")
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must lie between 0 (the input) and 1 (fully enhanced); got {strength}")
    return samples_TC
