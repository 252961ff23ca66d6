"""A sweep: Ray Tune with Optuna over dotted settings, or tries one by one; each trial a Ray Train run of its own.

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

import optuna
import ray
import yaml
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.search.optuna import OptunaSearch

from cluster.errors import one_line
from cluster.machine.placement import check_placement
from cluster.runs.folder import BUNDLE_FOLDER
from cluster.settings.experiment import ConfigError, ExperimentConfig
from cluster.training.checks import check_measure, check_rate
from cluster.training.run import run_training
from cluster.tuning.space import Dimension, plain, with_settings
from cluster.tuning.tries import Try
from ww_data import Corpus, Storage, open_corpus
from ww_data.parallel import Progress
from ww_models import BundleError, read_bundle_info
from ww_models.quality import VALIDATION_MEASURES
from ww_models.whole_files import write_whole

_TABLE_FILE, _TUNE_FOLDER = "sweep.json", ".tune"
_TRY = "try"  # the one parameter of trials that are tries
TRIAL_CPUS = 0.01  # a trial only waits for its workers; Ray refuses 0, and a whole CPU would starve them


@dataclasses.dataclass(frozen=True)
class SweepResult:
    """rows: one per trial, the one of the best `measure` first: name, its settings or change, scores, error."""

    rows: list[dict[str, Any]]
    measure: str
    folder: Path


def check_sweep(
    configs: Sequence[ExperimentConfig],
    corpus_uri: str,
    storage: str | Path,
    name: str,
    trials: int,
    measure: str = "si_sdr_db",
    max_concurrent_trials: int = 1,
) -> tuple[Path, Corpus]:
    """The sweep's folder and its corpus, if all is well that can be told without Ray; raises like `run_sweep`.

    configs: what trials start from.
    """
    if measure not in VALIDATION_MEASURES:
        raise ConfigError(f"unknown measure {measure!r}; choose one of {', '.join(VALIDATION_MEASURES)}")
    for config in configs:
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
    for config in configs:
        check_rate(config, corpus.sample_rate, corpus_uri)
    return folder, corpus


def standing(folder: Path, corpus_uri: str) -> str:
    """What a sweep has come to, and how to go on where it was cut; "" for a folder that holds none."""
    if (folder / _TABLE_FILE).exists():
        return ": a sweep that is done"
    names = sorted(path.name for path in folder.glob("*") if path.is_dir() and path.name != _TUNE_FOLDER)
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
    folder, corpus = check_sweep([config], corpus_uri, storage, name, trials, measure, max_concurrent_trials)
    values = _checked_values(config, max_concurrent_trials)
    trainable = tune.with_parameters(
        _run_trial, values=values, corpus_uri=corpus.storage.uri, folder=str(folder)
    )
    space = {dimension.path: dimension.sampler for dimension in dimensions}
    search = {"num_samples": trials, "search_alg": OptunaSearch(seed=config.seed)}
    results = _run(trainable, space, folder, trials, measure, max_concurrent_trials, progress, search)
    drawn = [{path: plain((result.config or {}).get(path)) for path in space} for result in results]
    rows = [_row(result, settings, folder) for result, settings in zip(results, drawn, strict=True)]
    rows = _best_first(rows, measure)
    best = with_settings(config, {path: rows[0][path] for path in space})
    return _summarise(rows, best, measure, folder)


def run_tries(
    tries: Mapping[str, Try],
    corpus_uri: str,
    storage: str | Path,
    name: str,
    *,
    measure: str = "si_sdr_db",
    max_concurrent_trials: int = 1,
    progress: Progress | None = None,
) -> SweepResult:
    """Runs each try once; otherwise as `run_sweep`, and each run has the name of its try."""
    configs = [one.config for one in tries.values()]
    folder, corpus = check_sweep(
        configs, corpus_uri, storage, name, len(tries), measure, max_concurrent_trials
    )
    values = {each: _checked_values(one.config, max_concurrent_trials) for each, one in tries.items()}
    trainable = tune.with_parameters(
        _run_try, values=values, corpus_uri=corpus.storage.uri, folder=str(folder)
    )
    space = {_TRY: tune.grid_search(list(tries))}
    results = _run(trainable, space, folder, len(tries), measure, max_concurrent_trials, progress, {})
    rows = [_row(result, {"change": tries[_name_of(result)].in_words}, folder) for result in results]
    rows = _best_first(rows, measure)
    return _summarise(rows, tries[rows[0]["trial"]].config, measure, folder)


def _checked_values(config: ExperimentConfig, concurrent: int) -> dict[str, Any]:
    """A trial's settings, its resources within its share of the cluster. PlacementError where they find no room."""
    share = ray.cluster_resources().get("CPU", 0.0) / concurrent
    resources = config.resources.resolved(share)
    check_placement(resources)
    return dataclasses.replace(config, resources=resources).to_dict()


def _run(
    trainable: Any,
    space: dict[str, Any],
    folder: Path,
    trials: int,
    measure: str,
    concurrent: int,
    progress: Progress | None,
    search: dict[str, Any],
) -> Any:
    """search: what Tune is told of how values are chosen, where it is not all of a grid."""
    callbacks: list[tune.Callback] = [_ProgressCallback(trials, measure, progress)]
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"CPU": TRIAL_CPUS}),
        param_space=space,
        tune_config=tune.TuneConfig(
            metric=measure,
            mode="max",
            max_concurrent_trials=concurrent,
            **search,
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
    return tuner.fit()


def _trial_name(trial: Any) -> str:
    return str(trial.config.get(_TRY) or f"trial_{trial.trial_id}")


def _name_of(result: Any) -> str:
    return Path(result.path).name


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
    _train(with_settings(ExperimentConfig.from_dict(values), settings), corpus_uri, folder)


def _run_try(settings: dict[str, Any], values: dict[str, Any], corpus_uri: str, folder: str) -> None:
    _train(ExperimentConfig.from_dict(values[settings[_TRY]]), corpus_uri, folder)


def _train(config: ExperimentConfig, corpus_uri: str, folder: str) -> None:
    trial = tune.get_context().get_trial_name()
    run_training(config, corpus_uri, folder, trial, ray_callbacks=[TuneReportCallback()], show_progress=False)


def _best_first(rows: list[dict[str, Any]], measure: str) -> list[dict[str, Any]]:
    if all(row["error"] for row in rows):
        raise ConfigError(f"all {len(rows)} trials failed; the first one: {rows[0]['error']}")
    return sorted(rows, key=lambda row: (bool(row["error"]), -row.get(measure, -math.inf)))


def _summarise(rows: list[dict[str, Any]], best: ExperimentConfig, measure: str, folder: Path) -> SweepResult:
    table = json.dumps({"metric": measure, "rows": rows}, indent=2)
    preset = yaml.safe_dump(best.to_dict(), sort_keys=False)
    write_whole({folder / _TABLE_FILE: table.encode(), folder / "best.yaml": preset.encode()})
    return SweepResult(rows, measure, folder)


def _row(result: Any, settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One trial's line of the table; its scores are those of the bundle it leaves, which is its best checkpoint."""
    trial = _name_of(result)
    row = {"trial": trial, **settings}
    if result.error:
        return row | {"error": one_line(result.error)[-300:]}
    try:
        scores = read_bundle_info(folder / trial / BUNDLE_FOLDER).metrics["enhanced"]
    except BundleError as error:
        return row | {"error": f"it ended without a bundle: {one_line(error)}"}
    return row | {name: scores[name] for name in VALIDATION_MEASURES if name in scores} | {"error": ""}
