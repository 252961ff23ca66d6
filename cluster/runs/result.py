"""What a training run has come to: the bundle of its best checkpoint, its scores, and how fast it went."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from pathlib import Path
from typing import Any

from cluster.runs.checkpoints import Checkpoints
from cluster.runs.folder import BUNDLE_FOLDER, METRICS_FILE, TRACKING_FOLDER, parse_lines
from cluster.runs.transfer import replace_folder
from cluster.settings.experiment import ExperimentConfig
from cluster.settings.training import SCORES
from ww_data import Storage
from ww_models.perceptual import pesq_note
from ww_models.quality import MEASURES


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """run: its folder, here or at an address, and in it the last checkpoint, from which a resume starts.

    scores: validation metrics of the bundle, of step `best_step`; last_scores: of the last step, which is `steps`.
    score: the metric that best means. audio_hours: trained on, over all workers and starts. audio_s_per_s: seconds
    of audio per second while training (validations aside), and data_wait_fraction: the part of that time that rank 0
    stood still for data; both NaN for a run too short to tell. wall_s: of this start. skipped_steps: left out for a
    loss or gradients that were not finite, of `steps`. sample_rate: of model and corpus, in Hz.
    """

    run: Storage
    scores: dict[str, float]
    steps: int
    wall_s: float
    score: str = "si_sdr_db"
    best_step: int = 0
    last_scores: dict[str, float] = dataclasses.field(default_factory=dict)
    last_checkpoint: str = ""
    audio_hours: float = math.nan
    audio_s_per_s: float = math.nan
    data_wait_fraction: float = math.nan
    skipped_steps: int = 0
    sample_rate: int = 16_000

    @property
    def run_dir(self) -> Path:
        """The run's folder on this machine. StorageError for one at an address."""
        return self.run.path()

    @property
    def bundle(self) -> Path:
        """The bundle of the best checkpoint on this machine. StorageError for one at an address."""
        return self.run.path(BUNDLE_FOLDER)

    def table(self) -> str:
        """All of it in plain lines for people."""
        first = f"{self.steps} steps, {self.audio_hours:.2f} h of audio in {spoken_duration(self.wall_s)}"
        if math.isfinite(self.audio_s_per_s):
            waits = f"waiting for data {self.data_wait_fraction:.0%}"
            first += f" ({self.audio_s_per_s:.0f} s of audio per second, {waits})"
        lines = [first]
        if self.skipped_steps:
            lines.append(f"{self.skipped_steps} steps left out: loss or gradients not finite")
        lines.append("on unseen validation mixtures:")
        lines.append(f"  {'':10} {'noisy':>9} {f'step {self.best_step}':>12} {f'step {self.steps}':>12}")
        lines.append(f"  {'':10} {'':>9} {'best':>12} {'last':>12}")
        for name in SCORES:
            columns = (self.scores.get(f"noisy_{name}"), self.scores.get(name), self.last_scores.get(name))
            if columns[1] is None:
                continue
            noisy, best, last = ("" if value is None else f"{value:.3f}" for value in columns)
            chosen = "  <- decides" if name == self.score else ""
            title = MEASURES[name].label if name in MEASURES else name
            lines.append(f"  {title:10} {noisy:>9} {best:>12} {last:>12}{chosen}")
        if note := pesq_note(self.sample_rate):
            lines.append(f"  {note}")
        lines.append(f"run:    {self.run}")
        lines.append(f"bundle: {self.run.address(BUNDLE_FOLDER)} (the best)")
        if self.last_checkpoint:
            lines.append(f"last:   {self.run.address(self.last_checkpoint)}")
        lines.append(f"curves: tensorboard --logdir {self.run.address(TRACKING_FOLDER)}")
        return "\n".join(lines)


def spoken_duration(seconds: float) -> str:
    """45 s, 12 min, 3 h 20 min"""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def collect_result(config: ExperimentConfig, run: Storage, item_s: float, wall_s: float) -> TrainingResult:
    """Copies the bundle of the best checkpoint to where people look for it; the last one stays, to resume from.

    item_s: seconds of audio of one item. Raises CheckpointError where no bundle is whole.
    """
    checkpoints = Checkpoints(run, config.training)
    lines = parse_lines(run.read(f"{TRACKING_FOLDER}/{METRICS_FILE}").decode("utf-8"))
    with tempfile.TemporaryDirectory(prefix="ww-bundle-") as folder:
        best, bundle = checkpoints.best_bundle(Path(folder))
        replace_folder(bundle, run, BUNDLE_FOLDER)
    last = checkpoints.recorded()[-1]
    audio_s_per_s, data_wait_fraction = _speed(lines)
    return TrainingResult(
        run=run,
        scores=only_scores(best.metrics),
        steps=last.step,
        wall_s=wall_s,
        score=config.training.score,
        best_step=best.step,
        last_scores=only_scores(last.metrics),
        last_checkpoint=last.name,
        audio_hours=last.step * config.training.items_per_step * item_s / 3600,
        audio_s_per_s=audio_s_per_s,
        data_wait_fraction=data_wait_fraction,
        skipped_steps=int(last.metrics.get("skipped_steps", 0)),
        sample_rate=config.model.sample_rate,
    )


def only_scores(metrics: dict[str, Any]) -> dict[str, float]:
    """The metrics of a checkpoint without its counts."""
    return {name: value for name, value in metrics.items() if isinstance(value, float)}


def _speed(lines: list[dict[str, Any]]) -> tuple[float, float]:
    """The mean speed and data wait of a run's training curves; each of their points is over the same steps."""
    points = [line for line in lines if line["series"] == "train" and line.get("audio_s_per_s", 0) > 0]
    if not points:
        return math.nan, math.nan
    time_per_audio = [1 / point["audio_s_per_s"] for point in points]
    waited = [point.get("data_wait_fraction", 0.0) / point["audio_s_per_s"] for point in points]
    return len(points) / sum(time_per_audio), sum(waited) / sum(time_per_audio)
