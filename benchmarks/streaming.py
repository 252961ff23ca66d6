"""What a live stream costs on one CPU thread: CPU seconds per second of audio (lower is better, 1 is just real time).

    python benchmarks/streaming.py [--presets NAME ...] [--bundle DIR ...] [--repeats N] [--seconds S]

Measured, a hop at a time through the public interface: our CPU engine in fp32 and int8, one stream alone and
several in a batch (per stream); torch step by step; torch on a whole clip of 10 s. Demucs-48 and -64 also stand
beside the DemucsStreamer of `denoiser` 0.1.5, fed 16 ms at a time in fresh processes, with oneDNN as it comes and
without. All take turns in short slices, so a busy machine slows all alike. What is reported is the median over
the rounds; ratios are medians of each round's ratio.

Silence over speech: time of a step in silence that follows a minute of speech, over that of a step on speech;
the median of six parts of the silence, and the worst of them.

Without options it takes about 15 minutes of an idle core; --silence 0 --repeats 3 takes three.

denoiser is not among our dependencies. To compare with it, install it apart and say where:

    pip install --no-deps --target DIR denoiser==0.1.5
    python benchmarks/streaming.py --oracles DIR
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any, cast

import numpy as np
import torch
from peers import SAMPLE_RATE as PEER_SAMPLE_RATE
from peers import STEP_SAMPLES as PEER_STEP_SAMPLES
from peers import Peer, timed, timed_steps
from rich.console import Console
from rich.table import Table

from ww_data.audio import AudioError, read_mono
from ww_models import PRESETS, BundleError, Denoiser, build_model, load_bundle, model_config
from ww_models.onnx_export import PRECISIONS, Precision
from ww_models.runtime import OnnxEngine, has_vnni
from ww_models.step_engine import Samples, StepEngine
from ww_models.streaming import StreamBatch, Streamer

STREAMED = [name for name, settings in PRESETS.items() if settings.get("causal", True)]
COMPACT = [name for name in STREAMED if name.endswith("-compact")]
MEASURED = ["demucs48", "demucs64", *COMPACT]  # unless --presets or --bundle say else
PEER_HIDDEN = {"demucs48": 48, "demucs64": 64}
MAX_COMPACT_MACS = 0.5e9  # per second of audio: up to this, a batch has 16 streams
COMPACT_STREAMS, LARGE_STREAMS = 16, 8
SIGNAL_S, CLIP_S = 60, 10
LEAD_IN_S = 60  # of speech before the silence
QUIET_BLOCK, SPEECH_BLOCK, NUM_WINDOWS = 40, 10, 6  # steps in turn; parts of the silence that are told apart

ALONE, BATCH, SILENCE = "alone", "per stream in a batch", "silence over speech"
TORCH_STEPS, TORCH_CLIP = "torch, step by step", f"torch, whole clip of {CLIP_S} s"
PEER, PEER_PLAIN = "DemucsStreamer", "DemucsStreamer, oneDNN off"
HEADINGS = {TORCH_STEPS: "vs torch\nsteps", PEER: "vs Demucs-\nStreamer", PEER_PLAIN: "vs oneDNN\noff"}


@dataclass(frozen=True)
class Bar:
    """What a preset is to reach: at most `limit`, or at least so many times as fast as a peer."""

    preset: str
    what: str
    limit: float

    @property
    def is_ratio(self) -> bool:
        return self.what in (PEER, PEER_PLAIN)

    def is_met(self, figure: float) -> bool:
        return figure >= self.limit if self.is_ratio else figure <= self.limit


BARS = (
    Bar("demucs48", ALONE, 0.20),
    Bar("demucs48", PEER, 10.0),
    Bar("demucs48", PEER_PLAIN, 5.0),
    Bar("demucs48", BATCH, 0.08),
    Bar("demucs64", ALONE, 0.30),
    Bar("demucs64", BATCH, 0.12),
    *(Bar(name, ALONE, 0.03) for name in COMPACT),
    *(Bar(name, BATCH, 0.010) for name in COMPACT),
    *(Bar(name, SILENCE, 1.2) for name in MEASURED),
)


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
        return f"{precision}, {'alone' if what == ALONE else f'{self.num_streams} streams'}"

    def cost(self, name: str) -> float:
        return median(self.contestants[name].per_second())

    def times_as_fast(self, name: str, peer: str) -> float:
        pairs = zip(self.contestants[peer].per_second(), self.contestants[name].per_second(), strict=True)
        return median(theirs / ours for theirs, ours in pairs)

    def figure(self, bar: Bar) -> tuple[float, str] | None:
        """The figure that a bar asks for and whose it is; None if it was not measured.

        That of the better precision; of silence that of the worse, since silence must not cost more in any.
        """
        if bar.what == SILENCE:
            ratios = [(median(windows), precision) for precision, windows in self.silence.items()]
            return max(ratios, default=None)
        if bar.is_ratio:
            if bar.what not in self.contestants:
                return None
            return max((self.times_as_fast(self.ours(p, ALONE), bar.what), p) for p in PRECISIONS)
        return min((self.cost(self.ours(precision, bar.what)), precision) for precision in PRECISIONS)


# ------------------------------------------------------------------------------ what is measured


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


def many_streams(engine: StepEngine, noisy: Samples, num_streams: int) -> Contestant:
    """All step together, each hears another part of the signal."""
    streams = StreamBatch(engine, num_streams)
    hop = engine.hop_samples
    callers = {streams.join(): chunks_of(noisy, hop, index / num_streams) for index in range(num_streams)}

    def step() -> None:
        for caller, chunks in callers.items():
            streams.feed(caller, next(chunks))
        assert len(streams.advance()) == num_streams

    return Contestant(lambda seconds: timed_steps(step, seconds), num_streams * hop / engine.sample_rate)


def whole_clip(model: Denoiser, noisy: Samples) -> Contestant:
    """One clip a slice, however long it takes."""
    clip = torch.from_numpy(np.resize(noisy, CLIP_S * model.sample_rate))[None, None]

    def run(seconds: float) -> list[float]:
        with torch.inference_mode():
            return [timed(lambda: model(clip))]

    return Contestant(run, float(CLIP_S))


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
    contestants[TORCH_STEPS] = one_stream(cast(Streamer, model.streamer()), noisy)
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


# ------------------------------------------------------------------------------ what is printed


def table_of(result: Result) -> Table:
    model = result.model
    hop_ms = 1000 * model.hop_samples / model.sample_rate
    table = Table(
        title=f"{result.name}: {hop_ms:g} ms a step, latency {model.latency_ms:.1f} ms",
        caption="cost of a batch is per stream, its steps are of all streams; vs: how many times as fast",
    )
    table.add_column("", no_wrap=True)
    references = [name for name in HEADINGS if name in result.contestants]
    headings = ["CPU s per\ns of audio", "lowest to\nhighest", "step ms", "p99 ms"]
    headings += [HEADINGS[reference] for reference in references]
    headings += ["silence / speech\n(worst part)"] if result.silence else []
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for name, contestant in result.contestants.items():
        rounds, steps = contestant.per_second(), contestant.step_ms()
        row = [name, f"{median(rounds):.4f}", f"{min(rounds):.4f} – {max(rounds):.4f}"]
        row += ["", ""] if name == TORCH_CLIP else [f"{median(steps):.3f}", f"{np.percentile(steps, 99):.3f}"]
        row += [f"{result.times_as_fast(name, reference):.2f}" for reference in references]
        windows = next(
            (ratios for p, ratios in result.silence.items() if name == result.ours(p, ALONE)), None
        )
        row += [f"{median(windows):.2f} ({max(windows):.2f})"] if windows else []
        table.add_row(*row)
    return table


def verdicts(results: list[Result]) -> list[dict[str, Any]]:
    """Every bar of the presets that were measured; met is None where the figure was not measured."""
    rows = []
    for result in results:
        for bar in (bar for bar in BARS if bar.preset == result.preset):
            found = result.figure(bar)
            what = f"{bar.what} of {result.num_streams}" if bar.what == BATCH else bar.what
            rows.append(
                {
                    "model": result.name,
                    "what": f"x as fast as {what}" if bar.is_ratio else what,
                    "limit": bar.limit,
                    "at_least": bar.is_ratio,
                    "figure": found[0] if found else None,
                    "precision": found[1] if found else None,
                    "met": bar.is_met(found[0]) if found else None,
                }
            )
    return rows


def bars_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="bars", caption="int8 counts where its quality holds, which is not measured here")
    table.add_column("")
    table.add_column("")
    for heading in ("bar", "figure", "by"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for row in rows:
        met = {True: "[green]met", False: "[red]missed", None: "not measured"}[row["met"]]
        figure = "" if row["figure"] is None else f"{row['figure']:.4g}"
        limit = f"{'>=' if row['at_least'] else '<='} {row['limit']:g}"
        table.add_row(row["model"], row["what"], limit, figure, row["precision"] or "", met)
    return table


def surroundings(has_peers: bool) -> dict[str, Any]:
    """Hardware, versions, date."""
    packages = ["torch", "onnxruntime", "numpy", *(["denoiser"] if has_peers else [])]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": {
            "cpu": cpu_name(),
            "cores": os.cpu_count(),
            "int8_in_32_bits": has_vnni(),
            "load_average": round(os.getloadavg()[0], 2),
        },
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
    }


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def as_json(result: Result) -> dict[str, Any]:
    return {
        "name": result.name,
        "preset": result.preset,
        "architecture": result.model.name,
        "config": asdict(result.model.config),
        "streams_in_a_batch": result.num_streams,
        "contestants": {
            name: {
                "cpu_s_per_s": median(contestant.per_second()),
                "rounds": contestant.per_second(),
                "step_ms_median": median(contestant.step_ms()),
                "step_ms_p99": float(np.percentile(contestant.step_ms(), 99)),
                "steps": len(contestant.step_ms()),
            }
            for name, contestant in result.contestants.items()
        },
        "silence_over_speech": result.silence,
    }


# ------------------------------------------------------------------------------ the command


def parsed() -> tuple[argparse.Namespace, dict[str, Denoiser]]:
    """The arguments, checked, and the models by name."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--presets",
        nargs="+",
        default=[],
        choices=STREAMED,
        metavar="NAME",
        help=f"with random weights: {', '.join(STREAMED)}; unless given and without --bundle, {', '.join(MEASURED)}",
    )
    add("--bundle", nargs="+", default=[], metavar="DIR", help="trained models")
    add("--repeats", type=int, default=10, help="rounds, after one that warms up; 10 unless given")
    add("--seconds", type=float, default=0.5, help="CPU seconds of a slice; 0.5 unless given")
    add("--silence", type=float, default=240, help="seconds of silence; 240 unless given, 0 leaves it out")
    add("--noisy", metavar="FILE", help="a sound to denoise; made-up speech in noise unless given")
    add("--oracles", metavar="DIR", help="where denoiser was installed, if not beside torch")
    add("--json", metavar="FILE", help="write everything there too")
    add("--check", action="store_true", help="exit code 1 if a bar is missed; not measured is not missed")
    arguments = parser.parse_args()
    if arguments.repeats < 1:
        parser.error(f"--repeats is {arguments.repeats}: give at least 1")
    if not arguments.seconds > 0:
        parser.error(f"--seconds is {arguments.seconds}: give more than 0")
    if not arguments.silence >= 0:
        parser.error(f"--silence is {arguments.silence}: give 0 or more")
    if arguments.oracles and not (Path(arguments.oracles) / "denoiser").is_dir():
        parser.error(f"--oracles {arguments.oracles} holds no denoiser: --help says how to install it")
    if arguments.json and not Path(arguments.json).absolute().parent.is_dir():
        parser.error(f"--json {arguments.json}: its folder does not exist")
    try:
        input_signal(arguments.noisy, PEER_SAMPLE_RATE)
        return arguments, models_of(arguments)
    except (AudioError, BundleError) as error:
        parser.error(str(error))


