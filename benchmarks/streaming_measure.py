"""What streaming.py measures: the contestants, each a way to denoise a signal, and the rounds in which they take turns.

`measure` gives a `Result` for a model; `streaming_report` prints it.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import cast

import numpy as np
import torch
from peers import SAMPLE_RATE as PEER_SAMPLE_RATE
from peers import STEP_SAMPLES as PEER_STEP_SAMPLES
from peers import Peer, timed, timed_steps

from ww_data.audio import read_mono
from ww_models import PRESETS, Denoiser, model_config
from ww_models.streaming.engine import Samples, StepEngine
from ww_models.streaming.onnx_engine import OnnxEngine
from ww_models.streaming.onnx_export import PRECISIONS, Precision
from ww_models.streaming.streamer import StreamBatch, Streamer

PEER_HIDDEN = {"demucs48": 48, "demucs64": 64}
MAX_COMPACT_MACS = 0.5e9  # per second of audio: up to this, a batch has 16 streams
COMPACT_STREAMS, LARGE_STREAMS = 16, 8
SIGNAL_S, CLIP_S = 60, 10
LEAD_IN_S = 60  # of speech before the silence
QUIET_BLOCK, SPEECH_BLOCK, NUM_WINDOWS = 40, 10, 6  # steps in turn; parts of the silence that are told apart

ALONE, BATCH, HALF_READY = "alone", "per stream in a batch", "per stream in a batch, half ready at a time"
TORCH_STEPS, TORCH_CLIP = "torch, step by step", f"torch, whole clip of {CLIP_S} s"
PEER, PEER_PLAIN = "DemucsStreamer", "DemucsStreamer, oneDNN off"


@dataclass
class Contestant:
    """`run(seconds)` computes for about so long and returns the CPU seconds of each step.

    audio_s: seconds of audio in a step, of all its streams together.
    """

    run: Callable[[float], list[float]]
    audio_s: float
    rounds: list[list[float]] = field(default_factory=list)

    def per_second(self) -> list[float]:
        """CPU seconds per second of audio, for each round."""
        return [sum(steps) / (len(steps) * self.audio_s) for steps in self.rounds]

    def step_ms(self) -> list[float]:
        return [1000 * step for steps in self.rounds for step in steps]


@dataclass
class Result:
    """What was measured of one model. contestants: by name; silence: ratios by precision, as time goes by."""

    name: str
    preset: str | None
    model: Denoiser
    num_streams: int
    contestants: dict[str, Contestant] = field(default_factory=dict)
    silence: dict[str, list[float]] = field(default_factory=dict)

    def ours(self, precision: str, what: str) -> str:
        """The name of the contestant that does `what`: ALONE, BATCH or HALF_READY."""
        ways = {
            ALONE: "alone",
            BATCH: f"{self.num_streams} streams",
            HALF_READY: f"{self.num_streams} streams, half ready at a time",
        }
        return f"{precision}, {ways[what]}"

    def cost(self, name: str) -> float:
        return median(self.contestants[name].per_second())

    def times_as_fast(self, name: str, peer: str) -> float:
        pairs = zip(self.contestants[peer].per_second(), self.contestants[name].per_second(), strict=True)
        return median(theirs / ours for theirs, ours in pairs)


def chunks_of(noisy: Samples, hop: int, start: float = 0.0) -> Iterator[Samples]:
    """(hop,) after (hop,) of (T,) without end, from the part `start` of it."""
    num_hops = len(noisy) // hop
    hops = noisy[: num_hops * hop].reshape(num_hops, hop)
    return cycle(np.roll(hops, -int(start * num_hops), axis=0))


def one_stream(streamer: Streamer, noisy: Samples) -> Contestant:
    hop = streamer.engine.hop_samples
    chunks = chunks_of(noisy, hop)
    return Contestant(
        lambda seconds: timed_steps(lambda: streamer.feed(next(chunks)[None]), seconds),
        hop / streamer.sample_rate,
    )


def many_streams(engine: StepEngine, noisy: Samples, num_streams: int, num_phases: int = 1) -> Contestant:
    """Each hears another part of the signal. All step together, or those of one phase after those of another.

    Neighbours differ in phase. A step that not all streams take part in copies states: see `Lanes`.
    """
    streams = StreamBatch(engine, num_streams)
    hop = engine.hop_samples
    callers = [(streams.join(), chunks_of(noisy, hop, index / num_streams)) for index in range(num_streams)]
    phases = cycle([callers[phase::num_phases] for phase in range(num_phases)])
    num_ready = num_streams // num_phases

    def step() -> None:
        for caller, chunks in next(phases):
            streams.feed(caller, next(chunks))
        assert len(streams.advance()) == num_ready

    return Contestant(lambda seconds: timed_steps(step, seconds), num_ready * hop / engine.sample_rate)


def whole_clip(model: Denoiser, noisy: Samples) -> Contestant:
    """One clip a slice, however long it takes."""
    clip = torch.from_numpy(np.resize(noisy, CLIP_S * model.sample_rate))[None, None]

    def run(seconds: float) -> list[float]:
        with torch.inference_mode():
            return [timed(lambda: model(clip))]

    return Contestant(run, float(CLIP_S))


def shortest_silence_s(model: Denoiser) -> float:
    """Seconds of silence that `silence_over_speech` takes at least: a block in each part."""
    return NUM_WINDOWS * QUIET_BLOCK * model.hop_samples / model.sample_rate


def silence_over_speech(engine: StepEngine, noisy: Samples, silence_s: float) -> list[float]:
    """Time of a step in silence over that on speech, for each part of the silence; two streams take turns."""
    hop = engine.hop_samples
    chunks = chunks_of(noisy, hop)
    speaking, fallen_silent = Streamer(engine), Streamer(engine)
    for _ in range(LEAD_IN_S * engine.sample_rate // hop):
        fallen_silent.feed(next(chunks)[None])
    nothing = np.zeros((1, hop), np.float32)
    num_steps = int(silence_s / NUM_WINDOWS * engine.sample_rate / hop)
    ratios = []
    for _ in range(NUM_WINDOWS):
        quiet: list[float] = []
        loud: list[float] = []
        while len(quiet) < num_steps:
            quiet += [timed(lambda: fallen_silent.feed(nothing)) for _ in range(QUIET_BLOCK)]
            loud += [timed(lambda: speaking.feed(next(chunks)[None])) for _ in range(SPEECH_BLOCK)]
        ratios.append(median(quiet) / median(loud))
    return ratios


def measure(name: str, model: Denoiser, arguments: argparse.Namespace, has_peers: bool) -> Result:
    """Every contestant for one model, slice by slice in turn, then the silence."""
    num_streams = COMPACT_STREAMS if model.macs_per_second <= MAX_COMPACT_MACS else LARGE_STREAMS
    result = Result(name, preset_of(model), model, num_streams)
    noisy = input_signal(arguments.noisy, model.sample_rate)
    engines = {
        precision: OnnxEngine.from_model(model, cast(Precision, precision)) for precision in PRECISIONS
    }
    contestants = result.contestants
    for precision, engine in engines.items():
        contestants[result.ours(precision, ALONE)] = one_stream(Streamer(engine), noisy)
        contestants[result.ours(precision, BATCH)] = many_streams(engine, noisy, num_streams)
        contestants[result.ours(precision, HALF_READY)] = many_streams(engine, noisy, num_streams, 2)
    contestants[TORCH_STEPS] = one_stream(Streamer(model), noisy)
    contestants[TORCH_CLIP] = whole_clip(model, noisy)
    with ExitStack() as stack:
        if has_peers and result.preset in PEER_HIDDEN:
            contestants |= peers(PEER_HIDDEN[result.preset], arguments, stack)
        for number in range(arguments.repeats + 1):
            for contestant in contestants.values():
                steps = contestant.run(arguments.seconds)
                if number:  # the first round warms up
                    contestant.rounds.append(steps)
    if arguments.silence:
        for precision, engine in engines.items():
            result.silence[precision] = silence_over_speech(engine, noisy, arguments.silence)
    return result


def peers(hidden: int, arguments: argparse.Namespace, stack: ExitStack) -> dict[str, Contestant]:
    """The streamers of denoiser, each in a process that ends with `stack`."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    noisy_file = folder / "noisy.npy"
    np.save(noisy_file, input_signal(arguments.noisy, PEER_SAMPLE_RATE))
    contestants = {}
    for name, onednn in ((PEER, True), (PEER_PLAIN, False)):
        peer = Peer(hidden, onednn=onednn, noisy_file=noisy_file, oracles=arguments.oracles)
        stack.callback(peer.close)
        contestants[name] = Contestant(peer.run, PEER_STEP_SAMPLES / PEER_SAMPLE_RATE)
    return contestants


