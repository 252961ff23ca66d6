"""What training through Ray and Lightning costs beside a plain PyTorch loop: the same model, loss and batches.

    python benchmarks/training.py --check                          # the compact presets
    python benchmarks/training.py --presets demucs-compact --data data/mine

In each round a plain loop, training with one worker, two independent plain loops at once, and training with two
workers take turns, each process on one thread, on two cores. Training is `run_training` as jobs.train calls it, in a
Ray of its own that mixes sound on the same cores; the plain loops have their batches in memory before they start. Each
of the two loops at once trains on one worker's share of the batches. Steps are timed after some that warm up.

Where there is a GPU, one worker trains on it as well, and a step stands beside the least time that it could take.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from made_corpus import make_corpus
from rich.console import Console
from rich.table import Table
from training_gpu import report_gpu
from training_measure import CORES, Speed, Work, through_plain_loops, through_trainer

from cluster.settings.experiment import PRESETS_DIR

MAX_COST, MAX_WAIT, MIN_SCALING = 1.05, 0.02, 0.9
COMPACT = ("bandmask-compact", "gatewave-compact", "demucs-compact", "waveunet-compact")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Round:
    """The speeds of each contestant's processes in one round."""

    plain: list[Speed]
    trainer: list[Speed]
    two_plain: list[Speed]
    two_workers: list[Speed]

    @property
    def cost(self) -> float:
        """Time of a step with one worker over that of the plain loop."""
        return self.trainer[0].step_s / self.plain[0].step_s

    @property
    def cpu_cost(self) -> float:
        return self.trainer[0].step_cpu_s / self.plain[0].step_cpu_s

    @property
    def wait(self) -> float:
        return max(speed.wait_fraction for speed in (*self.trainer, *self.two_workers))

    @property
    def scaling(self) -> float:
        """Steps that two workers do together over those that two plain loops do side by side."""
        return 1 / max(speed.step_s for speed in self.two_workers) / self._plain_steps_per_s

    @property
    def lockstep(self) -> float:
        """The same if the two plain loops did nothing but wait for each other after each step, as workers must."""
        steps_s = zip(*(speed.steps_s for speed in self.two_plain), strict=True)
        return 1 / statistics.median(map(max, steps_s)) / self._plain_steps_per_s

    @property
    def _plain_steps_per_s(self) -> float:
        return statistics.mean(1 / speed.step_s for speed in self.two_plain)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    presets = sorted(path.stem for path in PRESETS_DIR.glob("*.yaml"))
    add("--presets", nargs="+", metavar="NAME", default=list(COMPACT), choices=presets,
        help=f"of {', '.join(presets)} (default: {', '.join(COMPACT)})")  # fmt: skip
    add("--data", metavar="DIR", help="corpus that jobs.prepare wrote (default: made up)")
    add("--steps", type=int, default=20, help="that are timed (default: %(default)s)")
    add("--rounds", type=int, default=2, help="default: %(default)s")
    add("--check", action="store_true", help="a missed bar is exit code 1")
    return parser


def main() -> None:
    arguments = parser().parse_args()
    for name in ("steps", "rounds"):
        if getattr(arguments, name) < 1:
            parser().error(f"--{name} is {getattr(arguments, name)}: give at least 1")
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    console = Console(width=110)
    with tempfile.TemporaryDirectory(prefix="ww-training-") as folder:
        data = str(arguments.data or make_corpus(Path(folder), hours=0.5))
        works = [Work(preset=name, corpus_uri=data, steps=arguments.steps) for name in arguments.presets]
        rounds = {work.preset: [one_round(work) for _ in range(arguments.rounds)] for work in works}
        console.print(speeds_table(works, rounds))
        table, met = bars_table(rounds)
        console.print(table)
        report_gpu(works, console)
    raise SystemExit(0 if met or not arguments.check else 1)


