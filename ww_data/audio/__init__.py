"""Audio files in and out, of any rate and number of channels: float32 at full scale +-1.

Whatever is wrong with a file becomes one `AudioError` line that names it. A file is looked at before it is decoded:
what it is (`kinds`), and where in it the sound lies (`links`). libsndfile decodes PCM, FLAC and Ogg, FFmpeg the rest.
"""

from ww_data.audio.errors import AudioError, one_line, source_name
from ww_data.audio.kinds import KINDS, kind_of
from ww_data.audio.reader import Reader, to_ogg_order
from ww_data.audio.reading import iter_blocks, open_audio, open_bytes, read_audio, read_mono
from ww_data.audio.resampling import resample
from ww_data.audio.writing import set_channel_mask, write_audio

__all__ = [
    "KINDS",
    "AudioError",
    "Reader",
    "iter_blocks",
    "kind_of",
    "one_line",
    "open_audio",
    "open_bytes",
    "read_audio",
    "read_mono",
    "resample",
    "set_channel_mask",
    "source_name",
    "to_ogg_order",
    "write_audio",
]
