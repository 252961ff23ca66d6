"""Puts a model into force, with what speaks for it, or a bundle into a running endpoint.

--report takes the best bundle by --by that keeps the bounds, if it is surely better than the model in force in the
store on the same clips (paired interval over speakers above 0), and writes it there with the evidence; otherwise it
says why not. --anyway does it all the same, and writes down what was overruled and who did it. --rollback goes back to
the model before, --history prints what was decided. With --url, or RAY_ADDRESS set, the endpoint there serves it at
once; one that was started with jobs.serve --store follows by itself.
--bundle exchanges the models of a running endpoint, without a store. Calls and files that have begun end with the model
that they began with; what comes later gets the new one. A bundle that cannot be loaded is refused before anything
changes.

example: python -m jobs.promote --report report --to models --min-clean-pesq 4.0 --max-real-time-factor 0.05
         python -m jobs.promote --bundle runs/better/bundle --url http://127.0.0.1:8000
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cluster.evaluation.files import read_report
from cluster.machine.session import connect
from cluster.promotion.decision import (
    Bounds,
    Candidate,
    NotPromotedError,
    against,
    candidates,
    evidence,
    refusals,
)
from cluster.promotion.store import ModelStore, Promotion
from cluster.serving.deploy.deployment import checked_bundles
from cluster.serving.deploy.promotion import promote, promote_at
from jobs.cli import main, make_parser
from ww_models import BundleError, read_bundle_info
from ww_models.quality import MEASURES


def parser() -> argparse.ArgumentParser:
    parser, bounds = make_parser("promote", __doc__), Bounds()
    option = parser.option
    option("--report DIR", "report of jobs.evaluate, whose best bundle is put into force in --to")
    option("--to STORE", "folder or address (s3://...) of the models that were put into force")
    option("--by MEASURE", "that decides", choices=tuple(MEASURES), default=bounds.by)
    option(
        "--max-real-time-factor X",
        "seconds of computing per second of sound, of one stream at most",
        type=float,
    )
    option("--min-clean-pesq X", "PESQ that clean speech must come out with at least, 1 to 4.6", type=float)
    option("--anyway", "although it was refused", action="store_true")
    option("--rollback", "go back to the model that was in force before, in --to", action="store_true")
    option("--history", "print what was decided in --to, and change nothing", action="store_true")
    bundles = "bundle to serve from now on, without a store; may be given several times, the first one is the default"
    option("--bundle DIR", bundles, action="append", default=[])
    option("--url URL", "of an endpoint on this machine (with --bundle by default the only one that you run)")
    option("--keep", "what is served already can still be asked for by its id", action="store_true")
    return parser


def run(arguments: argparse.Namespace) -> None:
    ways = ("report", "rollback", "history", "bundle")
    given = [way for way in ways if getattr(arguments, way)]
    if len(given) != 1:
        came = " and ".join(f"--{way}" for way in given) or "none"
        raise ValueError(f"give one of --report, --rollback, --history and --bundle; got {came}")
    if arguments.bundle:
        exchange(checked_bundles(arguments.bundle), arguments)
        return
    if not arguments.to:
        raise ValueError(f"--{given[0]} needs --to STORE: where what was put into force lies")
    store = ModelStore(arguments.to)
    if arguments.history:
        show(store.history())
        return
    record = store.roll_back() if arguments.rollback else decide(store, arguments)
    print(f"{record.bundle_id} is in force in {store} (decision {record.number})")
    if arguments.url or "RAY_ADDRESS" in os.environ:
        exchange([store.bundle(record.bundle_id)], arguments)


def decide(store: ModelStore, arguments: argparse.Namespace) -> Promotion:
    """Puts the best of a report into force, or raises NotPromotedError."""
    report = read_report(arguments.report)
    bounds = Bounds(
        by=arguments.by,
        max_real_time_factor=arguments.max_real_time_factor,
        min_clean_pesq=arguments.min_clean_pesq,
    )
    found = candidates(report, bounds)
    if not found:
        raise NotPromotedError(f"{arguments.report}: no bundle of this report has a score")
    in_force = store.in_force()
    incumbent_id = in_force[-1] if in_force else None
    # The one in force is measured too, and may well be the best: what may replace it is the best of the others.
    best = next((each for each in found if each.bundle_id != incumbent_id), found[0])
    change = against(report, best, incumbent_id, bounds.by) if incumbent_id else None
    why_not = refusals(best, incumbent_id, change, bounds.by)
    show_candidates(found, bounds.by, incumbent_id)
    if why_not and not arguments.anyway:
        raise NotPromotedError(f"{best.name} is not put into force: {'; '.join(why_not)}")
    if (there := read_bundle_info(best.path).id) != best.bundle_id:
        raise BundleError(
            f"{best.path} holds {there}, the report measured {best.bundle_id}: evaluate it again"
        )
    return store.add(best.path, evidence(report, best, bounds, incumbent_id, change), tuple(why_not))


def show_candidates(found: Sequence[Candidate], by: str, incumbent_id: str | None) -> None:
    measure = MEASURES[by]
    table = Table("model", measure.label, "")
    for each in found:
        notes = [*(["in force"] if each.bundle_id == incumbent_id else []), *each.beyond]
        table.add_row(each.name, f"{each.score:.{measure.digits + 1}f}", "; ".join(notes))
    Console(soft_wrap=True).print(table)


def show(history: Sequence[Promotion]) -> None:
    """A line for each decision, and one for each thing that was overruled."""
    if not history:
        print("nothing was put into force yet")
    for record in history:
        words = [f"{record.number:4d}  {record.at}  {record.action:8}  {record.bundle_id}  by {record.by}"]
        if record.evidence and (change := record.evidence["against"]) and change["mean"] is not None:
            by = MEASURES[record.evidence["bounds"]["by"]]
            words.append(f"{by.title} {change['mean']:+.3f} against {change['bundle_id']}")
        print("  ".join(words))
        for reason in record.overruled:
            print(f"      overruled: {reason}")


def exchange(bundles: Sequence[Path], arguments: argparse.Namespace) -> None:
    """In a running endpoint."""
    if "RAY_ADDRESS" in os.environ:
        with connect():
            served = promote(bundles, keep=arguments.keep)
    else:
        served = promote_at(arguments.url, bundles, keep=arguments.keep)
    for number, (model_id, bundle) in enumerate(served):
        print(f"serving {model_id} from {bundle}{'' if number else ' (default)'}")


if __name__ == "__main__":
    main(parser(), run)
