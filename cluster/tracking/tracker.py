"""What is written of a run: TensorBoard event files and metrics.jsonl always, ClearML where it is configured or wanted.

Rank 0 writes all of it into the run's folder `tracking`. Curves come in series: train, val, noisy (the unprocessed
baseline that validation scores stand beside) and test. TensorBoard's tags are the names of metrics.jsonl, `pesq/val`;
its tab "Custom Scalars" and ClearML's plots show the curves under the names that people know, val and noisy in one.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from cluster.runs.folder import METRICS_FILE, TRACKING_FOLDER
from cluster.runs.transfer import WorkingCopy
from cluster.settings.experiment import ExperimentConfig
from cluster.settings.tracking import TrackingConfig
from cluster.tracking.clearml_task import ClearMLTask, clearml_mode
from cluster.tracking.pictures import pixels_of
from ww_data import Storage
from ww_models.quality import MEASURES

SERIES = ("train", "val", "noisy", "test")
# The curves that papers show, and what people call them.
_TITLES = {"loss": "loss"} | {
    name: f"{measure.title} ({measure.unit})" if measure.unit else measure.title
    for name, measure in MEASURES.items()
}


class Tracker:
    """Open one per run, in rank 0 only, and close it (it is a context manager): ClearML's task ends with it.

    No method waits for a server. Of a run at an address, what was written goes there with each `send`, and at the end.
    """

    def __init__(self, config: TrackingConfig, run: Storage, run_name: str, tags: Sequence[str] = ()) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.run_name = run_name
        self._copy = WorkingCopy(run, TRACKING_FOLDER)
        folder = self._copy.path
        self._metrics = _open_lines(folder / METRICS_FILE)
        self._board = SummaryWriter(str(folder / "tensorboard"))
        self._board.add_custom_scalars({"curves": _charts()})
        mode = clearml_mode(config.clearml)
        self._clearml = ClearMLTask(folder / "clearml", mode, config, run_name, tags) if mode else None

    def config(self, flat: Mapping[str, Any]) -> None:
        """Writes the resolved settings, {dotted path: value}, as hyperparameters."""
        table = "\n".join(f"| {name} | {value} |" for name, value in flat.items())
        self._board.add_text("config", f"| setting | value |\n|---|---|\n{table}", 0)
        if self._clearml is not None:
            self._clearml.config(flat)

    def started(self, step: int, *, node: str, node_ids: Sequence[str]) -> None:
        """Notes in the metrics file that training (re)started at a step, and where.

        node: the address of rank 0's. node_ids: Ray's, of the node of each worker.
        """
        nodes = sorted(set(node_ids))
        counts = {"num_workers": len(node_ids), "num_nodes": len(nodes)}
        self._note({"step": step, "series": "start", **counts, "node": node, "node_ids": nodes})

    def scalars(self, series: str, values: Mapping[str, float], step: int) -> None:
        """Adds one point to the curve `<name>/<series>` of each value; series: one of SERIES. NaN is left out."""
        if series not in SERIES:
            raise ValueError(f"series must be one of {', '.join(SERIES)}; got {series!r}")
        finite = {name: float(value) for name, value in values.items() if np.isfinite(value)}
        for name, value in finite.items():
            self._board.add_scalar(f"{name}/{series}", value, step)
        self._note({"step": step, "series": series, **finite})
        if self._clearml is not None:
            self._clearml.scalars(series, _by_title(finite), step)

    def _note(self, line: dict[str, Any]) -> None:
        self._metrics.write(json.dumps({**line, "time_s": round(time.time(), 3)}) + "\n")
        self._metrics.flush()

    def audio(self, name: str, signal_T: np.ndarray, sample_rate: int, step: int) -> None:
        """Adds a sound that can be played, scaled down where it exceeds full scale; what is not finite is silent."""
        import torch

        signal_T = np.nan_to_num(signal_T, posinf=0.0, neginf=0.0)
        played_T = signal_T / max(1.0, float(np.abs(signal_T).max(initial=0.0)))
        self._board.add_audio(name, torch.from_numpy(played_T)[None], step, sample_rate=sample_rate)
        if self._clearml is not None:
            self._clearml.audio(name, played_T, sample_rate, step)

    def image(self, name: str, figure: Any, step: int) -> None:
        """Adds a matplotlib figure."""
        pixels_HWC = pixels_of(figure)
        self._board.add_image(name, pixels_HWC, step, dataformats="HWC")
        if self._clearml is not None:
            self._clearml.image(name, pixels_HWC, step)

    def model(self, bundle: Path, metrics: Mapping[str, float]) -> None:
        """Registers a bundle as the run's output model; an offline session keeps it as the artifact "bundle"."""
        if self._clearml is not None:
            self._clearml.model(bundle, self.run_name, _by_title(metrics))

    def send(self) -> None:
        """Everything that was told so far is in the run's folder then."""
        self._board.flush()
        self._copy.send()

    def close(self, *, failed: bool = False) -> None:
        """Writes out everything, and ends ClearML's task as completed or failed.

        failed: an error is on its way, which those of writing (to a full disk, say) must not hide.
        """
        with contextlib.ExitStack() as stack:
            if failed:
                stack.enter_context(contextlib.suppress(OSError))
            stack.callback(self._copy.close)
            if self._clearml is not None:
                stack.callback(self._clearml.close, "failed" if failed else "completed")
            self._board.close()
            self._metrics.close()

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.close(failed=error is not None)


def open_tracker(config: ExperimentConfig, run: Storage, run_name: str, manifest_hash: str) -> Tracker:
    """The tracker of a run, which holds its settings and names its data and the commit of this code."""
    tags = [config.preset or config.model_name, f"manifest:{manifest_hash[:12]}"]
    tags += config.tracking.clearml_tags
    tags += [f"commit:{commit}" for commit in (code_commit(),) if commit]
    tracker = Tracker(config.tracking, run, run_name, tags)
    tracker.config(config.flat())
    return tracker


def code_commit() -> str:
    """The commit of the code that runs, with "-dirty" where tracked files were changed since; "" outside a checkout.

    Code that was copied or installed into some other project's checkout does not count: git must know this package.
    """
    git = ["git", "-C", str(Path(__file__).resolve().parent)]
    try:
        for command in (
            ["ls-files", "--error-unmatch", "__init__.py"],
            ["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
        ):
            done = subprocess.run([*git, *command], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):  # no git, no checkout, or one that git refuses to read
        return ""
    return done.stdout.strip()


def _open_lines(path: Path) -> TextIO:
    """For adding lines, also where the last one was torn by what ended the previous start."""
    is_torn = path.is_file() and path.read_bytes()[-1:] not in (b"", b"\n")
    lines = path.open("a", encoding="utf-8")
    if is_torn:
        lines.write("\n")
    return lines


def _by_title(values: Mapping[str, float]) -> dict[str, float]:
    """Scores by what people call them; `noisy_pesq` is "PESQ, noisy"."""
    titled = {}
    for name, value in values.items():
        plain = name.removeprefix("noisy_")
        title = _TITLES.get(plain, plain.replace("_", " "))
        titled[title if plain == name else f"{title}, noisy"] = value
    return titled


def _charts() -> dict[str, list[Any]]:
    """The layout of TensorBoard's tab of curves: each title's series in one chart."""
    return {
        f"val {title}" if name == "loss" else title: ["Multiline", [f"^{name}/(val|noisy|test)$"]]
        for name, title in _TITLES.items()
    }
