"""Scores bundles on a corpus' test mixtures and writes a report: a page for people, JSON for programs."""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.table import Table

from cluster.evaluation.evaluate import EvaluationConfig, evaluate
from cluster.evaluation.figures import METRIC_TITLES
from cluster.evaluation.report import format_score, format_signed, verdict, write_report
from cluster.evaluation.scores import EvaluationReport
from cluster.machine.progress import progress
from cluster.machine.session import connect
from jobs.cli import main, make_parser


def parser() -> argparse.ArgumentParser:
    defaults = EvaluationConfig()
    parser = make_parser(
        "evaluate",
        __doc__
        + """
Measured: PESQ (1 to 4.6), STOI (0 to 1), SNR and SI-SDR (dB), each for the unprocessed mixtures and after
every bundle, over all and by SNR, with paired bootstrap intervals; and speed on one thread.
Without a cluster it starts Ray on this machine; with RAY_ADDRESS set it runs there.

example: python -m jobs.evaluate --data data/mine --bundle runs/a/bundle runs/b/bundle --out report""",
    )
    parser.add_argument("--data", required=True, metavar="DIR", help="corpus that jobs.prepare wrote")
    parser.add_argument("--bundle", required=True, nargs="+", metavar="DIR", help="bundles to compare")
    parser.add_argument("--out", default="report", metavar="DIR", help="folder for the report")
    parser.add_argument(
        "--mixtures", type=int, metavar="N", help="score only so many mixtures (default: all)"
    )
    parser.add_argument(
        "--resamples", type=int, default=defaults.num_resamples, metavar="N", help="of the bootstrap"
    )
    parser.add_argument("--seed", type=int, default=defaults.seed, help="of the bootstrap")
    return parser


def run(arguments: argparse.Namespace) -> None:
    config = EvaluationConfig(
        num_mixtures=arguments.mixtures, num_resamples=arguments.resamples, seed=arguments.seed
    )
    with connect(), progress("scoring") as report_progress:
        report = evaluate(arguments.bundle, arguments.data, config, report_progress)
    files = write_report(report, arguments.out)
    show(report)
    print(f"report: {files.html.resolve()}\nJSON:   {files.json.resolve()}")


def show(report: EvaluationReport) -> None:
    """A table of means, below them the change against noisy and its interval; then the verdict."""
    table = Table("", *METRIC_TITLES.values())
    for result in report.systems:
        cells = []
        for metric in METRIC_TITLES:
            cell = format_score(result.overall.means[metric].mean, metric)
            if change := result.overall.improvements.get(metric):
                mean, low, high = (format_signed(x, metric) for x in (change.mean, change.low, change.high))
                cell += f"\n{mean}\n{low}…{high}"
            cells.append(cell)
        table.add_row(result.name, *cells, end_section=True)
    Console(soft_wrap=True).print(table)
    print(" ".join(verdict(report)))


if __name__ == "__main__":
    main(parser(), run)