def one_round(work: Work) -> Round:
    two = dataclasses.replace(work, num_workers=2)
    return Round(
        plain=through_plain_loops(work),
        trainer=through_trainer(work),
        two_plain=through_plain_loops(two),
        two_workers=through_trainer(two),
    )


def speeds_table(works: Sequence[Work], rounds: dict[str, list[Round]]) -> Table:
    """Medians over the rounds; of two processes the mean."""
    table = Table(title=f"training, {CORES} cores, one thread each process")
    columns = (
        "preset",
        "",
        "steps/s",
        "audio s per s",
        "CPU s a step and process",
        "waits for data",
        "cores of others",
    )
    for column in columns:
        table.add_column(column, justify="right" if column not in columns[:2] else "left")
    for work in works:
        of_preset = rounds[work.preset]
        contestants: tuple[tuple[str, list[list[Speed]], bool], ...] = (
            ("plain loop", [each.plain for each in of_preset], False),
            ("one worker", [each.trainer for each in of_preset], True),
            ("two plain loops", [each.two_plain for each in of_preset], False),
            ("two workers", [each.two_workers for each in of_preset], True),
        )
        for name, each_round, is_ours in contestants:
            steps_per_s, cpu_s, wait = (
                statistics.median(statistics.mean(map(figure, speeds)) for speeds in each_round)
                for figure in (_steps_per_s, _cpu_s, _wait)
            )
            table.add_row(
                work.preset,
                name,
                f"{steps_per_s:.3f}",
                f"{steps_per_s * work.audio_s_per_step:.1f}",
                f"{cpu_s:.3f}",
                f"{wait:.1%}" if is_ours else "",
                f"{statistics.median(map(_cores_of_others, each_round)):.2f}",
            )
    return table


def _cores_of_others(speeds: list[Speed]) -> float:
    """What all other processes of the machine, Ray's own among them, took meanwhile."""
    ours = sum(speed.step_cpu_s / speed.step_s for speed in speeds)
    return max(0.0, statistics.mean(speed.busy_cores for speed in speeds) - ours)


def _steps_per_s(speed: Speed) -> float:
    return 1 / speed.step_s


def _cpu_s(speed: Speed) -> float:
    return speed.step_cpu_s


def _wait(speed: Speed) -> float:
    return speed.wait_fraction


def bars_table(rounds: dict[str, list[Round]]) -> tuple[Table, bool]:
    """Each preset's figures beside the bars, and whether all of them are met."""
    table = Table(title="bars: median (each round)")
    for column in ("preset", "", "figure", "bar", ""):
        table.add_column(column, justify="right" if column in ("figure", "bar") else "left")
    bars: tuple[tuple[str, Callable[[Round], float], str, Callable[[float], bool] | None], ...] = (
        ("step of one worker / of a plain loop", lambda each: each.cost, f"<= {MAX_COST:g}",
         lambda value: value <= MAX_COST),
        ("the same in CPU time", lambda each: each.cpu_cost, f"<= {MAX_COST:g}", lambda value: value <= MAX_COST),
        ("part of the time that workers wait for data", lambda each: each.wait, f"<= {MAX_WAIT:g}",
         lambda value: value <= MAX_WAIT),
        ("two workers / two plain loops at once", lambda each: each.scaling, f">= {MIN_SCALING:g}",
         lambda value: value >= MIN_SCALING),
        ("of two plain loops, if they waited for each other", lambda each: each.lockstep, "", None),
    )  # fmt: skip
    all_met = True
    for preset, of_preset in rounds.items():
        for name, figure, bar, is_met in bars:
            values = [figure(each) for each in of_preset]
            met = is_met is None or is_met(statistics.median(values))
            all_met &= met
            each_round = ", ".join(f"{value:.3f}" for value in values)
            shown = f"{statistics.median(values):.3f} ({each_round})"
            table.add_row(preset, name, shown, bar, "" if is_met is None else "met" if met else "missed")
    return table, all_met


if __name__ == "__main__":
    main()
