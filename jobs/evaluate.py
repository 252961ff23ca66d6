"""Scores bundles, and whatever else denoises, on test mixtures or pairs of files, and writes a report: a page for
people, JSON and Parquet for programs.

Measured: PESQ (1 to 4.6), STOI and ESTOI (0 to 1), SNR, SI-SDR and segmental SNR (dB), CSIG, CBAK and COVL (1 to 5),
the log-spectral distance (dB), each for the clips as they came and after every system; with intervals over speakers, by
SNR, kind of noise, speaker and level; what is done to clean speech and to silence; cost on one thread.
Without a cluster it starts Ray on this machine; with RAY_ADDRESS set it runs there.

example: python -m jobs.evaluate --data data/mine --bundle runs/a/bundle runs/b/bundle --out report
         python -m jobs.evaluate --pairs vbd=test/noisy:test/clean --bundle runs/a/bundle --system other=made/other
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from cluster.evaluation.clips import EvaluationError
from cluster.evaluation.evaluate import EvaluationRequest, evaluate, plan_evaluation
from cluster.evaluation.listening.analysis import ListeningSummary
from cluster.evaluation.report import write_report
from cluster.evaluation.scores import EvaluationConfig, EvaluationReport
from cluster.evaluation.verdict import differences, format_interval, format_score, verdict
from cluster.machine.progress import progress
from cluster.machine.session import connect
from cluster.promotion.store import ModelStore
from jobs.cli import main, make_parser
from ww_data import Storage
from ww_models.quality import MEASURES


def parser() -> argparse.ArgumentParser:
    defaults = EvaluationConfig()
    parser = make_parser("evaluate", __doc__)
    option = parser.option
    many = {"nargs": "+", "default": [], "action": "extend"}
    option("--bundle DIR", "bundles to compare, or checkpoint files of facebook's denoiser", **many)
    option("--store STORE", "the model that jobs.promote put into force there, too, if there is one yet")
    option("--group NAME=DIR,DIR", "bundles that differ in the seed of their training, as one system", **many)
    option(
        "--system NAME=DIR", "files that another program made of the clips, each named after its clip", **many
    )
    option("--data DIR", "corpus that jobs.prepare wrote: its test mixtures are scored")
    option(
        "--pairs NAME=NOISY:CLEAN",
        "two folders of files that have the same names, or the same number after fileid_; any rate",
        **many,
    )
    option("--noisy DIR", "files without clean sides: DNSMOS alone is measured")
    option("--stream", "score models as the streams that are deployed, too", action="store_true")
    option("--dnsmos", "measure DNSMOS P.835, too: needs the extra [dnsmos]", action="store_true")
    option(
        "--recogniser MODULE:CALLABLE",
        "measure word errors, too: (samples (T,) float32, sample rate in Hz) -> words. What was said is a .txt beside "
        "the clean file or, without one, what is heard in that",
    )
    option(
        "--listening FILE",
        "answers that jobs.listen collected about a report of the same bundles on the same recordings",
        **many,
    )
    option("--out DIR", "folder for the report", default="report")
    option("--clips N", "score only so many clips (default: all)", type=int)
    option(
        "--examples N",
        "clips to hear in the report, and in jobs.listen",
        type=int,
        default=defaults.num_examples,
    )
    option("--mixtures N", argparse.SUPPRESS, dest="clips", type=int)
    option("--resamples N", "of the bootstrap", type=int, default=defaults.num_resamples)
    option("--seed SEED", "of the bootstrap", type=int, default=defaults.seed)
    option(
        "--timing SECONDS",
        "to time each form of a model for, three times over; 0: none",
        type=float,
        default=defaults.timing_s,
    )
    return parser


def run(arguments: argparse.Namespace) -> None:
    config = EvaluationConfig(
        num_clips=arguments.clips,
        num_examples=arguments.examples,
        num_resamples=arguments.resamples,
        seed=arguments.seed,
        timing_s=arguments.timing,
    )
    request = EvaluationRequest(
        bundles=(*arguments.bundle, *in_force(arguments.store)),
        data=arguments.data or "",
        pairs={name: _pair(name, value) for name, value in _named("--pairs", arguments.pairs).items()},
        noisy=arguments.noisy or "",
        groups={name: tuple(value.split(",")) for name, value in _named("--group", arguments.group).items()},
        systems=_named("--system", arguments.system),
        stream=arguments.stream,
        dnsmos=arguments.dnsmos,
        recogniser=arguments.recogniser or "",
        listening=tuple(arguments.listening),
    )
    # Before Ray takes seconds to start, and before all is scored.
    plan = plan_evaluation(request, config)
    out = Storage(arguments.out)
    if not out.is_local:
        raise EvaluationError(f"--out {arguments.out}: a report is written to a folder of this machine")
    out.check_writable()
    with connect(), progress("scoring") as report_progress:
        report = evaluate(request, config, report_progress, plan)
    page = write_report(report, arguments.out).resolve()
    show(report)
    print(f"report: {page}\nJSON:   {page.with_suffix('.json')}\nscores: {page.with_name('scores.parquet')}")


def in_force(store: str | None) -> list[str]:
    """The bundle in force in a store: none before the first promotion, or without a store."""
    there = ModelStore(store) if store else None
    return [str(there.bundle(bundle_id)) for bundle_id in there.in_force()[-1:]] if there else []


def _named(option: str, values: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE by name."""
    found: dict[str, str] = {}
    for text in values:
        name, separator, value = text.partition("=")
        if not (separator and value and re.fullmatch(r"[\w.+-]+", name)):
            raise EvaluationError(f"{option} {text}: give NAME=..., the name of letters, digits and . _ + -")
        if name in found:
            raise EvaluationError(f"{option} {text}: the name {name} is given twice")
        found[name] = value
    return found


