"""Searches for the best settings: Ray Tune, each trial a training run of its own.

With --space, Optuna draws the settings of each trial. With --tries, a file lists them, each to be run once:
{name: {preset: NAME, set: [KEY=VALUE, ...]}}; to give all the same time, --set training.budget_minutes=25.

A range is KEY=LOW..HIGH, uniform, or KEY=LOW..HIGH:log; a list is KEY=A,B,C. The objective is a measure of the
validation mixtures, never the loss, which falls when its weights do.

example: python -m jobs.tune --data data/mine --preset tiny --trials 4 \\
             --space loss.l1_weight=0..5 --space loss.stft_weight=0..5
"""

from __future__ import annotations

import argparse
import functools
import sys

from rich.console import Console
from rich.table import Table

from cluster.machine.progress import progress
from cluster.machine.session import connect
from cluster.settings.experiment import ConfigError
from cluster.tuning.space import parse_space
from cluster.tuning.sweep import SweepResult, check_sweep, run_sweep, run_tries, standing
from cluster.tuning.tries import read_tries
from jobs.cli import main, make_parser
from jobs.train import DEFAULT_PRESET, add_training_options, config_from, overrides_from, run_name
from ww_models.quality import VALIDATION_MEASURES


def parser() -> argparse.ArgumentParser:
    parser = make_parser("tune", __doc__)
    add_training_options(parser)
    option = parser.option
    option("--space KEY=LOW..HIGH", "setting to search; repeat", action="append", default=[])
    option("--tries FILE", "settings to compare, each as it stands, instead of --space")
    option("--trials N", "training runs in all, of --space", type=int, default=8)
    option("--concurrent N", "training runs at a time", type=int, default=1)
    option(
        "--metric",
        "measure of the validation mixtures to raise",
        choices=tuple(VALIDATION_MEASURES),
        default="si_sdr_db",
    )
    option("--name NAME", "name of the sweep (default: preset, date and time)")
    return parser


def run(arguments: argparse.Namespace) -> None:
    if arguments.tries and arguments.space:
        raise ConfigError("--tries lists all settings that are tried; leave --space out")
    config = config_from(arguments)
    name = arguments.name or f"sweep-{run_name(arguments)}"
    sweep = (arguments.data, arguments.storage, name)
    options = {"measure": arguments.metric, "max_concurrent_trials": arguments.concurrent}
    if arguments.tries:
        tries = read_tries(arguments.tries, arguments.preset or DEFAULT_PRESET, overrides_from(arguments))
        trials, start = len(tries), functools.partial(run_tries, tries, *sweep, **options)
        configs = [one.config for one in tries.values()]
    else:
        dimensions, trials, configs = parse_space(arguments.space, config), arguments.trials, [config]
        start = functools.partial(run_sweep, config, dimensions, *sweep, trials=trials, **options)
    folder, _ = check_sweep(configs, *sweep, trials, **options)  # before Ray takes seconds to start
    try:
        with connect() as where:
            print(f"{trials} trials on {where}, raising {arguments.metric}")
            with progress("trials") as report:
                result = start(progress=report)
    except KeyboardInterrupt:
        if stands := standing(folder, arguments.data):
            print(f"{folder}{stands}", file=sys.stderr)
        raise
    show(result)


def show(result: SweepResult) -> None:
    """A table of all trials, best first, and where they are."""
    table = Table(title=f"{len(result.rows)} trials, best {result.measure} first")
    columns = [name for name in result.rows[0] if name != "error"]
    for name in columns:
        table.add_column(name, justify="left" if name == "trial" else "right")
    for row in result.rows:
        cells = [row.get(name, "") for name in columns]
        table.add_row(*[f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells])
    Console(width=max(100, Console().width)).print(table)
    for row in result.rows:
        if row["error"]:
            print(f"{row['trial']} failed: {row['error']}")
    print(f"trials: {result.folder}\nbest settings: {result.folder / 'best.yaml'}")


if __name__ == "__main__":
    main(parser(), run)
