"""What is left of the journal of a run that was cut: each step once, as the last start that did it saw it."""

from __future__ import annotations

import json
from pathlib import Path

from cluster.training.loop.journal import read_lineage
from ww_data import Storage


def write(
    run: Path, start: int, rank: int, restored: int, steps: dict[int, list[int]], torn: str = ""
) -> None:
    lines = [{"start": restored}, *({"step": step, "positions": items} for step, items in steps.items())]
    (run / "journal").mkdir(exist_ok=True)
    text = "".join(json.dumps(line) + "\n" for line in lines) + torn
    (run / "journal" / f"{start}-rank_{rank}.jsonl").write_text(text)


def test_steps_after_the_one_resumed_from_are_those_of_the_later_start(tmp_path: Path) -> None:
    write(tmp_path, 100, 0, 0, {1: [0], 2: [2], 3: [4]})
    write(tmp_path, 100, 1, 0, {1: [1], 2: [3]}, torn='{"step": 3, "posi')  # killed within step 3
    write(tmp_path, 200, 0, 2, {3: [5, 4], 4: [6, 7]})  # alone
    assert read_lineage(Storage(tmp_path)) == {1: [0, 1], 2: [2, 3], 3: [4, 5], 4: [6, 7]}


def test_a_start_that_did_nothing_cuts_too(tmp_path: Path) -> None:
    write(tmp_path, 100, 0, 0, {1: [0], 2: [1]})
    write(tmp_path, 200, 0, 1, {})
    assert read_lineage(Storage(tmp_path)) == {1: [0]}
    assert read_lineage(Storage(tmp_path / "never")) == {}
