"""Recordings enhanced as they come: any rate, any length, any number of channels, same format, nothing shifted."""

from __future__ import annotations

import contextlib
import io
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile
import torch

from cluster.sound.bands import Band, clip_back
from cluster.sound.encoder import FileEncoder, Format, stored_subtype
from cluster.sound.level import sound_blocks
from cluster.sound.offset import OffsetRemover
from cluster.sound.recording import RecordingStream
from cluster.sound.streams import BatchedStreams, Streams, WindowedStreams, recording_engine
from ww_data import resample, write_audio
from ww_data.audio import iter_blocks, open_audio, set_channel_mask, source_name
from ww_data.storage import whole_file
from ww_models import Denoiser, enhance
from ww_models.whole_files import write_whole

# What can be written, by the ending of a file's name.
FORMATS: dict[str, Format] = {".wav": "wav", ".flac": "flac", ".ogg": "ogg"}
# Nobody waits for the first of a file's sound: larger steps than the endpoint's take a quarter less time.
STEP_S = 0.256
WINDOW_HOP_S = 12.0
_PIECE_S = 1.0  # that is fed at a time


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


class FileDenoiser:
    """A model made ready for files: through the streams that the endpoint uses, in memory that a file's length does not
    change."""

    def __init__(self, model: Denoiser, num_threads: int = 1) -> None:
        """num_threads: of a model that runs in steps; others take those of torch."""
        self._model = model
        has_steps = model.latency_samples is not None
        self._engine = recording_engine(model, STEP_S, num_threads=num_threads) if has_steps else None

    def enhance(
        self,
        source: Path,
        target: Path,
        strength: float = 1.0,
        progress: Callable[[float], None] = lambda share: None,
        band: Band = "full",
    ) -> float:
        """Writes the denoised recording, whole or not at all, in the format of its name and the source's resolution.

        Returns its peak: what is beyond 1, full scale, saturates. The folder is made if needed. strength, band:
        see `enhance_audio`. progress: called with the share that is done. Raises ValueError (AudioError, FormatError)
        or OSError, one line, for a source that cannot be read and a format that has no room for it. All of a source is
        looked at before the model hears it.
        """
        name, file_format = source_name(source), FORMATS[target.suffix.lower()]
        with open_audio(source) as file:
            sample_rate, num_channels, mask = file.sample_rate, file.num_channels, file.channel_mask
            subtype = stored_subtype(file.subtype, file_format.upper())
            num_frames = sum(len(block_TC) for block_TC in sound_blocks(file, name))
        encoder = FileEncoder(file_format, subtype, sample_rate, num_channels, num_frames, mask)
        target.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(target) as temporary, temporary.open("xb") as written, open_audio(source) as file:
            blocks_TC = iter_blocks(file, name)
            num_done, peak = 0, 0.0
            for done_CT in self._denoised(blocks_TC, sample_rate, num_channels, strength, band):
                written.write(encoder.encode(done_CT.T))
                num_done += done_CT.shape[-1]
                peak = max(peak, float(np.abs(done_CT).max(initial=0.0)))
                progress(num_done / num_frames)
            if num_done != num_frames:
                raise ValueError(f"{name}: has another length each time it is read: is it being written?")
            written.write(encoder.finish())
        return peak

    def _denoised(
        self,
        blocks_TC: Iterator[np.ndarray],
        sample_rate: int,
        num_channels: int,
        strength: float,
        band: Band,
    ) -> Iterator[np.ndarray]:
        """The denoised sound of blocks (n, C), in pieces (C, m)."""
        streams = self._streams(num_channels)
        recording = RecordingStream(streams, sample_rate, num_channels, strength, band)
        piece = round(_PIECE_S * sample_rate)
        recording.open()
        try:
            for block_TC in blocks_TC:
                for first in range(0, len(block_TC), piece):
                    recording.feed(np.ascontiguousarray(block_TC[first : first + piece].T))
                    while streams.advance():
                        pass
                    yield recording.take()
            recording.finish()
            while not recording.is_done:
                streams.advance()
                yield recording.take()
        finally:
            recording.close()

    def _streams(self, num_channels: int) -> Streams:
        if self._engine is None:
            return WindowedStreams(self._model, WINDOW_HOP_S)
        return BatchedStreams(self._engine, num_channels)


def enhance_audio(
    model: Denoiser, samples_TC: np.ndarray, sample_rate: int, strength: float = 1.0, band: Band = "full"
) -> np.ndarray:
    """Returns the denoised clip, sample by sample beside its input: what a file of it becomes, all at once.

    samples_TC: (T, C) floats, full scale +-1; each channel is enhanced by itself.
    sample_rate: of the recording, in Hz. It is converted to the model's rate and back.
    band: "full" keeps what lies above half the model's rate, with its noise turned down; "model"
        leaves it out, but in the share of the input.
    strength: share of the enhanced signal, 0 (the input, untouched) to 1; the rest is the input, aligned.
    Returns (T, C) float32. Raises ValueError for anything that is no recording.
    """
    samples_TC = _checked(samples_TC, sample_rate, strength)
    if strength == 0:
        return samples_TC.copy()
    enhanced_TC = np.empty_like(samples_TC)
    without_offset_CT = OffsetRemover(sample_rate, samples_TC.shape[1]).feed(samples_TC.T)
    for channel, samples_T in enumerate(without_offset_CT):
        enhanced_TC[:, channel] = _enhance_channel(model, samples_T, sample_rate, band)
    if strength == 1:
        return enhanced_TC
    return np.float32(strength) * enhanced_TC + np.float32(1 - strength) * samples_TC


def read_recording(path: Path) -> tuple[np.ndarray, int, str, int]:
    """Samples (T, C), their rate in Hz, encoding (libsndfile's subtype) and channel mask. Raises AudioError."""
    with open_audio(path) as file:
        samples_TC = np.concatenate(list(sound_blocks(file, source_name(path))))
        return samples_TC, file.sample_rate, file.subtype, file.channel_mask


def write_recording(
    path: Path, samples_TC: np.ndarray, sample_rate: int, source_subtype: str, channel_mask: int = 0
) -> None:
    """Writes a recording, whole or not at all, in the format of its name and the resolution of its source.

    channel_mask: of the source, or 0; WAV says by it which speakers the channels are for.
    Its folder is made if needed. Peaks beyond full scale are clipped.
    Raises ValueError where the format has no room for this rate or number of channels.
    """
    file_format = FORMATS[path.suffix.lower()].upper()
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


def _enhance_channel(model: Denoiser, samples_T: np.ndarray, sample_rate: int, band: Band) -> np.ndarray:
    noisy_T = np.array(resample(samples_T, sample_rate, model.sample_rate))
    clean_T = enhance(model, torch.from_numpy(noisy_T).reshape(1, 1, -1)).reshape(-1).numpy()
    return clip_back(band, samples_T, noisy_T, clean_T, sample_rate, model.sample_rate)


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
