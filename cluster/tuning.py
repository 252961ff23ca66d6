"""A sweep: Ray Tune with Optuna over dotted settings, each trial a Ray Train run of its own.

The objective is a measure of the validation mixtures, never the weighted loss, which falls when the swept weights do.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import ray
import yaml
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.search.optuna import OptunaSearch

from cluster.errors import one_line
from cluster.machine.placement import check_placement
from cluster.runs.folder import BUNDLE_FOLDER
from cluster.settings.experiment import ConfigError, ExperimentConfig, nearest, parse_value, set_path
from cluster.training.checks import check_measure, check_rate
from cluster.training.run import run_training
from ww_data import Corpus, Storage, open_corpus
from ww_data.parallel import Progress
from ww_models import BundleError, read_bundle_info
from ww_models.quality import MEASURES
from ww_models.whole_files import write_whole

_TABLE_FILE, _TUNE_FOLDER = "sweep.json", ".tune"
TRIAL_CPUS = 0.01  # a trial only waits for its workers; Ray refuses 0, and a whole CPU would starve them


@dataclasses.dataclass(frozen=True)
class Dimension:
    """One swept setting. extremes: values of which each must be a valid setting; sampler: Ray Tune's."""

    path: str
    extremes: tuple[Any, ...]
    sampler: Any


@dataclasses.dataclass(frozen=True)
class SweepResult:
    """rows: one per trial, the one of the best `measure` first: name, the swept settings, scores, error."""

    rows: list[dict[str, Any]]
    measure: str
    folder: Path


def parse_space(expressions: Sequence[str], config: ExperimentConfig) -> list[Dimension]:
    """Reads `path=low..high`, `path=low..high:log` or `path=a,b,c`. Raises ConfigError naming what is wrong."""
    known = config.flat()
    dimensions = []
    for expression in expressions:
        path, separator, text = expression.partition("=")
        if not separator or not text:
            raise ConfigError(
                f"--space takes KEY=LOW..HIGH, KEY=LOW..HIGH:log or KEY=A,B,C; got {expression!r}"
            )
        if path not in known:
            raise ConfigError(f"unknown setting {path}{nearest(path, list(known))}")
        dimensions.append(_parse_dimension(path, text, whole=type(known[path]) is int))
    if not dimensions:
        raise ConfigError("a sweep needs at least one --space KEY=LOW..HIGH")
    if any(dimension.path == "model.sample_rate" for dimension in dimensions):
        raise ConfigError("model.sample_rate is that of the corpus, which has one: it cannot be swept")
    _check_values(dimensions, config)
    return dimensions


def _parse_dimension(path: str, text: str, *, whole: bool) -> Dimension:
    if ".." not in text:
        choices = tuple(parse_value(path, item) for item in text.split(","))
        return Dimension(path, choices, tune.choice(choices))
    span, _, scale = text.partition(":")
    if scale not in ("", "log"):
        raise ConfigError(f"{path}: a range may end in ':log'; got ':{scale}'")
    try:
        low, high = (float(end) for end in span.split("..", 1))
    except ValueError as error:
        raise ConfigError(f"{path}: {span!r} is not LOW..HIGH with two numbers") from error
    if not low <= high or not math.isfinite(high - low):
        raise ConfigError(f"{path}: the range {span} must run upwards between two finite numbers")
    if scale == "log" and low <= 0:
        raise ConfigError(f"{path}: a logarithmic range starts above 0; got {low:g}")
    if not whole:
        return Dimension(path, (low, high), (tune.loguniform if scale else tune.uniform)(low, high))
    if not (low.is_integer() and high.is_integer()):
        raise ConfigError(f"{path} takes whole numbers; got {span}")
    least, most = int(low), int(high)
    return Dimension(path, (least, most), (tune.lograndint if scale else tune.randint)(least, most + 1))


