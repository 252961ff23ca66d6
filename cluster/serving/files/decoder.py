"""The process that decodes uploads: a child for each file, under limits of its own; what kills one harms nobody.

    python -m cluster.serving.files.decoder DESCRIPTOR

Orders:  {"limits": {...}, "max_children": N}, the open file and the socket that its sound goes to

Messages are those of `messages.py`. A file is read to its end before the first of its sound is sent on: what is
wrong with it is known before anything is answered. With N children at work already the answer is busy.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import numpy as np

from cluster.errors import one_line
from cluster.serving.config import AudioLimits
from cluster.serving.errors import ApiError, busy
from cluster.serving.files.audio import bad_audio, check_extent, check_kind
from cluster.serving.files.messages import END, SOUND, START, pack, pack_error
from cluster.serving.files.process import begin, receive_order, report_ready
from cluster.sound.level import sound_blocks
from ww_data.audio import AudioError, iter_blocks, open_audio

# Samples, all channels together: shorter recordings are kept from the check, longer ones are decoded again.
_KEPT_SAMPLES = 4_000_000
_MESSAGE_FRAMES = 16_384
_ENDING_S = 2.0
_NAME = "the upload"


def main(descriptor: str) -> None:
    control = begin(descriptor)
    import_module("av")  # FFmpeg, which each child would load anew
    children: set[int] = set()

    def reap(*_: object) -> None:
        for child in list(children):
            with contextlib.suppress(ChildProcessError):  # by a signal meanwhile
                if os.waitpid(child, os.WNOHANG)[0] == 0:
                    continue
            children.discard(child)

    signal.signal(signal.SIGCHLD, reap)
    report_ready(control)
    while received := receive_order(control):
        order, (audio, output) = received
        with socket.socket(fileno=output) as sound, os.fdopen(audio, "rb"):
            child = _fork() if _has_room(children, order["max_children"]) else None
            if child is None:
                with contextlib.suppress(OSError):
                    sound.sendall(pack_error(busy("no process is free to decode with")))
            elif child == 0:
                control.close()
                _decode_and_exit(audio, sound, AudioLimits(**order["limits"]))
            else:
                children.add(child)
                reap()  # it may have ended before it was known


def _has_room(children: set[int], max_children: int) -> bool:
    """Whether fewer than so many are at work, perhaps after a while: one whose caller has left ends within a block."""
    deadline = time.monotonic() + _ENDING_S
    while len(children) >= max_children and time.monotonic() < deadline:
        time.sleep(0.01)
    return len(children) < max_children


def _fork() -> int | None:
    try:
        return os.fork()
    except OSError:
        return None


def _decode_and_exit(audio: int, sound: socket.socket, limits: AudioLimits) -> None:
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        confine(limits)
        for message in decode(f"/dev/fd/{audio}", limits, lambda: _check_connected(sound)):
            sound.sendall(message)
    except (BrokenPipeError, ConnectionResetError):  # the caller has left
        pass
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def _check_connected(sound: socket.socket) -> None:
    """Raises BrokenPipeError when the other end, which sends nothing, has hung up."""
    with contextlib.suppress(BlockingIOError):
        sound.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        raise BrokenPipeError


def confine(limits: AudioLimits) -> None:
    """What this process may use from now on: so much more memory, so many seconds, no files."""
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    for what, limit in (
        (resource.RLIMIT_AS, in_use + limits.max_decode_bytes),
        (resource.RLIMIT_CPU, limits.max_decode_s),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (limit, limit))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # when the machine runs out, this goes first


def decode(path: str, limits: AudioLimits, check: Callable[[], None] = lambda: None) -> Iterator[bytes]:
    """The messages of a file: start, sound, end; or error.

    check: called after each block of the first reading, before there is anything to send; what it raises ends it.
    """
    try:
        with Path(path).open("rb") as file:
            if not file.read(1):
                raise ApiError(400, "empty_audio", "the request brings no bytes of audio")
            check_kind(file)
        yield from _decode(path, limits, check)
    except ApiError as error:
        yield pack_error(error)
    except AudioError as error:
        yield pack_error(bad_audio(one_line(str(error).replace(path, _NAME))))
    except MemoryError:
        what = f"decoding it takes more than {limits.max_decode_bytes >> 20} MiB: it is probably damaged"
        yield pack_error(bad_audio(what))


def _decode(path: str, limits: AudioLimits, check: Callable[[], None]) -> Iterator[bytes]:
    with open_audio(path) as file:
        sample_rate, num_channels = file.sample_rate, file.num_channels
        about = {"subtype": file.subtype, "channel_mask": file.channel_mask}
        check_extent(limits, file.num_frames or 0, sample_rate, num_channels)
        num_frames = 0
        kept: list[np.ndarray] = []
        for block_TC in sound_blocks(file, path):
            check()
            num_frames += len(block_TC)
            check_extent(limits, num_frames, sample_rate, num_channels)
            kept = [*kept, block_TC] if num_frames * num_channels <= _KEPT_SAMPLES else []
    start = {"sample_rate": sample_rate, "num_channels": num_channels, "num_frames": num_frames}
    yield pack(START, {**start, **about})
    with open_audio(path) as file:
        for block_TC in kept or iter_blocks(file, path):
            for first in range(0, len(block_TC), _MESSAGE_FRAMES):
                yield pack(SOUND, block_TC[first : first + _MESSAGE_FRAMES].tobytes())
    yield pack(END, {})


if __name__ == "__main__":
    main(sys.argv[1])
