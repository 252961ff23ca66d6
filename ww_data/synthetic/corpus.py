"""A small corpus made from nothing, for the demo and the tests: voices of espeak-ng, and noise from numpy."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ww_data.audio import write_audio
from ww_data.manifest import CorpusError
from ww_data.parallel import Progress
from ww_data.randomness import keyed_order
from ww_data.storage import whole_folder
from ww_data.synthetic.noises import KINDS, Signal
from ww_data.synthetic.sentences import SENTENCES
from ww_data.synthetic.voices import ESPEAK_SAMPLE_RATE as SAMPLE_RATE
from ww_data.synthetic.voices import Line, speaker

_VERSION = 1
_MARK = "synthetic.json"
_NOISE_S = 15.0  # of each recording
_NOISE_PER_SPEECH = 0.6
_NUM_TALKERS = (4, 8)  # of a babble

# fmt: off
_ACCENTS = (
    "en-us", "en", "en-gb-scotland", "en-gb-x-rp", "en-029", "en-us-nyc", "en-gb-x-gbclan", "en-gb-x-gbcwmd",
)
_SPEAKERS = (
    "f1", "f2", "f3", "f4", "f5", "Annie", "linda", "steph", "belinda", "anika", "shelby", "grandma",
    "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "Alex", "Andy", "Gene", "Lee",
    "john", "robert", "victor", "david", "ian", "max", "Michael", "grandpa",
)
# fmt: on
# These speak in babble alone.
_CROWD = ("aunty", "Andrea", "Alicia", "adam", "ed", "benjamin", "quincy", "travis")

Say = Callable[[Line], npt.NDArray[np.int16]]


@dataclass(frozen=True, kw_only=True)
class _Voice:
    """How one made-up person speaks."""

    name: str
    espeak_voice: str
    rate: int  # words per minute
    pitch: int  # 0 to 99


def write_synthetic_corpus(
    out_dir: str | os.PathLike[str], *, seed: int = 0, minutes: float = 20.0, progress: Progress | None = None
) -> tuple[Path, Path]:
    """Write `minutes` of speech by 32 voices, and 0.6 times as much noise of 8 kinds, as WAV of 22.05 kHz.

    speech/<voice>/<n>.wav and noise/<kind>_<n>.wav, byte for byte the same for the same arguments; a folder that holds
    just them is left as it is. Returns the two folders. Raises SpeechError without espeak-ng, CorpusError if the folder
    holds anything else.
    """
    if not 0.5 <= minutes <= 600:
        raise CorpusError(f"minutes is {minutes}: expected 0.5 to 600 minutes of speech")
    out = Path(out_dir).absolute()
    mark = json.dumps({"version": _VERSION, "seed": seed, "minutes": float(minutes)})
    if not (out / _MARK).exists() or (out / _MARK).read_text() != mark:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise CorpusError(f"{out}: holds something else: choose another folder or remove it")
        with whole_folder(out) as partial, speaker() as say:
            _Maker(folder=partial, seed=seed, minutes=minutes, say=say, progress=progress).make()
            (partial / _MARK).write_text(mark)
    return out / "speech", out / "noise"


@dataclass(kw_only=True)
class _Maker:
    """One run into an empty folder."""

    folder: Path
    seed: int
    minutes: float
    say: Say
    progress: Progress | None
    num_done: int = 0

    def make(self) -> None:
        speech_s = self.minutes * 60 / len(_SPEAKERS)
        num_recordings = max(round(_NOISE_PER_SPEECH * self.minutes * 60 / _NOISE_S / (len(KINDS) + 1)), 2)
        self.total = len(_SPEAKERS) + num_recordings * (len(KINDS) + 1)
        for number, variant in enumerate(_SPEAKERS):
            voice = self._voice(number, variant)
            self._write_voice(voice, speech_s)
            self._tell(f"voice {voice.name}")
        (self.folder / "noise").mkdir()
        crowd = [self._voice(number, variant) for number, variant in enumerate(_CROWD)]
        num_samples = round(_NOISE_S * SAMPLE_RATE)
        for number in range(num_recordings):
            for kind, noise in KINDS.items():
                rng = self._rng(f"{kind} {number}")
                self._write_noise(f"{kind}_{number:02d}", noise(rng, num_samples, SAMPLE_RATE), rng)
            rng = self._rng(f"babble {number}")
            self._write_noise(f"babble_{number:02d}", self._babble(rng, crowd, num_samples), rng)

    def _voice(self, number: int, variant: str) -> _Voice:
        rng = self._rng(f"voice {variant}")
        accent = _ACCENTS[number % len(_ACCENTS)]
        return _Voice(
            name=f"{variant.lower()}-{accent}",
            espeak_voice=f"{accent}+{variant}",
            rate=int(rng.integers(140, 200)),
            pitch=int(rng.integers(30, 71)),
        )

    def _write_voice(self, voice: _Voice, seconds: float) -> None:
        """Sentences of one voice, in its own order, until there are enough (at least two)."""
        rng = self._rng(f"lines {voice.name}")
        folder = self.folder / "speech" / voice.name
        folder.mkdir(parents=True)
        num_samples, number = 0, 0
        order = rng.permutation(len(SENTENCES))
        while number < 2 or num_samples < seconds * SAMPLE_RATE:
            samples = self.say(_line(voice, SENTENCES[order[number % len(order)]], rng))
            write_audio(folder / f"{number:03d}.wav", _at_level(samples, rng.uniform(-30, -20)), SAMPLE_RATE)
            num_samples += len(samples)
            number += 1

    def _babble(self, rng: np.random.Generator, crowd: list[_Voice], num_samples: int) -> Signal:
        """Several talkers at once, none of them in the speech, each starting in the middle of something."""
        total = np.zeros(num_samples)
        for index in rng.permutation(len(crowd))[: rng.integers(_NUM_TALKERS[0], _NUM_TALKERS[1] + 1)]:
            talk: list[npt.NDArray[np.int16]] = []
            skip = int(rng.integers(0, 2 * SAMPLE_RATE))
            while sum(map(len, talk)) < skip + num_samples:
                talk.append(self.say(_line(crowd[index], SENTENCES[rng.integers(len(SENTENCES))], rng)))
            spoken = np.concatenate(talk)[skip : skip + num_samples].astype(np.float64)
            total += rng.uniform(0.5, 1.0) * spoken / np.sqrt(np.mean(spoken**2))
        return total

    def _write_noise(self, name: str, samples: npt.NDArray[Any], rng: np.random.Generator) -> None:
        path = self.folder / "noise" / f"{name}.wav"
        write_audio(path, _at_level(samples, rng.uniform(-32, -22)), SAMPLE_RATE)
        self._tell(f"noise {name}")

    def _rng(self, purpose: str) -> np.random.Generator:
        return np.random.default_rng(int.from_bytes(keyed_order(self.seed, f"synthetic {purpose}"), "big"))

    def _tell(self, what: str) -> None:
        self.num_done += 1
        if self.progress:
            self.progress(self.num_done, self.total, what)


def _line(voice: _Voice, text: str, rng: np.random.Generator) -> Line:
    """A sentence in a voice, a little higher or faster each time, as people do."""
    return Line(
        voice=voice.espeak_voice,
        text=text,
        rate=voice.rate + int(rng.integers(-10, 11)),
        pitch=voice.pitch + int(rng.integers(-5, 6)),
    )


def _at_level(samples: npt.NDArray[Any], level_dbfs: float) -> npt.NDArray[np.float32]:
    """Samples at an RMS level, or below it where peaks would leave full scale."""
    x = samples.astype(np.float64)
    x *= 10 ** (level_dbfs / 20) / np.sqrt(np.mean(x**2))
    return (x / max(1.0, np.abs(x).max() / 0.9)).astype(np.float32)
