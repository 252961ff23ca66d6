"""Files that were moved: known by name, size and time, where nothing lies any more, and by some of their bytes.

Names, sizes and times alone are those of other recordings, too: unpacked archives and the tracks of a session have them
in common.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from ww_data.audio import open_bytes
from ww_data.audio.windows import read_at
from ww_data.manifest import Clip
from ww_data.scan.files import Recording

NUMBER = re.compile(r"#\d+$")  # that tells files of one name apart
# From the first byte to the last: many recordings begin and end with the same silence.
_NUM_PIECES, _PIECE_BYTES = 4, 1 << 14
_NUM_THREADS = 16  # which wait for disks or servers

Place = tuple[str, str, str]
_Look = tuple[str, str, bool, int, int]


def place(of: Recording | Clip) -> Place:
    """Its role and where it lies."""
    return of.role, of.path, of.minus


def find_moved(recordings: Sequence[Recording], known: Iterable[Clip]) -> dict[Place, Clip]:
    """The known clip that each recording was at another place, by its place now."""
    present = {place(recording) for recording in recordings}
    gone: defaultdict[_Look, list[Clip]] = defaultdict(list)
    for clip in known:
        if clip.modified_ns and clip.sample_hash and place(clip) not in present:
            gone[_look(clip.name, clip)].append(clip)
    pairs = [(item, same[0]) for item in recordings if len(same := gone.get(_look(item.name, item), [])) == 1]
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        samples = pool.map(sample_hash, (item for item, _ in pairs))
        return {
            place(item): clip
            for (item, clip), sample in zip(pairs, samples, strict=True)
            if sample == clip.sample_hash
        }


def sample_hash(recording: Recording) -> str:
    """Of some bytes of its file or, of a pair, of both; "" where one cannot be read."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        for path in filter(None, (recording.path, recording.minus)):
            with open_bytes(path) as file:
                end = max(0, file.seek(0, io.SEEK_END) - _PIECE_BYTES)
                for n in range(_NUM_PIECES):
                    digest.update(read_at(file, end * n // (_NUM_PIECES - 1), _PIECE_BYTES))
    except OSError:
        return ""
    return digest.hexdigest()


def _look(name: str, of: Recording | Clip) -> _Look:
    """What a file is taken for one that was moved by, at first."""
    return of.role, NUMBER.sub("", name), bool(of.minus), of.size_bytes, of.modified_ns
