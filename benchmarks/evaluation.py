"""How fast clips are scored: what a second core adds, and what the measures themselves cost.

    python benchmarks/evaluation.py                                      # made-up sound
    python benchmarks/evaluation.py --data data/mine --bundle runs/first/bundle --check

The speed-up is that of `jobs.evaluate`'s own scoring, model and measures, in a Ray of two CPUs over one of one CPU,
each started anew and warmed up; rounds take turns. The cost is CPU time of PESQ, STOI and SI-SDR of one thread, per
minute of sound. Run it on a machine that does nothing else: two cores that others use are no two cores.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
import time
from pathlib import Path

import ray
import torch
from made_corpus import make_corpus
from rich.console import Console
from rich.table import Table

from cluster.evaluation.clips import Clip, corpus_clips
from cluster.evaluation.scoring import Work, score_clips
from cluster.machine.session import connect
from ww_data import open_corpus
from ww_models import PRESETS, Denoiser, build_model, load_bundle
from ww_models.measures.clip import STANDARD, measure_clip

MIN_SPEED_UP, MAX_CPU_S_PER_MINUTE = 1.7, 2.2
TIMED = ("pesq", "stoi", "si_sdr_db")


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", metavar="DIR", help="corpus that jobs.prepare wrote (default: made up)")
    parser.add_argument("--bundle", metavar="DIR", help="model (default: bandmask-compact as it is made)")
    parser.add_argument("--clips", type=int, default=64, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--check", action="store_true", help="a missed bar is exit code 1")
    return parser


def main() -> None:
    arguments = parser().parse_args()
    with contextlib.ExitStack() as stack:
        data = arguments.data
        if data is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            data = str(make_corpus(folder, hours=0.2, num_test_mixtures=arguments.clips))
        clips = corpus_clips(open_corpus(data), arguments.clips)
        model = (
            load_bundle(arguments.bundle) if arguments.bundle else build_model(**PRESETS["bandmask-compact"])
        )
        cost = measures_cost(clips)
        seconds: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(arguments.rounds):
            for num_cpus, rounds in seconds.items():
                rounds.append(scoring_s(clips, model, num_cpus))
    speed_up = statistics.median(seconds[1]) / statistics.median(seconds[2])
    show(speed_up, cost)
    if arguments.check and (speed_up < MIN_SPEED_UP or cost > MAX_CPU_S_PER_MINUTE):
        sys.exit(1)


def measures_cost(clips: list[Clip]) -> float:
    """CPU seconds per minute of sound; the best of three rounds, for others only ever slow one down."""
    torch.set_num_threads(1)
    sounds = [(clip.read(), clip.sample_rate) for clip in clips[:16]]
    minutes = sum(clip.duration_s for clip in clips[:16]) / 60
    rounds = []
    for _ in range(4):
        start_s = time.thread_time()
        for (noisy_T, clean_T), rate in sounds:
            measure_clip(clean_T, noisy_T, rate, TIMED)
        rounds.append((time.thread_time() - start_s) / minutes)
    return min(rounds[1:])


def scoring_s(clips: list[Clip], model: Denoiser, num_cpus: int) -> float:
    with connect(num_cpus=num_cpus):
        work = Work(
            clips=tuple(clips),
            measures=STANDARD,
            models={"model": ray.put(model)},
            engines={},
            files={},
            recogniser="",
        )
        warm_up = Work(**{**vars(work), "clips": tuple(clips[: 8 * num_cpus])})
        score_clips(warm_up, 0, 8.0, 1.0, 0.0, None)
        start_s = time.perf_counter()
        score_clips(work, 0, 8.0, 1.0, 0.0, None)
        return time.perf_counter() - start_s


def show(speed_up: float, cost: float) -> None:
    table = Table("", "figure", "bar", "")
    rows = (
        ("2 cores over 1", f"{speed_up:.2f} x", f"at least {MIN_SPEED_UP}", speed_up >= MIN_SPEED_UP),
        (
            "PESQ, STOI and SI-SDR, CPU s per minute of sound",
            f"{cost:.2f}",
            f"at most {MAX_CPU_S_PER_MINUTE}",
            cost <= MAX_CPU_S_PER_MINUTE,
        ),
    )
    for what, figure, bar, is_met in rows:
        table.add_row(what, figure, bar, "met" if is_met else "missed")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
