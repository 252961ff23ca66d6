"""Who hears of a run: TensorBoard event files and metrics.jsonl always, ClearML where it is configured or wanted.

All of it is written by rank 0 into the run's folder. Curves come in series: train, val, noisy (the unprocessed
baseline that validation scores stand beside) and test. TensorBoard's tags are the names of metrics.jsonl, `pesq/val`;
its tab "Custom Scalars" and ClearML's plots show the curves under the names that people know, val and noisy in one.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TextIO

import numpy as np

from cluster.tracking.clearml_task import ClearMLTask, clearml_mode
from cluster.tracking.pictures import pixels_of

SERIES = ("train", "val", "noisy", "test")
# The curves that papers show, and what people call them.
TITLES = {"loss": "loss", "pesq": "PESQ", "stoi": "STOI", "snr_db": "SNR (dB)", "si_sdr_db": "SI-SDR (dB)"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """What is written down and where.

    clearml: auto uses a ClearML server where one is configured (CLEARML_API_HOST and keys, or clearml.conf) and none
        otherwise; offline writes a session for `Task.import_offline_session` to upload later; never is never.
    clearml_project: the project its tasks appear in.
    clearml_close_s: how long the end of a run lets a slow server take what is left (the model, say); what it has not
        taken then becomes an offline session. A server that does not answer at all is given up within seconds.
    log_every_steps: steps between two points of the training curves.
    """

    clearml: Literal["auto", "offline", "never"] = "auto"
    clearml_project: str = "Wave Wizard"
    clearml_close_s: float = 120.0
    log_every_steps: int = 10

    def __post_init__(self) -> None:
        if self.log_every_steps < 1:
            raise ValueError(f"log_every_steps must be at least 1; got {self.log_every_steps}")
        if not 0 < self.clearml_close_s < float("inf"):
            raise ValueError(f"clearml_close_s must be above 0; got {self.clearml_close_s}")


class Tracker:
    """Open one per run, in rank 0 only, and close it (it is a context manager): ClearML's task ends with it.

    scalars("val", {"si_sdr_db": 9.1}, step), audio(name, signal (T,), sample_rate, step), image(name, figure, step),
    config({dotted path: value}), model(path to a bundle, its scores). None of them waits for a server.
    """

    def __init__(
        self, config: TrackingConfig, folder: Path, run_name: str, *, tags: list[str] | None = None
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        self.run_name = run_name
        self._board = SummaryWriter(str(folder / "tensorboard"))
        self._board.add_custom_scalars({"curves": _charts()})
        self._journal = _open_journal(folder / "metrics.jsonl")
        self._clearml = _open_clearml(config, folder, run_name, tags or [])

    def config(self, flat: Mapping[str, Any]) -> None:
        """Writes the resolved settings, {dotted path: value}, as hyperparameters."""
        table = "\n".join(f"| {name} | {value} |" for name, value in flat.items())
        self._board.add_text("config", f"| setting | value |\n|---|---|\n{table}", 0)
        if self._clearml is not None:
            self._clearml.config(flat)

    def started(self, step: int, *, num_workers: int, num_nodes: int) -> None:
        """Notes in the journal that training (re)started at a step, and on how many workers and nodes."""
        self._note({"step": step, "series": "start", "num_workers": num_workers, "num_nodes": num_nodes})

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
        self._journal.write(json.dumps({**line, "time_s": round(time.time(), 3)}) + "\n")
        self._journal.flush()

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

    def flush(self) -> None:
        """Everything that was told is in the files now (the journal's lines always are)."""
        self._board.flush()

    def close(self, *, failed: bool = False) -> None:
        """Writes out everything, and ends ClearML's task as completed or failed; safe to call twice."""
        try:
            self._board.close()
            self._journal.close()
        finally:  # also where the disk is full
            if self._clearml is not None:
                clearml, self._clearml = self._clearml, None
                clearml.close("failed" if failed else "completed")

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(failed=error is not None)


def _open_journal(path: Path) -> TextIO:
    """For adding lines, also where the last one was torn by what ended the previous start."""
    with path.open("a+b") as written:
        written.seek(max(0, written.tell() - 1))
        is_torn = written.read(1) not in (b"", b"\n")
    journal = path.open("a", encoding="utf-8")
    if is_torn:
        journal.write("\n")
    return journal


def _open_clearml(config: TrackingConfig, folder: Path, run_name: str, tags: list[str]) -> ClearMLTask | None:
    mode = clearml_mode(config.clearml)
    if mode is None:
        return None
    return ClearMLTask(
        folder / "clearml",
        mode,
        project=config.clearml_project,
        run_name=run_name,
        tags=tags,
        close_s=config.clearml_close_s,
    )


def _by_title(values: Mapping[str, float]) -> dict[str, float]:
    """Scores by what people call them; `noisy_pesq` is "PESQ, noisy"."""
    titled = {}
    for name, value in values.items():
        plain = name.removeprefix("noisy_")
        title = TITLES.get(plain, plain.replace("_", " "))
        titled[title if plain == name else f"{title}, noisy"] = value
    return titled


def _charts() -> dict[str, list[Any]]:
    """The layout of TensorBoard's tab of curves: each title's series in one chart."""
    return {
        f"val {title}" if name == "loss" else title: ["Multiline", [f"^{name}/(val|noisy|test)$"]]
        for name, title in TITLES.items()
    }
