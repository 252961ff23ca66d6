"""Trains a denoiser on a prepared corpus, on this machine or on a Ray cluster, and leaves a bundle."""

from __future__ import annotations

import argparse
import datetime
import os
import re
from pathlib import Path

from cluster.machine.session import connect
from cluster.runs.folder import open_run, read_run_config
from cluster.settings.experiment import ConfigError, ExperimentConfig, load_config, override
from cluster.training.finetune import Source, finetune_config, open_source
from cluster.training.run import check_training, run_training
from jobs.cli import main, make_parser

DEFAULT_PRESET = "demo"


def parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "train",
        __doc__
        + """
Without a cluster it starts Ray on this machine. With RAY_ADDRESS set, or started by `ray job submit --working-dir .
-- python -m jobs.train ...`, it runs there; --data and --storage must then be folders that all nodes reach, or
addresses such as s3://bucket/corpus.
WW_WORKER_LOGS=1 shows what the workers print.

example: python -m jobs.train --data data/mine --preset gatewave-compact --workers 2 --set loss.l1_weight=2""",
    )
    add_training_options(parser)
    parser.add_argument("--name", help="name of the run, new for each (default: preset, date and time)")
    parser.add_argument(
        "--resume",
        metavar="RUN",
        help="go on with this run of --storage, with the settings that it was started with",
    )
    parser.add_argument(
        "--finetune",
        metavar="BUNDLE",
        help="start from the weights of a bundle, or of a public checkpoint (.th) of facebook's denoiser; the model's "
        "settings come from it, all others from --preset and --set",
    )
    return parser


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """What to train on, with which settings, and where to leave it."""
    parser.add_argument("--data", required=True, metavar="DIR", help="corpus that jobs.prepare wrote")
    parser.add_argument(
        "--preset",
        "--config",
        metavar="NAME|FILE",
        help="name of a preset (README), or a YAML file of settings such as the best.yaml of a sweep "
        f"(default: {DEFAULT_PRESET})",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="KEY=VALUE",
        help="override one setting by its dotted path, e.g. training.max_steps=2000; may be repeated",
    )
    parser.add_argument(
        "--workers",
        metavar="N",
        help="processes that train together; 1..4: as many of up to 4 as there is room for while nodes come and go",
    )
    parser.add_argument(
        "--gpus-per-worker", type=float, metavar="N", help="GPUs of each worker; 0: train on the CPU"
    )
    parser.add_argument(
        "--storage",
        default=os.environ.get("WW_STORAGE", "runs"),
        metavar="DIR",
        help="folder of all runs, or an address such as s3://bucket/runs; WW_STORAGE sets another default",
    )


def config_from(arguments: argparse.Namespace, source: Source | None = None) -> ExperimentConfig:
    """The preset with the command line's overrides; of a run to resume, the settings that it has.

    source: weights to start from, which the model's settings come with.
    """
    overrides = overrides_from(arguments)
    if getattr(arguments, "resume", None) and arguments.preset is None:
        started_with = read_run_config(open_run(arguments.storage, arguments.resume))
        return override(started_with.to_dict(), overrides)
    preset = arguments.preset or DEFAULT_PRESET
    return load_config(preset, overrides) if source is None else finetune_config(source, preset, overrides)


def overrides_from(arguments: argparse.Namespace) -> list[str]:
    """The settings that the command line gives, as KEY=VALUE."""
    overrides = list(arguments.overrides)
    if arguments.workers is not None:
        overrides += _workers(arguments.workers)
    if arguments.gpus_per_worker is not None:
        overrides.append(f"resources.gpus_per_worker={arguments.gpus_per_worker}")
    return overrides


def _workers(text: str) -> list[str]:
    """Settings for N workers, or for L..N."""
    match = re.fullmatch(r"(?:(\d+)\.\.)?(\d+)", text)
    if match is None:
        raise ConfigError(f"--workers takes a number such as 4, or a range such as 1..4; got {text!r}")
    least, most = match.groups()
    return [f"resources.num_workers={most}", f"resources.min_workers={least or 0}"]


def run_name(arguments: argparse.Namespace) -> str:
    """The name asked for, or one from the preset and the clock."""
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return arguments.name or f"{Path(arguments.preset or DEFAULT_PRESET).stem}-{now}"


def _limits(config: ExperimentConfig) -> str:
    """How long training goes on, in words."""
    training = config.training
    limits = [f"{training.max_steps} steps"] if training.max_steps else []
    limits += [f"{training.max_epochs:g} epochs"] if training.max_epochs else []
    limits += [f"{training.max_minutes:g} minutes"] if training.max_minutes else []
    limits += [f"{training.budget_minutes:g} minutes of training"] if training.budget_minutes else []
    return " or ".join(limits)


def run(arguments: argparse.Namespace) -> None:
    if arguments.resume and arguments.name:
        raise ValueError("--resume names the run already; leave --name out")
    if arguments.resume and arguments.finetune:
        raise ValueError("--resume goes on with weights of its own; leave --finetune out")
    source = open_source(arguments.finetune) if arguments.finetune else None
    config = config_from(arguments, source)
    name, resume = arguments.resume or run_name(arguments), bool(arguments.resume)
    run = open_run(arguments.storage, name)
    check_training(
        config, arguments.data, run, resume=resume, finetune=source
    )  # before Ray takes seconds to start
    with connect() as where:
        print(f"{name}: {config.model_name}, {_limits(config)} on {where}")
        result = run_training(config, arguments.data, arguments.storage, name, resume=resume, finetune=source)
        print(result.table())


if __name__ == "__main__":
    main(parser(), run)