def input_signal(file: str | None, sample_rate: int) -> Samples:
    """(T,), a minute at least: the file, over and over if it is shorter, or made-up speech in noise."""
    if file is None:
        return speech_in_noise(sample_rate)
    samples = read_mono(file, sample_rate)
    return np.resize(samples, max(len(samples), SIGNAL_S * sample_rate))


def speech_in_noise(sample_rate: int) -> Samples:
    """Voiced syllables of a wandering pitch with hiss between them and pauses, in noise that is louder below."""
    rng = np.random.default_rng(0)
    t = np.arange(SIGNAL_S * sample_rate) / sample_rate
    pitch_hz = 140 * (1 + 0.2 * np.sin(2 * np.pi * 0.4 * t) + 0.05 * np.sin(2 * np.pi * 5 * t))
    phase = 2 * np.pi * np.cumsum(pitch_hz) / sample_rate
    voice = sum(np.sin(k * phase) / k for k in range(1, 16))
    hiss = 0.5 * rng.standard_normal(len(t))
    syllable = np.sin(2 * np.pi * 3.3 * t)
    phrase = np.sin(2 * np.pi * 0.25 * t) > -0.7
    speech = phrase * (np.clip(syllable, 0, 1) * voice + np.clip(-syllable - 0.6, 0, 1) * hiss)
    white = rng.standard_normal(len(t) + 63)
    low = np.convolve(white, np.hanning(64), "valid")
    noise = low / low.std() + 0.3 * white[: len(t)]
    mixture = speech / speech.std() + 0.5 * noise  # about 5 dB
    return (0.3 * mixture / np.abs(mixture).max()).astype(np.float32)


def preset_of(model: Denoiser) -> str | None:
    """The preset whose form a model has: weights change nothing about its speed."""
    return next(
        (name for name, settings in PRESETS.items() if model_config(**settings) == model.config), None
    )