def _pair(name: str, value: str) -> tuple[str, str]:
    noisy, separator, clean = value.partition(":")
    if not (separator and noisy and clean):
        raise EvaluationError(f"--pairs {name}={value}: give NAME=NOISY_DIR:CLEAN_DIR")
    return noisy, clean


def show(report: EvaluationReport) -> None:
    """A table of means, below them the change against noisy and its interval; then the verdict."""
    table = Table("", *(result.name for result in report.systems))
    for name in report.measures:
        measure = MEASURES[name]
        cells = []
        for result in report.systems:
            cell = format_score(result.overall.means[name].mean, name)
            if change := result.overall.improvements.get(name):
                mean_change, low, high = format_interval(change, name)
                cell += f"  {mean_change} ({low}…{high})"
            if name in result.spread:
                cell += f", seeds ± {format_score(result.spread[name].deviation, name)}"
            cells.append(cell)
        title = " in ".join(filter(None, (measure.title, measure.unit)))
        table.add_row(title if measure.higher_is_better else f"{title}, lower is better", *cells)
    for title, cells in _costs(report).items():
        table.add_row(title, *cells)
    Console(soft_wrap=True).print(table)
    for line in differences(report):
        print(line)
    for result in report.systems:
        if math.isfinite(result.stream_difference):
            print(
                f"{result.name} differs from the whole clip by {result.stream_difference:.1e} of full scale at most"
            )
    print(" ".join(verdict(report)))
    if report.listening:
        show_listening(report.listening)
    for note in report.notes:
        print(f"note: {note}")
    for found in report.undefined:
        print(
            f"note: {MEASURES[found.measure].title} of {found.system} is undefined for {len(found.clips)} clips"
        )


def show_listening(heard: ListeningSummary) -> None:
    """Means and intervals, and why they are not enough to go by."""
    for system in heard.mushra.systems if heard.mushra else ():
        rating = system.rating
        print(
            f"listeners rate {system.name} {rating.mean:.0f} ({rating.low:.0f} to {rating.high:.0f} of 100)"
        )
    for pair in heard.preferences:
        share = "–" if math.isnan(pair.share) else f"{pair.share:.0%} ({pair.low:.0%} to {pair.high:.0%})"
        print(
            f"listeners prefer {pair.first} to {pair.second}: {share} of {pair.num_first + pair.num_second}"
        )
    warnings = [*(heard.mushra.warnings if heard.mushra else ())]
    warnings += [warning for pair in heard.preferences for warning in pair.warnings]
    for warning in dict.fromkeys(warnings):
        print(f"note: listening test: {warning}")
    if heard.num_foreign:
        print(f"note: {heard.num_foreign} answers of listeners are about other reports, and left out")


def _costs(report: EvaluationReport) -> dict[str, list[str]]:
    """Rows of harm and cost, by their title."""
    rows: dict[str, list[str]] = {}
    if not any(result.model for result in report.systems):
        return rows
    for result in report.systems:
        harm, alone = result.harm, result.cost.alone if result.cost else {}
        cells = {
            "clean speech in: PESQ out": format_score(harm.pesq, "pesq") if harm else "",
            "clean speech in: SI-SDR in dB out": format_score(harm.si_sdr_db, "si_sdr_db") if harm else "",
            "silence in: dBFS out": f"{harm.silence_dbfs:.1f}".replace("-", "−") if harm else "",
            "real-time factor of a stream, fp32, int8": ", ".join(
                "–" if value is None else f"{value:.4f}" for value in alone.values()
            ),
        }
        for title, cell in cells.items():
            rows.setdefault(title, []).append(cell)
    return rows


if __name__ == "__main__":
    main(parser(), run)
