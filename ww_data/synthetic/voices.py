"""Speech from espeak-ng (package `espeakng-loader`), spoken in a process of its own.

espeak-ng remembers what it said before: with a fresh process for each corpus, the sound depends on the lines alone.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Int16Array = npt.NDArray[np.int16]

ESPEAK_SAMPLE_RATE = 22050
# From espeak-ng's speak_lib.h: samples go to a callback in this thread; text is UTF-8; parameters' numbers.
_AUDIO_OUTPUT_SYNCHRONOUS, _CHARS_UTF8, _RATE, _PITCH = 2, 1, 1, 3
_DONT_EXIT = 0x8000
_LENGTH_BYTES = 8


class SpeechError(ValueError):
    """Speech cannot be made. One line: what is missing or failed, what to do."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One utterance: `voice` as espeak-ng names it ("en-us+f1"), `rate` in words a minute, `pitch` 0-99."""

    voice: str
    text: str
    rate: int = 170
    pitch: int = 50


@contextmanager
def speaker() -> Iterator[Callable[[Line], Int16Array]]:
    """A function that speaks a line: int16 (T,) at ESPEAK_SAMPLE_RATE. Raises SpeechError."""
    if importlib.util.find_spec("espeakng_loader") is None:
        raise SpeechError(
            "made-up speech needs espeak-ng: install it with pip install 'wave-wizard[synthetic]'"
        )
    package_root = str(Path(__file__).parents[2])
    search_path = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        [sys.executable, "-m", __spec__.name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": search_path},
    )
    assert process.stdin
    assert process.stdout
    request, reply = process.stdin, process.stdout

    def say(line: Line) -> Int16Array:
        try:
            request.write(json.dumps(asdict(line)).encode() + b"\n")
            request.flush()
        except BrokenPipeError:
            pass  # it died; the missing reply tells
        length = int.from_bytes(reply.read(_LENGTH_BYTES), "little")
        samples = np.frombuffer(reply.read(length), np.int16)
        if len(samples) == 0:
            raise SpeechError(f"espeak-ng said nothing for voice {line.voice!r}: is espeakng-loader whole?")
        return samples

    try:
        yield say
    finally:
        with process:  # closes the pipes, which ends it, and waits
            pass


class _Espeak:
    """The library itself; only ever made in the child process."""

    def __init__(self) -> None:
        import espeakng_loader

        self._chunks: list[Int16Array] = []
        self._library: Any = ctypes.CDLL(espeakng_loader.get_library_path())
        rate = self._library.espeak_Initialize(
            _AUDIO_OUTPUT_SYNCHRONOUS, 0, os.fsencode(espeakng_loader.get_data_path()), _DONT_EXIT
        )
        if rate != ESPEAK_SAMPLE_RATE:
            raise SystemExit(f"espeak-ng starts with {rate} Hz instead of {ESPEAK_SAMPLE_RATE}")
        callback_type = ctypes.CFUNCTYPE(
            ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
        )
        self._callback = callback_type(self._keep)  # espeak-ng holds it: it must live as long as this object
        self._library.espeak_SetSynthCallback(self._callback)

    def _keep(self, samples: Any, num_samples: int, events: Any) -> int:
        if samples and num_samples > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, (num_samples,)).copy())
        return 0

    def say(self, line: Line) -> Int16Array:
        self._chunks.clear()
        if self._library.espeak_SetVoiceByName(line.voice.encode()):
            return np.empty(0, np.int16)
        self._library.espeak_SetParameter(_RATE, line.rate, 0)
        self._library.espeak_SetParameter(_PITCH, line.pitch, 0)
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # else it takes the time of day
        text = line.text.encode()
        self._library.espeak_Synth(text, ctypes.c_size_t(len(text) + 1), 0, 1, 0, _CHARS_UTF8, None, None)
        return np.concatenate(self._chunks) if self._chunks else np.empty(0, np.int16)


def _serve() -> None:
    """Speak each JSON line of standard input to standard output, as its length in bytes and the samples."""
    espeak = _Espeak()
    for request in sys.stdin.buffer:
        samples = espeak.say(Line(**json.loads(request))).tobytes()
        sys.stdout.buffer.write(len(samples).to_bytes(_LENGTH_BYTES, "little") + samples)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    _serve()
