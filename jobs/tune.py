"""Searches for the best settings: Ray Tune, each trial a training run of its own.

With --space, settings are drawn (--search tpe or random) or are all points of a grid (--search grid):
KEY=LOW..HIGH is a range, KEY=LOW..HIGH:log a logarithmic one, KEY=LOW..HIGH/N (and :log) N points of it, KEY=A,B,C
a choice. With --tries, a file lists the settings, each to be run as it stands:
{name: {preset: NAME, set: [KEY=VALUE, ...]}}

The objective is a measure of the validation mixtures, never the loss, which falls when its weights do. All runs are of
the same steps or, with --set training.budget_minutes=25, of the same time, with which the learning rate then falls.

The same command with the same --name, or --resume NAME, goes on with a sweep that was cut: runs that are done stay
done, others go on from their own checkpoints.

example: python -m jobs.tune --data data/mine --preset tiny --trials 4 --name weights \\
             --space loss.l1_weight=0..5 --space loss.stft_weight=0..5
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cluster.machine.session import connect
from cluster.settings.experiment import ConfigError, ExperimentConfig
from cluster.tuning.ledger import SWEEP_FILE, Ledger
from cluster.tuning.live import cell, watched
from cluster.tuning.page import write_page
from cluster.tuning.plan import PRUNES, SEARCHES, Plan, plan_of_space, plan_of_tries
from cluster.tuning.results import BEST_FILE, SweepResult, conclude, luck
from cluster.tuning.sweep import open_sweep, run_sweep
from cluster.tuning.tries import read_tries
from jobs.cli import main, make_parser
from jobs.train import DEFAULT_PRESET, add_training_options, config_from, overrides_from, run_name
from ww_models.perceptual import pesq_note, pesq_rate
from ww_models.quality import VALIDATION_MEASURES

_FREE = ("trials", "concurrent", "time_budget")  # may be given with --resume


def parser() -> argparse.ArgumentParser:
    parser = make_parser("tune", __doc__)
    add_training_options(parser)
    option = parser.option
    option("--space KEY=LOW..HIGH", "setting to search; repeat", action="append", default=[])
    option("--tries FILE", "settings to compare, each as it stands, instead of --space")
    option("--search", "how settings of --space are chosen (default: tpe)", choices=SEARCHES)
    option("--trials N", "settings to draw in all; a grid has all its points (default: 8)", type=int)
    option("--repeats N", "runs of each setting, with as many seeds; they are ranked by the mean", type=int)
    option(
        "--prune",
        "end runs that are behind: asha, at 1/27, 1/9 and 1/3 of the steps or minutes all but the best third; median, "
        "those below the median of the others (default: none)",
        choices=PRUNES,
    )
    option("--concurrent N", "training runs at a time (default: 1)", type=int)
    option("--time-budget MINUTES", "of the whole sweep, all its starts together (default: none)", type=float)
    option(
        "--metric",
        "measure of the validation mixtures to raise (default: pesq)",
        choices=tuple(VALIDATION_MEASURES),
    )
    option("--name NAME", "name of the sweep (default: preset, date and time)")
    option("--resume NAME", "go on with this sweep of --storage, with the settings that it has")
    return parser


def run(arguments: argparse.Namespace) -> None:
    if arguments.resume:
        ledger = _resumed(arguments)
    else:
        name = arguments.name or f"sweep-{run_name(arguments)}"
        ledger = open_sweep(plan_from(arguments), arguments.data, arguments.storage, name)
    with ledger.held():
        if ledger.is_over or ledger.is_out_of_time:
            print(f"{ledger.standing()}: {'nothing is left to run' if ledger.is_over else 'the time is up'}")
            result = conclude(ledger)
        else:
            result = _run(ledger, arguments.data)
        page = write_page(ledger)
        show(result, ledger, page)


def plan_from(arguments: argparse.Namespace) -> Plan:
    """What the command line asks for."""
    if arguments.tries and (arguments.space or arguments.search or arguments.trials):
        raise ConfigError(
            "--tries lists all settings that are tried; leave --space, --search and --trials out"
        )
    given = {name: value for name in _OPTIONS if (value := getattr(arguments, name)) is not None}
    options = {_OPTIONS[name]: value for name, value in given.items()}
    config = config_from(arguments)
    options["metric"] = _metric(arguments, config)
    if not arguments.tries:
        return plan_of_space(config, arguments.space, **options)
    tries = read_tries(arguments.tries, arguments.preset or DEFAULT_PRESET, overrides_from(arguments))
    return plan_of_tries(tries, **options)


_OPTIONS = {
    "search": "search",
    "trials": "trials",
    "repeats": "repeats",
    "prune": "prune",
    "concurrent": "concurrent",
    "time_budget": "budget_minutes",
}


def _metric(arguments: argparse.Namespace, config: ExperimentConfig) -> str:
    rate = config.model.sample_rate
    if any(text.startswith("training.score=") for text in arguments.overrides):
        raise ConfigError("what a sweep's runs are judged by is --metric; leave training.score out")
    if arguments.metric:
        return str(arguments.metric)
    if pesq_rate(rate) is None:
        print(f"{pesq_note(rate)}; si_sdr_db is raised instead", file=sys.stderr)
        return "si_sdr_db"
    return "pesq"


def _resumed(arguments: argparse.Namespace) -> Ledger:
    others = (
        "space",
        "tries",
        "search",
        "repeats",
        "prune",
        "metric",
        "name",
        "preset",
        "overrides",
        "workers",
        "gpus_per_worker",
    )
    if unwanted := [name for name in others if getattr(arguments, name) not in (None, [], "")]:
        option = {"overrides": "set"}.get(unwanted[0], unwanted[0]).replace("_", "-")
        raise ConfigError(f"--resume goes on with the settings that the sweep has; leave --{option} out")
    ledger = open_sweep(None, arguments.data, arguments.storage, arguments.resume)
    given: dict[str, Any] = {
        _OPTIONS[name]: value for name in _FREE if (value := getattr(arguments, name)) is not None
    }
    if not given:
        return ledger
    plan = dataclasses.replace(ledger.plan, **given)
    return open_sweep(plan, arguments.data, arguments.storage, arguments.resume)


def _run(ledger: Ledger, data: str) -> SweepResult:
    plan = ledger.plan
    try:
        with connect() as where:
            runs = f" x {plan.repeats} seeds" if plan.repeats > 1 else ""
            goes_on = f", going on ({ledger.standing()})" if ledger.trials else ""
            print(f"{plan.num_settings} settings{runs} on {where}, raising {plan.metric}{goes_on}")
            if note := pesq_note(next(iter(plan.configs.values())).model.sample_rate):
                print(note, file=sys.stderr)
            with watched(ledger):
                return run_sweep(ledger)
    except KeyboardInterrupt:
        go_on = ("python", "-m", "jobs.tune", "--data", data, "--storage", str(ledger.folder.parent))
        line = shlex.join((*go_on, "--resume", ledger.folder.name))
        ledger.save()  # for the time that is spent
        print(f"{ledger.folder} was cut ({ledger.standing()}): {line} goes on with it", file=sys.stderr)
        raise


def show(result: SweepResult, ledger: Ledger, page: Path) -> None:
    """A table of all settings, best first, and where what came of them lies."""
    table = Table(title=f"{len(result.rows)} settings, best {result.measure} first")
    columns = [name for name in result.rows[0] if name != "error"]
    for name in columns:
        table.add_column(name, justify="left" if name in ("trial", "state") else "right")
    for row in result.rows:
        table.add_row(*[cell(row[name]) if row.get(name) is not None else "" for name in columns])
    Console(width=max(100, Console().width)).print(table)
    if words := luck(ledger):
        print(words)
    for row in result.rows:
        if row["error"]:
            print(f"{row['trial']} failed: {row['error']}")
    if ledger.is_out_of_time and not ledger.is_over:
        print("the time budget is spent; a larger --time-budget goes on")
    best = result.folder / BEST_FILE
    print(
        f"trials: {result.folder} ({SWEEP_FILE})\npage:   {page}\nbest:   {best}, for jobs.train --config {best}"
    )


if __name__ == "__main__":
    main(parser(), run)
