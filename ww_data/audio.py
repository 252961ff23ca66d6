"""Audio files in and out, of any rate, channels and format that libsndfile knows: float32 at full scale +-1.

Whatever is wrong with a file becomes one `AudioError` line that names it.
"""

from __future__ import annotations

import io
import math
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Literal
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt
import soundfile

from ww_data.dsp import FloatArray
from ww_data.storage import Storage, whole_file
from ww_data.torchaudio_compat import torchaudio_transforms

AudioSource = str | os.PathLike[str] | BinaryIO

MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 4_000, 768_000
_BLOCK_FRAMES = 1 << 18
_WRITE_BLOCK = 1 << 16
_server = lru_cache(maxsize=16)(Storage)  # one connection for all files of a bucket
# Files that lie behind an address are fetched whole up to this size, and read piece by piece beyond it.
_FETCH_WHOLE_BYTES = 1 << 26
_FETCH_PIECE_BYTES = 1 << 22
# A file that lacks more than this part of what its header promises is broken; less is an encoder's sloppy bookkeeping.
_MAX_MISSING = 0.01
# WAV writers that cannot seek back leave such lengths in the header: the length is then "until the end".
_UNKNOWN_LENGTH_BYTES = 0x7FFFF000
# torchaudio's kernel has (from/gcd) x (to/gcd) entries: beyond this, an FFT over the whole clip is the better way.
_MAX_KERNEL_ENTRIES = 1_000_000


class AudioError(ValueError):
    """A file or buffer that cannot be used as audio. One line: which file, what came, what to do."""


def read_audio(source: AudioSource) -> tuple[FloatArray, int]:
    """Samples (T, C) float32 and the sample rate in Hz of a path or an open binary file. Raises AudioError."""
    with open_audio(source) as file:
        return np.concatenate(list(iter_blocks(file, source_name(source)))), int(file.samplerate)


def read_mono(source: AudioSource, sample_rate: int = 16000) -> FloatArray:
    """Samples (T,) float32 at `sample_rate` Hz, channels averaged. Raises AudioError like `read_audio`."""
    with open_audio(source) as file:
        mono_T = np.concatenate([block.mean(axis=1) for block in iter_blocks(file, source_name(source))])
        from_rate = int(file.samplerate)
    return resample(mono_T, from_rate, sample_rate)


def resample(samples: npt.ArrayLike, from_rate: int, to_rate: int) -> FloatArray:
    """Samples (..., T) at `from_rate` Hz as float32 (..., ceil(T * to_rate / from_rate)) at `to_rate` Hz."""
    for rate in (from_rate, to_rate):
        if not MIN_SAMPLE_RATE <= rate <= MAX_SAMPLE_RATE:
            raise AudioError(
                f"the sample rate is {rate} Hz: expected {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz"
            )
    x = np.ascontiguousarray(samples, dtype=np.float32)
    divisor = math.gcd(from_rate, to_rate)
    step_in, step_out = from_rate // divisor, to_rate // divisor
    if step_in == step_out or x.shape[-1] == 0:
        return x
    if step_in * step_out > _MAX_KERNEL_ENTRIES:
        return _resample_fft(x, step_in, step_out)
    import torch  # heavy, and most corpora never need it

    with torch.inference_mode():
        resampled = _resampler(step_in, step_out)(torch.from_numpy(x))
    return np.ascontiguousarray(resampled.numpy())


@lru_cache(maxsize=8)
def _resampler(step_in: int, step_out: int) -> Any:
    """torchaudio's resampler, with its kernel, which takes about as long to make as a clip of ten seconds to filter."""
    return torchaudio_transforms().Resample(step_in, step_out, lowpass_filter_width=16)


