"""What a denoiser took away of a recording, as a file: input minus output, sample by sample."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cluster.enhancement import FORMATS
from cluster.sound.encoder import FileEncoder, stored_subtype
from ww_data.audio import iter_blocks, open_audio, source_name
from ww_data.storage import whole_file


def write_taken_away(source: Path, enhanced: Path, target: Path) -> None:
    """Writes source minus enhanced, whole or not at all, in the format of the target's name.

    Both have the same rate, channels and length, as `FileDenoiser.enhance` makes them. The folder is made if needed.
    Raises ValueError (AudioError, FormatError) or OSError, one line.
    """
    file_format = FORMATS[target.suffix.lower()]
    with open_audio(enhanced) as file:
        num_frames = sum(len(block_TC) for block_TC in iter_blocks(file, source_name(enhanced)))
    with open_audio(source) as before, open_audio(enhanced) as after:
        subtype = stored_subtype(before.subtype, file_format.upper())
        encoder = FileEncoder(
            file_format, subtype, before.sample_rate, before.num_channels, num_frames, before.channel_mask
        )
        target.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(target) as temporary, temporary.open("xb") as written:
            blocks = (
                iter_blocks(file, source_name(path)) for file, path in ((before, source), (after, enhanced))
            )
            for before_TC, after_TC in in_step(*blocks):
                written.write(encoder.encode(before_TC - after_TC))
            written.write(encoder.finish())


def in_step(
    first: Iterator[np.ndarray], second: Iterator[np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks (n, C) of two signals, cut so that each pair has one length; ends with the shorter signal."""
    a_TC, b_TC = next(first, None), next(second, None)
    while a_TC is not None and b_TC is not None:
        num_samples = min(len(a_TC), len(b_TC))
        yield a_TC[:num_samples], b_TC[:num_samples]
        a_TC, b_TC = a_TC[num_samples:], b_TC[num_samples:]
        a_TC = a_TC if len(a_TC) else next(first, None)
        b_TC = b_TC if len(b_TC) else next(second, None)
