"""Lets people hear and rate what a report compares, blind, in the browser; and says what came out.

mushra: all systems beside each other against an open reference, with the reference hidden among them and a low anchor
(its 3.5 kHz low-pass), sliders from 0 to 100, after ITU-R BS.1534-3. ab: two systems; which is better, or none is.
Everything is of one loudness, in an order of its own for each listener and clip; the page never learns which is which.
The sounds are the examples of the report: jobs.evaluate --examples N writes more. Each answer is a line of a file that
several listeners share, also on other days; who gives the same name again goes on where he was. It listens on this
machine alone, until Ctrl-C. See docs/listening.md.

example: python -m jobs.listen --report runs/first/report --clips 12
         python -m jobs.listen --report runs/first/report --results
"""

from __future__ import annotations

import argparse
import math
import signal
import sys
import threading
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Column, Table

from cluster.evaluation.listening.analysis import (
    ListeningSummary,
    MushraResult,
    Preference,
    read_listening,
    summarise,
)
from cluster.evaluation.listening.app import build_app
from cluster.evaluation.listening.design import MODES, MUSHRA, ListeningTest, design_test
from cluster.evaluation.listening.server import serving
from cluster.evaluation.listening.source import CLEAN, ListeningError, Source, how_to_get_more, open_source
from jobs.cli import main, make_parser

ANSWERS = "listening.jsonl"


def parser() -> argparse.ArgumentParser:
    parser = make_parser("listen", __doc__)
    option = parser.option
    option("--report DIR", "folder that jobs.evaluate wrote", required=True)
    option(
        "--clips N",
        "how many of the report's examples are heard, evenly over their SNRs",
        type=int,
        default=12,
    )
    option("--mode", "rate all systems on a scale, or prefer one of two", choices=MODES, default=MUSHRA)
    option(
        "--systems NAME", "only these of the report, noisy among them (default: all; for ab both)", nargs="+"
    )
    option("--mid-anchor", "one more anchor, the 7 kHz low-pass of the reference", action="store_true")
    option(
        "--answers FILE", f"where answers are added (default: {ANSWERS} in the report's folder)", type=Path
    )
    option("--port N", "port to listen on; 0 takes any free one", type=int, default=0)
    option("--seed SEED", "of the choice of clips and of all orders", type=int, default=0)
    option("--results", "print what the answers say so far, and serve nothing", action="store_true")
    return parser


def run(arguments: argparse.Namespace) -> None:
    source = open_source(arguments.report)
    answers = arguments.answers or Path(arguments.report) / ANSWERS
    if arguments.results:
        show(summarise(read_listening(answers), report=source.identity))
        return
    test = design_test(
        source,
        mode=arguments.mode,
        num_clips=arguments.clips,
        systems=arguments.systems or (),
        mid_anchor=arguments.mid_anchor,
        seed=arguments.seed,
    )
    check(test, answers)
    if len(test.clips) < arguments.clips:
        print(few_clips(source, arguments.clips), file=sys.stderr)
    with serving(build_app(test, answers), arguments.port) as url:
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        print(f"{test.mode} test of {len(test.clips)} clips, {len(test.stimuli)} stimuli each, at {url}")
        print(f"answers go to {answers}; Ctrl-C ends it", flush=True)
        while not stop.wait(0.5):  # in short waits: a signal that another thread receives does not end one
            pass
    print(
        f"ended; python -m jobs.listen --report {arguments.report} --results says what came out", flush=True
    )


def check(test: ListeningTest, answers: Path) -> None:
    """Reads every sound, and the answers there are, before somebody sits down to listen."""
    clips = {clip.mixture_id: clip for clip in (*test.clips, test.training)}
    for clip in track(clips.values(), "reading sounds", console=Console(stderr=True), transient=True):
        test.sounds(clip)
    try:
        with answers.open("ab"):
            pass
        if answers.stat().st_size:
            read_listening(answers)
    except OSError as error:
        raise ListeningError(
            f"{answers}: cannot be written ({error.strerror}); choose another --answers"
        ) from None


def few_clips(source: Source, wanted: int) -> str:
    num = len(source.clips)
    return f"note: the report has {num} example{'s' * (num != 1)}, not {wanted}: {how_to_get_more(wanted)}"


def show(summary: ListeningSummary) -> None:
    """Tables of what came out, and what is to be known of it."""
    if summary.mushra:
        _show_mushra(summary.mushra)
    for preference in summary.preferences:
        _show_preference(preference)
    if not summary.mushra and not summary.preferences:
        print("no answers about this report yet")
    for num, what in (
        (summary.num_foreign, ("answer about other reports is", "answers about other reports are")),
        (summary.num_damaged, ("damaged line is", "damaged lines are")),
    ):
        if num:
            print(f"note: {num} {what[num > 1]} left out")


def make_table(title: str, *headers: str) -> Table:
    return Table(*(Column(header, no_wrap=True) for header in headers), title=title, title_justify="left")


def _show_mushra(result: MushraResult) -> None:
    listeners = f"{len(result.listeners)} listeners, {result.num_clips} clips, {result.num_answers} screens"
    table = make_table(listeners, "", "rating", "95 % interval", "over noisy", "95 % interval")
    for system in result.systems:
        row = [f"{system.rating.mean:.1f}", f"{system.rating.low:.1f} to {system.rating.high:.1f}"]
        if change := system.improvement:
            row += [f"{change.mean:+.1f}", f"{change.low:+.1f} to {change.high:+.1f}"]
        table.add_row("hidden reference" if system.name == CLEAN else system.name, *row)
    Console(soft_wrap=True).print(table)
    for listener, why in result.set_apart.items():
        print(f"set apart: {listener} rated {why}")
    for warning in result.warnings:
        print(f"warning: {warning}")


def _show_preference(preference: Preference) -> None:
    listeners = f"{len(preference.listeners)} listeners, {preference.num_clips} clips"
    table = make_table(listeners, "", "preferred", "share", "95 % interval")
    low, high = 100 * preference.low, 100 * preference.high
    shares = (preference.share, low, high), (1 - preference.share, 100 - high, 100 - low)
    names = (preference.first, preference.num_first), (preference.second, preference.num_second)
    for (name, num), (share, least, most) in zip(names, shares, strict=True):
        percent = "–" if math.isnan(share) else f"{100 * share:.0f} %"
        table.add_row(name, str(num), percent, f"{least:.0f} to {most:.0f} %")
    table.add_row("no difference", str(preference.num_same), "", "")
    Console(soft_wrap=True).print(table)
    for warning in preference.warnings:
        print(f"warning: {warning}")


if __name__ == "__main__":
    main(parser(), run)