def _resample_fft(x: FloatArray, step_in: int, step_out: int) -> FloatArray:
    """Resampling by cutting or extending the spectrum: exact for rates without a useful common divisor."""
    num_samples = x.shape[-1]
    # Whole steps keep the ratio exact; one more keeps the ends apart.
    num_steps = -(-num_samples // step_in) + 1
    spectrum = np.fft.rfft(x.astype(np.float64), n=num_steps * step_in)
    y = np.fft.irfft(spectrum[..., : num_steps * min(step_in, step_out) // 2 + 1], n=num_steps * step_out)
    return (y[..., : -(-num_samples * step_out // step_in)] * (step_out / step_in)).astype(np.float32)


def write_audio(
    target: str | os.PathLike[str] | BinaryIO,
    samples: npt.ArrayLike,
    sample_rate: int,
    subtype: str | None = "PCM_16",
    file_format: str | None = None,
) -> None:
    """Write samples (T,) or (T, C) at full scale +-1; the format follows the suffix (WAV for an open file).

    Peaks beyond full scale saturate in integer formats, with a warning. `subtype=None` takes the format's own default
    (needed for MP3 and OGG). NaN, infinity or a wrong shape are an AudioError.
    """
    name = source_name(target)
    x = np.asarray(samples, dtype=np.float32)
    if x.ndim not in (1, 2) or x.size == 0:
        raise AudioError(
            f"{name}: cannot write samples of shape {x.shape}: expected (T,) or (T, C), not empty"
        )
    if not np.isfinite(x).all():
        raise AudioError(f"{name}: cannot write samples that hold NaN or infinity")
    peak = float(np.abs(x).max())
    if peak > 1.0 and subtype not in ("FLOAT", "DOUBLE"):
        warnings.warn(f"{name}: peaks of {peak:.3f} saturate at full scale", stacklevel=2)
        x = np.clip(x, -1.0, 1.0)
    if not isinstance(target, (str, os.PathLike)):
        _write_blocks(target, x, sample_rate, subtype, file_format or "WAV")
        return
    path = Path(target)
    if not path.parent.is_dir():
        raise AudioError(f"{name}: its folder does not exist")
    try:
        with whole_file(path) as temporary:
            _write_blocks(temporary, x, sample_rate, subtype, file_format)
    except (soundfile.LibsndfileError, TypeError, ValueError) as error:
        raise AudioError(f"{name}: cannot be written as audio ({_one_line(error)})") from error


def _write_blocks(
    target: Path | BinaryIO, x: FloatArray, sample_rate: int, subtype: str | None, file_format: str | None
) -> None:
    """Writes (T,) or (T, C) in blocks: libsndfile's Vorbis encoder puts a whole write on the stack, where a minute of
    audio ends the process."""
    channels = 1 if x.ndim == 1 else x.shape[1]
    with soundfile.SoundFile(target, "w", sample_rate, channels, subtype=subtype, format=file_format) as file:
        for start in range(0, len(x), _WRITE_BLOCK):
            file.write(x[start : start + _WRITE_BLOCK])


@contextmanager
def open_audio(source: AudioSource) -> Iterator[soundfile.SoundFile]:
    """An open file of a path, an address (s3://...) or an open binary file. Whatever is wrong, is an AudioError."""
    name = source_name(source)
    target: Any = source
    if isinstance(source, str) and "://" in source:
        target = _fetch(source, name)
    elif not (isinstance(source, (str, os.PathLike)) or (hasattr(source, "seekable") and source.seekable())):
        target = io.BytesIO(source.read())
    try:
        with soundfile.SoundFile(target) as file:
            if not MIN_SAMPLE_RATE <= file.samplerate <= MAX_SAMPLE_RATE:
                raise AudioError(
                    f"{name}: states a sample rate of {file.samplerate} Hz, expected {MIN_SAMPLE_RATE} to "
                    f"{MAX_SAMPLE_RATE} Hz: its header is probably damaged"
                )
            yield file
    except (soundfile.LibsndfileError, RuntimeError, TypeError) as error:
        if isinstance(target, (str, os.PathLike)):
            _check_readable(Path(target), name)
        raise _unreadable(name, error) from error


def iter_blocks(
    file: soundfile.SoundFile, name: str, dtype: Literal["float32", "int16"] = "float32"
) -> Iterator[npt.NDArray[Any]]:
    """The samples of an open file as blocks (n, C), so that long files never lie in memory whole.

    Raises AudioError if there are none, if one is NaN or infinite, or if the file ends before its header says.
    """
    num_read = 0
    while True:
        try:
            block = file.read(_BLOCK_FRAMES, dtype=dtype, always_2d=True)
        except (soundfile.LibsndfileError, RuntimeError) as error:
            raise _unreadable(name, error) from error
        if not len(block):
            break
        if dtype == "float32" and not np.isfinite(block).all():
            raise AudioError(
                f"{name}: holds samples that are NaN or infinite: write it again from its source"
            )
        num_read += len(block)
        yield block
    if num_read == 0:
        raise AudioError(f"{name}: holds no samples")
    promised = max(file.frames, _promised_wav_frames(file))
    if num_read < (1 - _MAX_MISSING) * promised:
        raise AudioError(f"{name}: is cut short ({num_read} of {promised} samples are there): copy it again")


def source_name(source: object) -> str:
    """What to call a source in an error message."""
    if isinstance(source, (str, os.PathLike)):
        return os.fsencode(source).decode("utf-8", "replace")
    name = getattr(source, "name", None)
    return name if isinstance(name, str) and name else "the given file"


def _fetch(address: str, name: str) -> BinaryIO:
    """An open file behind an address, whose path is quoted as in URLs; an AudioError if there is none."""
    scheme, _, rest = address.partition("://")
    rest, question, options = rest.partition("?")
    server, _, key = rest.partition("/")
    try:
        file = _server(f"{scheme}://{server}{question}{options}").open(unquote(key))
        if file.size() <= _FETCH_WHOLE_BYTES:
            with file:
                content = file.read()
            if not content:
                raise AudioError(f"{name}: is empty (0 bytes)")
            return io.BytesIO(content)
    except OSError as error:
        raise AudioError(f"{name}: cannot be opened ({_one_line(error)})") from error
    return io.BufferedReader(file, _FETCH_PIECE_BYTES)


def _unreadable(name: str, error: BaseException) -> AudioError:
    return AudioError(f"{name}: cannot be read as audio ({_one_line(error)}): convert it to WAV or FLAC")


def _check_readable(path: Path, name: str) -> None:
    """Say what the operating system has against a path; libsndfile would only say "System error"."""
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise AudioError(f"{name}: is empty (0 bytes)")
    except OSError as error:
        raise AudioError(f"{name}: cannot be opened ({error.strerror or error})") from error


def _promised_wav_frames(file: soundfile.SoundFile) -> int:
    """The frames that a cut WAV file promises: libsndfile counts those there are, and logs the others."""
    cut = re.search(r"^data : (\d+) \(should be (\d+)\)", file.extra_info, re.MULTILINE)
    if not cut or int(cut[1]) >= _UNKNOWN_LENGTH_BYTES or int(cut[2]) == 0:
        return 0
    return int(file.frames * int(cut[1]) / int(cut[2]))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".")
