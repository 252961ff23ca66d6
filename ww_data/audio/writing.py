"""Audio files out, by libsndfile."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile

from ww_data.audio.errors import AudioError, one_line, source_name
from ww_data.audio.reader import to_ogg_order
from ww_data.dsp import FloatArray
from ww_data.storage import whole_file

_WRITE_BLOCK = 1 << 16
_MASK_AT = 40  # in the chunk that comes first


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
        raise AudioError(f"{name}: cannot be written as audio ({one_line(error)})") from error


def set_channel_mask(file: BinaryIO, channel_mask: int) -> None:
    """Says in a finished WAV file, of libsndfile's format WAVEX, which speakers its channels are for."""
    file.seek(_MASK_AT)
    file.write(channel_mask.to_bytes(4, "little"))
    file.seek(0)


def _write_blocks(
    target: Path | BinaryIO, x: FloatArray, sample_rate: int, subtype: str | None, file_format: str | None
) -> None:
    """Writes (T,) or (T, C) in blocks: libsndfile's Vorbis encoder puts a whole write on the stack, where a minute of
    audio ends the process."""
    channels = 1 if x.ndim == 1 else x.shape[1]
    to = os.fsencode(target) if isinstance(target, Path) else target
    with soundfile.SoundFile(to, "w", sample_rate, channels, subtype=subtype, format=file_format) as file:
        for start in range(0, len(x), _WRITE_BLOCK):
            block = x[start : start + _WRITE_BLOCK]
            file.write(to_ogg_order(block) if file.subtype in ("VORBIS", "OPUS") and channels > 1 else block)
