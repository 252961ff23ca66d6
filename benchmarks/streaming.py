"""What a live stream costs on one CPU thread: CPU seconds per second of audio (lower is better, 1 is just real time).

    python benchmarks/streaming.py [--presets NAME ...] [--bundle DIR ...] [--repeats N] [--seconds S]

Measured, a hop at a time through the public interface: our CPU engine in fp32 and int8, one stream alone and
several in a batch (per stream), all or half of them ready at a time; torch step by step; torch on a whole clip of
10 s. Demucs-48 and -64 also stand beside the DemucsStreamer of `denoiser` 0.1.5, fed 16 ms at a time in fresh
processes, with oneDNN as it comes and without. All take turns in short slices, so a busy machine slows all alike.
What is reported is the median over the rounds; ratios are medians of each round's ratio.

Silence over speech: time of a step in silence that follows a minute of speech, over that of a step on speech;
the median of six parts of the silence, and the worst of them.

Without options it takes about 15 minutes of an idle core; --silence 0 --repeats 3 takes three.

denoiser is not among our dependencies. To compare with it, install it apart and say where:

    pip install --no-deps --target DIR denoiser==0.1.5
    python benchmarks/streaming.py --oracles DIR
"""

import argparse
import json
import sys
from importlib.util import find_spec
from math import ceil
from pathlib import Path

import torch
from peers import SAMPLE_RATE as PEER_SAMPLE_RATE
from rich.console import Console
from streaming_measure import PEER_HIDDEN, Result, input_signal, measure, preset_of, shortest_silence_s
from streaming_report import MEASURED, as_json, bars_table, surroundings, table_of, verdicts

from ww_data.audio import AudioError
from ww_models import PRESETS, BundleError, Denoiser, build_model, load_bundle

MIN_WIDTH = 150  # columns: the widest table. In a file nothing is cut, a narrower terminal breaks lines


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
        choices=list(PRESETS),
        metavar="NAME",
        help=f"with random weights, those that run in steps of {', '.join(PRESETS)}; unless given and without "
        f"--bundle, {', '.join(MEASURED)}",
    )
    add("--bundle", nargs="+", default=[], metavar="DIR", help="trained models")
    add("--repeats", type=int, default=10, help="rounds, after one that warms up; 10 unless given")
    add("--seconds", type=float, default=0.5, help="CPU seconds of a slice; 0.5 unless given")
    add(
        "--silence",
        type=float,
        default=240,
        help="seconds of silence, at least 240 steps; 240 s unless given, 0 leaves it out",
    )
    add("--noisy", metavar="FILE", help="a sound to denoise; made-up speech in noise unless given")
    add("--oracles", metavar="DIR", help="where denoiser was installed, if not beside torch")
    add("--json", metavar="FILE", help="write everything there too")
    add("--check", action="store_true", help="exit code 1 if a bar is missed; not measured is not missed")
    arguments = parser.parse_args()
    if arguments.repeats < 1:
        parser.error(f"--repeats is {arguments.repeats}: give at least 1")
    if not arguments.seconds > 0:
        parser.error(f"--seconds is {arguments.seconds}: give more than 0")
    if not 0 <= arguments.silence < float("inf"):
        parser.error(f"--silence is {arguments.silence}: give 0 or more")
    if arguments.oracles and not (Path(arguments.oracles) / "denoiser").is_dir():
        parser.error(f"--oracles {arguments.oracles} holds no denoiser: --help says how to install it")
    if arguments.json and not Path(arguments.json).absolute().parent.is_dir():
        parser.error(f"--json {arguments.json}: its folder does not exist")
    try:
        input_signal(arguments.noisy, PEER_SAMPLE_RATE)
        models = models_of(arguments)
    except (AudioError, BundleError) as error:
        parser.error(str(error))
    for name, model in models.items():
        if model.latency_samples is None:
            parser.error(f"{name} needs the whole clip, it does not run in steps: take a causal model")
    shortest_s = ceil(max(shortest_silence_s(model) for model in models.values()))
    if 0 < arguments.silence < shortest_s:
        parser.error(f"--silence is {arguments.silence:g}: give 0, or at least {shortest_s} s")
    return arguments, models


def models_of(arguments: argparse.Namespace) -> dict[str, Denoiser]:
    """Presets, then bundles. BundleError for a bundle that cannot be read."""
    torch.manual_seed(0)
    presets = arguments.presets or ([] if arguments.bundle else MEASURED)
    models = {name: build_model(**PRESETS[name]).eval() for name in presets}
    return models | {path: load_bundle(path) for path in arguments.bundle}


def main() -> int:
    arguments, models = parsed()
    torch.set_num_threads(1)
    if arguments.oracles:
        sys.path.append(arguments.oracles)
    has_peers = find_spec("denoiser") is not None
    around = surroundings(has_peers)
    console = Console(width=max(MIN_WIDTH, Console().width))
    console.print(
        ", ".join(f"{key} {value}" for key, value in (around["hardware"] | around["versions"]).items())
    )
    if not has_peers and any(preset_of(model) in PEER_HIDDEN for model in models.values()):
        console.print(
            "denoiser is not installed, so ours is measured without it; --help says how to install it"
        )
    results: list[Result] = []
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