def _check_values(dimensions: Sequence[Dimension], config: ExperimentConfig) -> None:
    """Each end and each choice must be a valid setting, and some loss term must be able to weigh more than 0."""
    weights = {
        path: value for path, value in config.flat().items() if path.startswith("loss.") and "weight" in path
    }
    for dimension in dimensions:
        # Beside another loss term, since one weight alone may well be 0.
        other = "loss.stft_weight" if dimension.path == "loss.l1_weight" else "loss.l1_weight"
        for value in dimension.extremes:
            with_settings(config, {other: 1.0, dimension.path: value})
        if dimension.path in weights:
            weights[dimension.path] = max(dimension.extremes)
    if not any(weights.values()):
        raise ConfigError("in this space all weights of the loss are 0: there would be nothing to train on")


def with_settings(config: ExperimentConfig, settings: Mapping[str, Any]) -> ExperimentConfig:
    """The config with some dotted settings replaced, checked as any other."""
    values = config.to_dict()
    for path, value in settings.items():
        set_path(values, path, _plain(value))
    return ExperimentConfig.from_dict(values)


def _plain(value: Any) -> Any:
    """Samplers give numpy's numbers; settings are Python's."""
    return value.item() if isinstance(value, np.generic) else value


def check_sweep(
    config: ExperimentConfig,
    corpus_uri: str,
    storage: str | Path,
    name: str,
    trials: int,
    measure: str = "si_sdr_db",
    max_concurrent_trials: int = 1,
) -> tuple[Path, Corpus]:
    """The sweep's folder and its corpus, if all is well that can be told without Ray; raises like `run_sweep`."""
    if measure not in MEASURES:
        raise ConfigError(f"unknown measure {measure!r}; choose one of {', '.join(MEASURES)}")
    check_measure(config, measure)
    if trials < 1 or max_concurrent_trials < 1:
        raise ConfigError(
            f"trials and trials at a time must be at least 1; got {trials} and {max_concurrent_trials}"
        )
    if "://" in str(storage):
        raise ConfigError(f"a sweep keeps its runs in a folder that all nodes reach, not at {storage}")
    folder = Path(storage).resolve() / name
    if folder.exists():
        raise ConfigError(f"{folder} exists already{standing(folder, corpus_uri)}; choose another --name")
    Storage(folder).check_writable()
    corpus = open_corpus(corpus_uri)  # a damaged one ends the sweep, not each trial
    check_rate(config, corpus.sample_rate, corpus_uri)
    return folder, corpus


def standing(folder: Path, corpus_uri: str) -> str:
    """What a sweep has come to, and how to go on where it was cut; "" for a folder that holds none."""
    if (folder / _TABLE_FILE).exists():
        return ": a sweep that is done"
    names = sorted(path.name for path in folder.glob("trial_*"))
    done = [name for name in names if (folder / name / BUNDLE_FOLDER).exists()]
    words = [f"done with a bundle: {', '.join(done) or 'none'}"]
    if rest := [name for name in names if name not in done]:
        words.append(f"begun and without one: {', '.join(rest)}")
        go_on = (
            "python",
            "-m",
            "jobs.train",
            "--data",
            corpus_uri,
            "--storage",
            str(folder),
            "--resume",
            rest[0],
        )
        words.append(f"{shlex.join(go_on)} goes on with one")
    return f": a sweep that was cut ({'; '.join(words)})" if names or (folder / _TUNE_FOLDER).exists() else ""


