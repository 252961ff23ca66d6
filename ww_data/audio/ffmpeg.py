"""A stream of MP3, AAC, MP4, WebM or whatever else libsndfile does not read, decoded by FFmpeg (PyAV).

FFmpeg knows hundreds of formats and some that open further files: here it is told which one, gets the bytes of that
one file and no way to others, and opens the decoders of sound that are named here alone. PyAV is imported at the first
use, for it takes 40 ms and 20 MB.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ww_data.audio.containers.chunks import MAX_MISSING, MAX_MISSING_S
from ww_data.audio.errors import AudioError, bad_beginning, bad_sound, cut_short, several_tracks, unreadable
from ww_data.audio.kinds import Kind
from ww_data.audio.reader import MIN_GAP_S, Block, SampleType, converted, silence
from ww_data.audio.speakers import speakers_of, take_speakers
from ww_data.audio.windows import Window

_DEMUXERS: dict[Kind, str] = {"mp4": "mov", "webm": "matroska"}  # of the others' name
_LOSSLESS = ("flac", "alac", "pcm_")
_PCM = [f"pcm_{kind}{end}" for kind in ("s16", "s24", "s32", "f32", "f64") for end in ("le", "be")]
_MPEG = ("mp3", "mp3float", "mp2", "mp2float", "mp1", "mp1float", "aac", "aac_fixed", "ac3", "eac3")
_PHONES = ("amrnb", "amrwb", "gsm", "gsm_ms", "adpcm_ms", "adpcm_ima_wav", "adpcm_ima_qt", "g726")
_OTHERS = ("opus", "libopus", "vorbis", "flac", "alac", "pcm_u8", "pcm_s8", "pcm_alaw", "pcm_mulaw")
_CODECS = {*_PCM, *_MPEG, *_PHONES, *_OTHERS}
_BUFFER_BYTES = 1 << 16
_MAX_PLANES = 8
# Where streams without a container were cut and joined, so many packets may be none.
_MAX_BAD_PACKETS = 3
_WITHOUT_CONTAINER = ("mp3", "aac")
# Containers with a clock leave out what was not recorded: so much nobody waits for. Clocks that are rounded, or run
# a little faster than samples come, go ahead in smaller steps than any frame.
_WITH_CLOCK = ("mp4", "webm")
_MAX_GAP_S, _MAX_ROUNDING_S = 600.0, 0.005


class FfmpegReader:
    """See `Reader`. AudioErrors are without a name."""

    num_frames: int | None = None  # decoding alone tells, but for a FLAC, whose frames were counted
    _interleave: Any = None
    _clock_s: float | None = None  # at the end of what was read
    _gaps_s = 0.0  # that the clock has left out, and no silence has filled yet

    def __init__(self, file: Window, kind: Kind) -> None:
        import av

        self._may_be_bad, self._has_clock = kind in _WITHOUT_CONTAINER, kind in _WITH_CLOCK
        options = {"protocol_whitelist": "", "codec_whitelist": ",".join(sorted(_CODECS))}
        # Titles are often in other alphabets than they should be.
        more: dict[str, Any] = {
            "metadata_errors": "replace",
            "buffer_size": _BUFFER_BYTES,
            "options": options,
        }
        try:
            self._container: Any = av.open(file, format=_DEMUXERS.get(kind, kind), **more)
        except (av.FFmpegError, ValueError) as error:
            raise bad_beginning(error) from error
        try:
            self._stream = self._only_sound()
            told = take_speakers(self._stream.codec_context)
            self.num_frames = self._stream.duration if kind == "flac" else None
            self._frames = self._decoded()
            self._first = next(self._frames, None)
            if self._first is None:
                raise AudioError("holds no samples")
        except BaseException:
            self.close()
            raise
        self.sample_rate, self.num_channels, self._format = _shape(self._first)
        found = speakers_of(self._first.layout)
        self._speakers = found if found.bits else told
        self.channel_mask = self._speakers.mask
        self._end_s = float((self._stream.duration or 0) * self._stream.time_base) if kind == "mp4" else 0.0
        self.subtype = self._stream.codec_context.name
        if self.subtype.startswith(_LOSSLESS):
            self.subtype = "PCM_16" if self._format[:3] in ("u8", "u8p", "s16") else "PCM_24"

    def blocks(self, dtype: SampleType, start: int = 0) -> Iterator[Block]:
        num_read = 0
        for samples_TC in self._samples():
            num_read += len(samples_TC)
            if num_read > start:
                yield converted(samples_TC[max(0, start - num_read + len(samples_TC)) :], dtype)
        if num_read < (self.num_frames or 0):  # it goes over damaged frames
            raise bad_sound()
        missing_s = 0.0 if self._clock_s is None else self._end_s - self._clock_s
        if missing_s > min(MAX_MISSING * self._end_s, MAX_MISSING_S) + MIN_GAP_S:
            raise cut_short(num_read, num_read + round(missing_s * self.sample_rate), "samples")

    def close(self) -> None:
        self._container.close()

    def _only_sound(self) -> Any:
        tracks = self._container.streams.audio
        if not tracks:
            raise AudioError("holds no sound track: name a recording")
        if len(tracks) > 1:
            raise several_tracks(len(tracks))
        context = tracks[0].codec_context
        if context is None or context.name not in _CODECS:
            what = "an unknown codec" if context is None else context.name
            raise unreadable(f"its sound is encoded with {what}")
        context.thread_count = 1  # each thread would need memory of its own
        context.options = {"err_detect": "crccheck+explode"} if context.name == "flac" else {}
        return tracks[0]

    def _decoded(self) -> Iterator[Any]:
        """Frames of FFmpeg's, over what is no packet of sound, where there may be such."""
        import av

        num_bad = num_good = 0
        try:
            for packet in self._container.demux(self._stream):
                try:
                    frames = packet.decode()
                except av.InvalidDataError:
                    num_bad += 1
                    if not self._may_be_bad or num_bad > _MAX_BAD_PACKETS:
                        raise
                else:
                    num_good += 1
                    yield from frames
        except av.FFmpegError as error:
            raise bad_sound(error) if num_good else bad_beginning(error) from error

    def _samples(self) -> Iterator[Block]:
        frame, self._first = self._first, None
        expected = (self.sample_rate, self.num_channels, self._format)
        while frame is not None:
            if _shape(frame) != expected:
                raise changed(expected, _shape(frame))
            num_missing = self._num_missing(frame)
            for interleaved in self._safe(frame):
                samples = interleaved.to_ndarray()
                is_planar = interleaved.format.is_planar
                samples_TC = samples.T if is_planar else samples.reshape(-1, self.num_channels)
                samples_TC = self._speakers.ordered(samples_TC)
                yield from silence(num_missing, samples_TC)
                num_missing = 0
                yield samples_TC
            frame = next(self._frames, None)

    def _num_missing(self, frame: Any) -> int:
        """How many samples nobody recorded before this frame; a recording begins with its first, at whatever time.

        Short gaps are added up until they are worth a silence.
        """
        before_s, time_s = self._clock_s, frame.time if self._has_clock else None
        self._clock_s = None if time_s is None else time_s + frame.samples / self.sample_rate
        gap_s = 0.0 if time_s is None or before_s is None else time_s - before_s
        if gap_s > _MAX_GAP_S:
            raise AudioError(f"holds no sound from {before_s:.0f} s to {time_s:.0f} s: cut it there")
        if not 0 <= gap_s < _MAX_ROUNDING_S:
            self._gaps_s = max(0.0, self._gaps_s + gap_s)
        if self._gaps_s < MIN_GAP_S:
            return 0
        missing_s, self._gaps_s = self._gaps_s, 0.0
        return round(missing_s * self.sample_rate)

    def _safe(self, frame: Any) -> list[Any]:
        """The frame, interleaved if it has many channels: PyAV takes what lies behind the eighth for a ninth."""
        if not frame.format.is_planar or self.num_channels < _MAX_PLANES:
            return [frame]
        import av

        try:
            self._interleave = self._interleave or av.AudioResampler(frame.format.packed.name)
            return list(self._interleave.resample(frame))
        except (av.FFmpegError, ValueError) as error:
            raise bad_sound() from error


def changed(before: tuple[Any, ...], after: tuple[Any, ...]) -> AudioError:
    """For a recording that goes on at another rate, or with another number of channels."""
    return AudioError(
        f"goes on with {after[1]} channel(s) at {after[0]} Hz after {before[1]} at {before[0]} Hz: cut it there"
    )


def _shape(frame: Any) -> tuple[int, int, str]:
    return frame.sample_rate, frame.layout.nb_channels, frame.format.name
