"""Trains a denoiser on a prepared corpus, on this machine or on a Ray cluster, and leaves a bundle."""

from __future__ import annotations

import argparse
import datetime
import os
from pathlib import Path

from cluster.config import ExperimentConfig, load_config, override
from cluster.run_folder import read_run_config
from cluster.session import connect
from cluster.training import TrainingResult, run_training
from jobs.cli import main, make_parser

DEFAULT_PRESET = "demo"


def parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "train",
        __doc__
        + """
Without a cluster it starts Ray on this machine. With RAY_ADDRESS set, or started by `ray job submit --working-dir .
-- python -m jobs.train ...`, it runs there; --data and --storage must then be folders that all nodes reach.
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
    return parser


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """What to train on, with which settings, and where to leave it."""
    parser.add_argument("--data", required=True, metavar="DIR", help="corpus that jobs.prepare wrote")
    parser.add_argument(
        "--preset", help=f"name in jobs/presets, or a YAML file of settings (default: {DEFAULT_PRESET})"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="KEY=VALUE",
        help="override one setting by its dotted path, e.g. training.max_steps=2000; may be repeated",
    )
    parser.add_argument("--workers", type=int, metavar="N", help="processes that train together")
    parser.add_argument(
        "--gpus-per-worker", type=float, metavar="N", help="GPUs of each worker; 0: train on the CPU"
    )
    parser.add_argument(
        "--storage",
        default=os.environ.get("WW_STORAGE", "runs"),
        metavar="DIR",
        help="folder of all runs; WW_STORAGE sets another default",
    )


def config_from(arguments: argparse.Namespace) -> ExperimentConfig:
    """The preset with the command line's overrides; of a run to resume, the settings that it has."""
    overrides = list(arguments.overrides)
    if arguments.workers is not None:
        overrides.append(f"resources.num_workers={arguments.workers}")
    if arguments.gpus_per_worker is not None:
        overrides.append(f"resources.gpus_per_worker={arguments.gpus_per_worker}")
    if getattr(arguments, "resume", None) and arguments.preset is None:
        started_with = read_run_config(Path(arguments.storage) / arguments.resume)
        return override(started_with.to_dict(), overrides)
    return load_config(arguments.preset or DEFAULT_PRESET, overrides)


def run_name(arguments: argparse.Namespace) -> str:
    """The name asked for, or one from the preset and the clock."""
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return arguments.name or f"{Path(arguments.preset or DEFAULT_PRESET).stem}-{now}"


def describe(result: TrainingResult) -> str:
    """What came out, for people."""
    scores = result.scores
    lines = [f"trained {result.steps} steps in {result.wall_s:.0f} s; on unseen validation mixtures:"]
    for metric, name in (
        ("si_sdr_db", "SI-SDR dB"),
        ("pesq", "PESQ"),
        ("stoi", "STOI"),
        ("snr_db", "SNR dB"),
    ):
        if metric in scores and f"noisy_{metric}" in scores:
            lines.append(
                f"  {name:10} noisy {scores[f'noisy_{metric}']:7.3f}   enhanced {scores[metric]:7.3f}"
            )
    lines.append(f"run:    {result.run_dir}\nbundle: {result.bundle}")
    lines.append(f"curves: tensorboard --logdir {result.run_dir / 'tracking'}")
    return "\n".join(lines)


def run(arguments: argparse.Namespace) -> None:
    if arguments.resume and arguments.name:
        raise ValueError("--resume names the run already; leave --name out")
    config = config_from(arguments)
    name = arguments.resume or run_name(arguments)
    with connect() as where:
        print(f"{name}: {config.model_name}, {config.training.max_steps} steps on {where}")
        result = run_training(config, arguments.data, arguments.storage, name, resume=bool(arguments.resume))
        print(describe(result))


if __name__ == "__main__":
    main(parser(), run)
