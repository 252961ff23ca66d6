"""A sweep in ClearML: a task of its own, under which lie those of its runs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster.runs.folder import TRACKING_FOLDER
from cluster.settings.experiment import flatten
from cluster.tracking.clearml_task import NOTICE_FILE, ClearMLTask, clearml_mode
from cluster.tuning.ledger import Ledger
from cluster.tuning.results import SweepResult
from ww_models.quality import VALIDATION_MEASURES

_AWAIT_ID_S = 30.0  # longer than a server is given to open a task


class SweepTask:
    """of_trials: what the runs' `tracking` settings are beside their own: the task they belong to, and a tag."""

    def __init__(self, task: ClearMLTask | None, name: str, parent: str) -> None:
        self._task = task
        self.of_trials: dict[str, Any] = {"clearml_parent": parent, "clearml_tags": (f"sweep:{name}",)}

    def conclude(self, result: SweepResult) -> None:
        """The table of all settings, a plot of their scores, and those of the best as the task's own."""
        if self._task is None:
            return
        columns = list(result.rows[0])
        rows = [["" if row.get(name) is None else row[name] for name in columns] for row in result.rows]
        self._task.table("settings", [columns, *rows])
        for place, row in enumerate(result.rows, start=1):
            self._task.scalars("settings, best first", _by_label(row), place)
        self._task.values(_by_label(result.rows[0]))


@contextlib.contextmanager
def sweep_task(ledger: Ledger) -> Iterator[SweepTask]:
    """The task of a sweep, which one that goes on takes up again; without ClearML it does nothing.

    Runs need its id before they begin. Where no server tells it in time, or none is asked, the tag alone says which
    belong together. A sweep that is cut leaves it open, and it is marked stopped.
    """
    config = next(iter(ledger.plan.configs.values())).tracking
    mode = clearml_mode(config.clearml)
    if mode is None:
        yield SweepTask(None, ledger.folder.name, "")
        return
    folder = ledger.folder / TRACKING_FOLDER / "clearml"
    folder.mkdir(parents=True, exist_ok=True)
    task = ClearMLTask(folder, mode, config, ledger.folder.name, [f"sweep:{ledger.folder.name}"])
    plan = ledger.plan.to_dict()
    configs = {name or "settings": config for name, config in plan.pop("configs").items()}
    task.config(flatten({**plan, **configs}))
    yield SweepTask(task, ledger.folder.name, _await_id(folder) if mode == "online" else "")
    task.close()


def _await_id(folder: Path) -> str:
    """The id that the server gave the task; "" where it gives none in time."""
    until_s, file = time.monotonic() + _AWAIT_ID_S, folder.parent / "clearml_task.txt"
    while not file.is_file():
        if time.monotonic() > until_s or (folder / NOTICE_FILE).exists():
            return ""
        time.sleep(0.1)
    return file.read_text(encoding="utf-8").strip()


def _by_label(row: dict[str, Any]) -> dict[str, float]:
    return {measure.label: row[name] for name, measure in VALIDATION_MEASURES.items() if name in row}
