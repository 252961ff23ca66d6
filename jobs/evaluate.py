"""Scores bundles on a corpus' test mixtures and writes a report: a page for people, JSON for programs.

Measured: PESQ (1 to 4.6), STOI (0 to 1), SNR and SI-SDR (dB), each for the unprocessed mixtures and after
every bundle, over all and by SNR, with paired bootstrap intervals; and speed on one thread.
Without a cluster it starts Ray on this machine; with RAY_ADDRESS set it runs there.

example: python -m jobs.evaluate --data data/mine --bundle runs/a/bundle runs/b/bundle --out report
"""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.table import Table

from cluster.evaluation.evaluate import check_evaluation, evaluate
from cluster.evaluation.report import format_interval, format_score, verdict, write_report
from cluster.evaluation.scores import EvaluationConfig, EvaluationReport
from cluster.machine.progress import progress
from cluster.machine.session import connect
from jobs.cli import main, make_parser
from ww_data import Storage
from ww_models.quality import MEASURES


def parser() -> argparse.ArgumentParser:
    defaults = EvaluationConfig()
    parser = make_parser("evaluate", __doc__)
    option = parser.option
    option("--data DIR", "corpus that jobs.prepare wrote", required=True)
    option("--bundle DIR", "bundles to compare", required=True, nargs="+")
    option("--out DIR", "folder for the report", default="report")
    option("--mixtures N", "score only so many mixtures (default: all)", type=int)
    option("--resamples N", "of the bootstrap", type=int, default=defaults.num_resamples)
    option("--seed SEED", "of the bootstrap", type=int, default=defaults.seed)
    return parser


def run(arguments: argparse.Namespace) -> None:
    config = EvaluationConfig(
        num_mixtures=arguments.mixtures, num_resamples=arguments.resamples, seed=arguments.seed
    )
    # Before Ray takes seconds to start, and before all is scored.
    check_evaluation(arguments.bundle, arguments.data, config)
    Storage(arguments.out).check_writable()
    with connect(), progress("scoring") as report_progress:
        report = evaluate(arguments.bundle, arguments.data, config, report_progress)
    page = write_report(report, arguments.out).resolve()
    show(report)
    print(f"report: {page}\nJSON:   {page.with_suffix('.json')}")


def show(report: EvaluationReport) -> None:
    """A table of means, below them the change against noisy and its interval; then the verdict."""
    table = Table("", *(" in ".join(filter(None, (m.title, m.unit))) for m in MEASURES.values()))
    for result in report.systems:
        cells = []
        for measure, mean in result.overall.means.items():
            cell = format_score(mean.mean, measure)
            if change := result.overall.improvements.get(measure):
                mean_change, low, high = format_interval(change, measure)
                cell += f"\n{mean_change}\n{low}…{high}"
            cells.append(cell)
        table.add_row(result.name, *cells, end_section=True)
    Console(soft_wrap=True).print(table)
    print(" ".join(verdict(report)))
    for note in report.notes:
        print(f"note: {note}")


if __name__ == "__main__":
    main(parser(), run)
