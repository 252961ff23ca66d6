"""Who hears of a run: TensorBoard event files and metrics.jsonl always, ClearML where it is configured or wanted.

All of it is written by rank 0 into the run's folder, under three series: train, val and noisy (the unprocessed
baseline that validation scores stand beside).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """What is written down and where.

    clearml: auto uses a ClearML server where one is configured (CLEARML_API_HOST and keys, or clearml.conf) and none
        otherwise; offline writes a session for `Task.import_offline_session` to upload later; never is never.
    clearml_project: the project its tasks appear in.
    log_every_steps: steps between two points of the training curves.
    """

    clearml: Literal["auto", "offline", "never"] = "auto"
    clearml_project: str = "Wave Wizard"
    log_every_steps: int = 10

    def __post_init__(self) -> None:
        if self.log_every_steps < 1:
            raise ValueError(f"log_every_steps must be at least 1; got {self.log_every_steps}")


class Tracker:
    """Open one per run, in rank 0 only, and close it (it is a context manager): ClearML loses what is not closed.

    scalars("val", {"si_sdr_db": 9.1}, step), audio(name, signal (T,), sample_rate, step), image(name, figure, step),
    config({dotted path: value}), model(path to a bundle).
    """

    def __init__(
        self, config: TrackingConfig, folder: Path, run_name: str, *, tags: list[str] | None = None
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._offline = config.clearml == "offline"
        self.task = _open_clearml(config, folder, run_name, tags or [])
        from torch.utils.tensorboard import SummaryWriter  # after ClearML, which listens in on it

        self._board = SummaryWriter(str(folder / "tensorboard"))
        self._journal = (folder / "metrics.jsonl").open("a", encoding="utf-8")

    def config(self, flat: Mapping[str, Any]) -> None:
        """Writes the resolved settings, {dotted path: value}, as hyperparameters."""
        table = "\n".join(f"| {name} | {value} |" for name, value in flat.items())
        self._board.add_text("config", f"| setting | value |\n|---|---|\n{table}", 0)
        if self.task is not None:
            for name, value in flat.items():
                section, _, leaf = name.rpartition(".")
                self.task.set_parameter(f"{section or 'run'}/{leaf}", value)

    def started(self, step: int, *, num_workers: int, num_nodes: int) -> None:
        """Notes in the journal that training (re)started at a step, and on how many workers and nodes."""
        self._note({"step": step, "series": "start", "num_workers": num_workers, "num_nodes": num_nodes})

    def scalars(self, series: str, values: Mapping[str, float], step: int) -> None:
        """Adds one point to the curve `<series>/<name>` of each value. NaN is left out."""
        finite = {name: float(value) for name, value in values.items() if np.isfinite(value)}
        for name, value in finite.items():
            self._board.add_scalar(f"{name}/{series}", value, step)
        self._note({"step": step, "series": series, **finite})

    def _note(self, line: dict[str, Any]) -> None:
        self._journal.write(json.dumps({**line, "time_s": round(time.time(), 3)}) + "\n")
        self._journal.flush()

    def audio(self, name: str, signal_T: np.ndarray, sample_rate: int, step: int) -> None:
        """Adds a sound that can be played, scaled down where it exceeds full scale."""
        import torch

        peak = max(1.0, float(np.abs(signal_T).max(initial=0.0)))
        self._board.add_audio(name, torch.from_numpy(signal_T / peak)[None], step, sample_rate=sample_rate)

    def image(self, name: str, figure: Any, step: int) -> None:
        """Adds a matplotlib figure, which is closed."""
        self._board.add_figure(name, figure, step, close=True)

    def model(self, bundle: Path, metrics: Mapping[str, float]) -> None:
        """Registers a bundle as the run's output model; an offline session keeps it as an artifact (ClearML's own
        model objects do not work offline)."""
        if self.task is None:
            return
        if self._offline:
            self.task.upload_artifact("bundle", artifact_object=str(bundle), wait_on_upload=True)
        else:
            from clearml import OutputModel

            output = OutputModel(task=self.task, name=self.folder.parent.name, framework="PyTorch")
            output.update_weights_package(weights_path=str(bundle), auto_delete_file=False)
        for name, value in metrics.items():
            self.task.get_logger().report_single_value(name, value)

    def close(self) -> None:
        """Writes out everything; safe to call twice."""
        self._board.close()
        self._journal.close()
        if self.task is not None:
            self.task.close()
            self.task = None

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def clearml_is_configured() -> bool:
    """Whether a ClearML server is named by the environment or a clearml.conf."""
    if os.environ.get("CLEARML_API_HOST") and os.environ.get("CLEARML_API_ACCESS_KEY"):
        return True
    conf = os.environ.get("CLEARML_CONFIG_FILE") or "~/clearml.conf"
    return Path(conf).expanduser().is_file()


def _open_clearml(config: TrackingConfig, folder: Path, run_name: str, tags: list[str]) -> Any:
    """A ClearML task, or None. A resumed run continues the task whose id its folder keeps."""
    if config.clearml == "never" or (config.clearml == "auto" and not clearml_is_configured()):
        return None
    offline = config.clearml == "offline"
    if offline:
        # Offline sessions lie in ClearML's cache folder, by default in the user's home: keep them with the run.
        os.environ["CLEARML_CACHE_DIR"] = str(folder / "clearml")
    from clearml import Task

    Task.set_offline(offline)
    known = folder / "clearml_task.txt"
    previous = known.read_text().strip() if known.is_file() and not offline else ""
    task: Any = Task.init(
        project_name=config.clearml_project,
        task_name=run_name,
        tags=tags,
        reuse_last_task_id=False,
        continue_last_task=previous or False,
        auto_connect_arg_parser=False,
        auto_connect_streams=False,
        auto_resource_monitoring=not offline,
        auto_connect_frameworks={
            "tensorboard": True,
            "pytorch": False,
            "matplotlib": False,
            "detect_repository": False,
        },
    )
    if previous:
        task.set_initial_iteration(0)  # our steps are absolute; ClearML would add the last one to them
    _write_atomically(known, task.id)
    return task


def _write_atomically(path: Path, text: str) -> None:
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as temporary:
        temporary.write(text)
    with contextlib.suppress(OSError):
        Path(temporary.name).chmod(0o644)
    Path(temporary.name).replace(path)