def run_sweep(
    config: ExperimentConfig,
    dimensions: Sequence[Dimension],
    corpus_uri: str,
    storage: str | Path,
    name: str,
    *,
    trials: int,
    measure: str = "si_sdr_db",
    max_concurrent_trials: int = 1,
    progress: Progress | None = None,
) -> SweepResult:
    """Runs the trials on a connected Ray cluster; each is a run `<storage>/<name>/trial_*` with a bundle.

    progress: called with (trials done, trials in all, a few words) as results come in.
    Writes sweep.json (all rows) and best.yaml (a preset with the best settings) into `<storage>/<name>`.
    Raises ConfigError for a taken name or an unknown measure, PlacementError where one trial finds no room.
    """
    folder, corpus = check_sweep(config, corpus_uri, storage, name, trials, measure, max_concurrent_trials)
    share = ray.cluster_resources().get("CPU", 0.0) / max_concurrent_trials
    of_trials = dataclasses.replace(config, resources=config.resources.resolved(share))
    check_placement(of_trials.resources)
    trainable = tune.with_parameters(
        _run_trial, values=of_trials.to_dict(), corpus_uri=corpus.storage.uri, folder=str(folder)
    )
    callbacks: list[tune.Callback] = [_ProgressCallback(trials, measure, progress)]
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"CPU": TRIAL_CPUS}),
        param_space={dimension.path: dimension.sampler for dimension in dimensions},
        tune_config=tune.TuneConfig(
            metric=measure,
            mode="max",
            num_samples=trials,
            max_concurrent_trials=max_concurrent_trials,
            search_alg=OptunaSearch(seed=config.seed),
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name=_TUNE_FOLDER, storage_path=str(folder), verbose=0, callbacks=callbacks
        ),
    )
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the commands draw their own progress
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it tells of each study
    # Tune would return as if all were done; a KeyboardInterrupt leaves through the caller's `connect()`.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    return _summarise(tuner.fit(), dimensions, config, measure, folder)


def _trial_name(trial: Any) -> str:
    return f"trial_{trial.trial_id}"


class _ProgressCallback(tune.Callback):
    """Passes on how far a sweep is: trials done, and the best score so far."""

    def __init__(self, trials: int, measure: str, progress: Progress | None) -> None:
        self._trials, self._measure, self._progress = trials, measure, progress
        self._done, self._best = 0, -math.inf

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self._best = max(self._best, result.get(self._measure, -math.inf))
        self._tell(f"{trial} at step {result.get('step', 0)}")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._done += 1
        self._tell("")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._done += 1
        self._tell(f"{trial} failed")

    def _tell(self, note: str) -> None:
        if self._progress is not None:
            best = f"best {self._measure} {self._best:.3f}" if math.isfinite(self._best) else ""
            self._progress(self._done, self._trials, ", ".join(part for part in (best, note) if part))


def _run_trial(settings: dict[str, Any], values: dict[str, Any], corpus_uri: str, folder: str) -> None:
    config = with_settings(ExperimentConfig.from_dict(values), settings)
    trial = tune.get_context().get_trial_name()
    run_training(config, corpus_uri, folder, trial, ray_callbacks=[TuneReportCallback()], show_progress=False)


def _summarise(
    results: Any, dimensions: Sequence[Dimension], config: ExperimentConfig, measure: str, folder: Path
) -> SweepResult:
    rows = [_row(result, dimensions, folder) for result in results]
    rows.sort(key=lambda row: (bool(row["error"]), -row.get(measure, -math.inf)))
    if all(row["error"] for row in rows):
        raise ConfigError(f"all {len(rows)} trials failed; the first one: {rows[0]['error']}")
    best = with_settings(config, {dimension.path: rows[0][dimension.path] for dimension in dimensions})
    table = json.dumps({"metric": measure, "rows": rows}, indent=2)
    preset = yaml.safe_dump(best.to_dict(), sort_keys=False)
    write_whole({folder / _TABLE_FILE: table.encode(), folder / "best.yaml": preset.encode()})
    return SweepResult(rows, measure, folder)


def _row(result: Any, dimensions: Sequence[Dimension], folder: Path) -> dict[str, Any]:
    """One trial's line of the table; its scores are those of the bundle it leaves, which is its best checkpoint."""
    trial = Path(result.path).name
    row = {"trial": trial} | {d.path: _plain((result.config or {}).get(d.path)) for d in dimensions}
    if result.error:
        return row | {"error": one_line(result.error)[-300:]}
    try:
        scores = read_bundle_info(folder / trial / BUNDLE_FOLDER).metrics["enhanced"]
    except BundleError as error:
        return row | {"error": f"it ended without a bundle: {one_line(error)}"}
    return row | {name: scores[name] for name in MEASURES if name in scores} | {"error": ""}
