"""A sweep while it runs: a table of its trials on a terminal, a line now and then elsewhere, and metrics."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Iterator
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cluster.machine.progress import PLAIN_LINE_EVERY_S
from cluster.monitoring.metrics import SWEEP_BEST, SWEEP_TRIALS
from cluster.runs.result import spoken_duration
from cluster.tuning.ledger import Ledger, Trial
from ww_models.quality import VALIDATION_MEASURES

_STYLES = {"running": "bold", "done": "green", "pruned": "dim", "failed": "red"}


@contextlib.contextmanager
def watched(ledger: Ledger, console: Console | None = None) -> Iterator[None]:
    """Shows how the trials of a ledger are, as long as the block lasts."""
    console = console or Console(file=sys.stderr)
    say = None if console.is_terminal else _plain_lines(ledger)

    def tell() -> None:
        _publish(ledger)
        if say is not None:
            say()

    ledger.on_change = tell
    if not console.is_terminal:
        yield
        return
    with Live(
        get_renderable=lambda: live_table(ledger, console.height - 6), console=console, refresh_per_second=1
    ):
        yield


def live_table(ledger: Ledger, num_rows: int) -> Group:
    """The newest trials that the terminal has room for: settings, step, time, latest scores, state."""
    plan, trials = ledger.plan, list(ledger.trials.values())
    shown = trials[-max(5, num_rows) :]
    table = Table(expand=False, pad_edge=False)
    columns = list(plan.in_words(shown[0].values)) if shown else []
    for name in ("trial", *columns):
        table.add_column(name, overflow="fold")
    for name in ("step", "trained", *(measure.label for measure in VALIDATION_MEASURES.values())):
        table.add_column(name, justify="right")
    table.add_column("state")
    for trial in shown:
        words = [cell(value) for value in plan.in_words(trial.values).values()]
        table.add_row(trial.name, *words, *_latest(ledger, trial), style=_STYLES[trial.state])
    head = f"{ledger.standing()}, {spoken_duration(ledger.spent_s)} so far, {best_so_far(ledger)}"
    return Group(Text(head.rstrip(", ")), table)


def _latest(ledger: Ledger, trial: Trial) -> list[str]:
    points = ledger.curves.get(trial.name) or [{}]
    last: dict[str, Any] = points[-1]
    state: str = trial.state
    if state == "running":
        state = "cut" if trial.name in ledger.waiting_to_go_on else f"{ledger.fraction(trial.name):.0%}"
    return [
        f"{last['step']}" if "step" in last else "",
        spoken_duration(last["trained_s"]) if "trained_s" in last else "",
        *(
            f"{last[name]:.{one.digits + 1}f}" if name in last else ""
            for name, one in VALIDATION_MEASURES.items()
        ),
        state,
    ]


def best_so_far(ledger: Ledger) -> str:
    """The best score of any run, in words; "" before there is one."""
    name, score = _best(ledger)
    return f"best {VALIDATION_MEASURES[ledger.plan.metric].label} {score:.3f} ({name})" if name else ""


def _best(ledger: Ledger) -> tuple[str, float]:
    """The run with the best score so far, and that; ("", NaN) before there is one."""
    metric = ledger.plan.metric
    scores = {
        name: max((point[metric] for point in points if metric in point), default=-math.inf)
        for name, points in list(ledger.curves.items())
    }
    best = max(scores, key=scores.__getitem__, default="")
    return (best, scores[best]) if best and math.isfinite(scores[best]) else ("", math.nan)


def _publish(ledger: Ledger) -> None:
    """How the sweep stands, for Prometheus."""
    sweep, plan = ledger.folder.name, ledger.plan
    ended: list[str] = [trial.state for trial in list(ledger.trials.values()) if trial.state != "running"]
    counts = {state: ended.count(state) for state in ("done", "pruned", "failed")}
    counts["running"] = ledger.num_running
    counts["left"] = max(0, plan.num_settings * plan.repeats - sum(counts.values()))
    for state, count in counts.items():
        SWEEP_TRIALS.set(count, sweep=sweep, state=state)
    name, score = _best(ledger)
    if name:
        SWEEP_BEST.set(score, sweep=sweep, measure=plan.metric)


def cell(value: Any) -> str:
    """A value in a table."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _plain_lines(ledger: Ledger) -> Any:
    """Says a line when runs come to an end, and otherwise every now and then."""
    said_s, said = -math.inf, ""

    def say() -> None:
        nonlocal said_s, said
        now, standing = time.monotonic(), ledger.standing()
        if standing != said or now - said_s >= PLAIN_LINE_EVERY_S:
            print(f"sweep: {standing}, {best_so_far(ledger)}".rstrip(", "), file=sys.stderr, flush=True)
            said_s, said = now, standing

    return say