def models_of(arguments: argparse.Namespace) -> dict[str, Denoiser]:
    """Presets, then bundles. BundleError for a bundle that cannot be read or whose model does not run in steps."""
    torch.manual_seed(0)
    presets = arguments.presets or ([] if arguments.bundle else MEASURED)
    models = {name: build_model(**PRESETS[name]).eval() for name in presets}
    for path in arguments.bundle:
        model = load_bundle(path)
        if model.latency_samples is None or not model.config.causal:
            raise BundleError(f"{path} needs the whole clip, it does not run in steps: take a causal model")
        models[path] = model
    return models


def main() -> int:
    arguments, models = parsed()
    torch.set_num_threads(1)
    if arguments.oracles:
        sys.path.append(arguments.oracles)
    has_peers = find_spec("denoiser") is not None
    around = surroundings(has_peers)
    console = Console(width=max(120, Console().width))
    console.print(
        ", ".join(f"{key} {value}" for key, value in (around["hardware"] | around["versions"]).items())
    )
    if not has_peers and any(preset_of(model) in PEER_HIDDEN for model in models.values()):
        console.print(
            "denoiser is not installed, so ours is measured without it; --help says how to install it"
        )
    results = []
    for name, model in models.items():
        results.append(measure(name, model, arguments, has_peers))
        console.print(table_of(results[-1]))
    rows = verdicts(results)
    if rows:
        console.print(bars_table(rows))
    if arguments.json:
        settings = {key: getattr(arguments, key) for key in ("repeats", "seconds", "silence")}
        content = {**around, "settings": settings, "models": [as_json(r) for r in results], "bars": rows}
        Path(arguments.json).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return int(arguments.check and any(row["met"] is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
