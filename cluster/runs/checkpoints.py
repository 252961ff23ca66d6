"""The checkpoints of a run: each counts once it is whole, and is compared with its checksums before it is used.

    <run>/checkpoint_000000012/state.ckpt       weights, optimizer, step: read back only by the run that wrote it
                               bundle/          the model as it would be shipped
                               checkpoint.json  written last: step, scores, and the SHA-256 of each file

The record makes a checkpoint, not a renaming, which S3 does not know: a folder without one was never finished. Kept are
the best and the last two, so that one that turns out to be damaged has one before it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import re
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from cluster.runs.transfer import fetch_folder, send_folder
from cluster.settings.experiment import differences
from cluster.settings.training import TrainingConfig
from ww_data import Storage
from ww_models import BundleError, read_bundle_info

STATE_FILE, BUNDLE_FOLDER, RECORD_FILE = "state.ckpt", "bundle", "checkpoint.json"
_NUM_LAST = 2

logger = logging.getLogger(__name__)


class CheckpointError(ValueError):
    """Checkpoints that cannot be used, or none that can. One line: which, why, and what to do."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A finished one. metrics: scores of its validation and counts; sha256: of each of its files by name."""

    step: int
    metrics: dict[str, float]
    sha256: dict[str, str]

    @property
    def name(self) -> str:
        """Its folder in the run's."""
        return _name(self.step)


class Checkpoints:
    """Those of one run; training says which score makes one the best. One process at a time may store."""

    def __init__(self, run: Storage, training: TrainingConfig) -> None:
        self.run, self.training = run, training

    def store(self, folder: Path, step: int, metrics: dict[str, float]) -> None:
        """Makes a checkpoint of a folder of this machine, then removes those that are not kept. OSError as it comes."""
        name = _name(step)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        sha256 = {path.relative_to(folder).as_posix(): _digest(path) for path in files}
        content = {"step": step, "metrics": metrics, "sha256": sha256}
        self.run.delete(f"{name}/{RECORD_FILE}")  # of one that was found damaged
        send_folder(folder, self.run, name)
        record = {"checkpoint": content, "sha256": _digest_of(content)}
        self.run.write(f"{name}/{RECORD_FILE}", json.dumps(record, indent=2).encode())
        self._drop_old(step)

    def recorded(self) -> list[Checkpoint]:
        """All that were finished, by step. Their files were not looked at; damaged records are left out."""
        return self._look()[0]

    def newest(self, folder: Path) -> tuple[Checkpoint | None, list[str]]:
        """The last one that is whole, all of which was read, and a line on each that was found damaged on the way.

        folder: for a copy of one at an address. None where none was ever finished.
        Raises CheckpointError if all are damaged.
        """
        recorded, complaints = self._look()
        for checkpoint in reversed(recorded):
            try:
                self.check(checkpoint, folder)
                return checkpoint, complaints
            except CheckpointError as error:
                complaints.append(str(error))
        if complaints:
            raise CheckpointError(
                f"no checkpoint of {self.run} can be used ({'; '.join(complaints)}): bring one of them back from a "
                "copy, or start a new run under another name"
            )
        return None, []

    def check(self, checkpoint: Checkpoint, folder: Path, only: str = "") -> Path:
        """Reads a checkpoint, or only what lies below a name in it, and returns the folder in which it lies here.

        folder: for a copy of one at an address. Raises CheckpointError if a file is missing or not what was written.
        """
        here, address = folder / checkpoint.name, self.run.address(checkpoint.name)
        if self.run.is_local:
            here = self.run.path(checkpoint.name)
        elif not here.exists():
            try:
                fetch_folder(self.run, checkpoint.name, here)
            except FileNotFoundError as error:
                raise CheckpointError(f"{address}: is not there any more") from error
        for name, sha256 in checkpoint.sha256.items():
            if not name.startswith(only):
                continue
            path = here / name
            if not path.is_file():
                raise CheckpointError(f"{address}: {name} is missing")
            if _digest(path) != sha256:
                raise CheckpointError(f"{address}: {name} is damaged (its checksum differs)")
        return here

    def best_bundle(self, folder: Path) -> tuple[Checkpoint, Path]:
        """The checkpoint with the best score of all whose bundle is whole, and the bundle, to be read only.

        folder: for a copy of one at an address. Raises CheckpointError if there is none.
        """
        by_goodness = sorted(
            self.recorded(), key=lambda one: self.training.goodness(one.metrics), reverse=True
        )
        for checkpoint in by_goodness:
            try:
                return checkpoint, self.check(checkpoint, folder, BUNDLE_FOLDER) / BUNDLE_FOLDER
            except CheckpointError as error:
                logger.warning("%s; the next best is taken", error)
        raise CheckpointError(f"{self.run}: has no checkpoint with a whole bundle")

    def check_model(self, checkpoint: Checkpoint, folder: Path, model: dict[str, Any]) -> list[str]:
        """The settings of the model in which a checked checkpoint differs from these, `name: there -> here`."""
        here = self.run.path(checkpoint.name) if self.run.is_local else folder / checkpoint.name
        address = self.run.address(checkpoint.name)
        try:
            there = read_bundle_info(here / BUNDLE_FOLDER).training["model"]
        except (BundleError, KeyError) as error:
            raise CheckpointError(f"{address}: its bundle cannot be read") from error
        return differences(there, model)

    def _look(self) -> tuple[list[Checkpoint], list[str]]:
        """The finished ones by step, and a line on each whose record cannot be read."""
        found, complaints = [], []
        for name in self._names():
            if self.run.size(f"{name}/{RECORD_FILE}") is None:
                continue  # never finished
            try:
                record = json.loads(self.run.read(f"{name}/{RECORD_FILE}"))
                if record["sha256"] != _digest_of(record["checkpoint"]):
                    raise ValueError("its checksum differs")
                found.append(Checkpoint(**record["checkpoint"]))
            except (OSError, ValueError, TypeError, KeyError) as error:
                complaints.append(f"{self.run.address(name)}: {RECORD_FILE} is damaged ({error})")
        return found, complaints

    def _names(self) -> list[str]:
        root, filesystem = self.run.for_arrow("")
        selector = pafs.FileSelector(root.rstrip("/"), allow_not_found=True)
        names = [Path(about.path).name for about in filesystem.get_file_info(selector)]
        return sorted(name for name in names if re.fullmatch(r"checkpoint_\d{9}", name))

    def _drop_old(self, step: int) -> None:
        """Removes what is neither the best nor one of the last. What lies after this step is damaged: it stays."""
        done = [checkpoint for checkpoint in self.recorded() if checkpoint.step <= step]
        best = max(done, key=lambda one: self.training.goodness(one.metrics))
        kept = {best.name, *(checkpoint.name for checkpoint in done[-_NUM_LAST:])}
        for name in self._names():
            if name not in kept and name <= _name(step):
                try:
                    self.run.delete(f"{name}/{RECORD_FILE}")  # first: what is left is not taken for whole
                    path, filesystem = self.run.for_arrow(name)
                    filesystem.delete_dir(path)
                except OSError as error:
                    logger.warning("%s: cannot be removed (%s)", self.run.address(name), error)


def _name(step: int) -> str:
    return f"checkpoint_{step:09d}"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_of(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
