"""A sweep: Ray Tune over the settings of a plan, each trial a Ray Train run of its own somewhere on the cluster.

Ray Tune says which runs go on at the same time, and starts those again whose node has died. What is tried next, what is
pruned and what there is to go on from is the ledger's to say; nothing of Ray Tune's own state outlives a start.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from cluster.errors import last_line, one_line
from cluster.machine.placement import PlacementError, check_placement, nodes_of
from cluster.runs.folder import BUNDLE_FOLDER, RunInUseError
from cluster.settings.experiment import ConfigError
from cluster.settings.resources import ResourcesConfig
from cluster.training.checks import check_rate
from cluster.training.run import run_training
from cluster.tuning.ledger import Ledger, read_ledger
from cluster.tuning.plan import TRY, Plan
from cluster.tuning.results import SweepResult, conclude
from cluster.tuning.tracking import sweep_task
from ww_data import Storage, open_corpus

_TUNE_FOLDER = ".tune"
TRIAL_CPUS = 0.01  # a trial only waits for its workers; Ray refuses 0, and a whole CPU would starve them
MAX_TRIAL_FAILURES = 3  # of the process that waits, with its node
_MAX_WAIT_S, _LOOK_EVERY_S = 3600.0, 5.0


def open_sweep(plan: Plan | None, corpus_uri: str, storage: str | Path, name: str) -> Ledger:
    """The sweep `<storage>/<name>`, new or to go on with, if all is well that can be told without Ray.

    plan: None for the one that the sweep has. Of one that goes on, trials, runs at a time and the time budget may be
    others than before. Raises ConfigError where what decides its results is not the same (the differences are named),
    or the folder is something else; CorpusError for damaged data.
    """
    if "://" in str(storage):
        raise ConfigError(f"a sweep keeps its runs in a folder that all nodes reach, not at {storage}")
    folder = Path(storage).resolve() / name
    if plan is not None and not folder.exists():
        Storage(folder).check_writable()
    corpus = open_corpus(corpus_uri)  # a damaged one ends the sweep, not each trial
    if plan is None or folder.exists():
        ledger = read_ledger(folder, corpus)
        if plan is None:
            return ledger
        if changed := ledger.plan.differences(plan):
            raise ConfigError(
                f"{folder} is a sweep with other settings ({'; '.join(changed)}); go on with those it has (--resume "
                f"{name}), or choose another --name"
            )
        # The order of --space, which decides which point of a grid is the third, stays what it was.
        plan = dataclasses.replace(plan, dimensions=ledger.plan.dimensions)
        return Ledger(folder, plan, corpus, list(ledger.trials.values()), ledger.spent_s)
    for config in plan.configs.values():
        check_rate(config, corpus.sample_rate, corpus_uri)
    return Ledger(folder, plan, corpus)


def run_sweep(ledger: Ledger) -> SweepResult:
    """Runs what is left of a sweep, which this process holds, on a connected Ray cluster.

    Each run is `<storage>/<name>/<trial>` and ends with a bundle. Writes sweep.json at each change, and best.yaml.
    Raises PlacementError where one run finds no room, ConfigError if all have failed.
    """
    plan = ledger.plan
    resources = {name: _share(config.resources, plan.concurrent) for name, config in plan.configs.items()}
    for one in resources.values():
        check_placement(one)
    shutil.rmtree(ledger.folder / _TUNE_FOLDER, ignore_errors=True)  # of a start that was killed
    with sweep_task(ledger) as task:
        try:
            _run_trials(ledger, resources, task.of_trials)
        finally:
            shutil.rmtree(ledger.folder / _TUNE_FOLDER, ignore_errors=True)
        result = conclude(ledger)
        task.conclude(result)
    return result


def _share(resources: ResourcesConfig, concurrent: int) -> ResourcesConfig:
    """What one of several runs takes of the cluster."""
    node_cpus = [node["Resources"].get("CPU", 0.0) for node in nodes_of(resources.worker_nodes)]
    share = sum(node_cpus) / concurrent
    threads = resources.torch_threads
    if concurrent > 1 and not threads:  # it would count all cores of its node as its own
        threads = max(1, int(min(share, max(node_cpus, default=0.0)) / resources.num_workers))
    return dataclasses.replace(resources.resolved(share, node_cpus), torch_threads=threads)


def _run_trials(
    ledger: Ledger, resources: Mapping[str, ResourcesConfig], tracking: Mapping[str, Any]
) -> None:
    plan = ledger.plan
    trainable = tune.with_parameters(
        _run_trial,
        plan=plan,
        resources=dict(resources),
        tracking=dict(tracking),
        corpus_uri=ledger.corpus.storage.uri,
        folder=str(ledger.folder),
    )
    left_s = max(1.0, 60 * plan.budget_minutes - ledger.spent_s) if plan.budget_minutes else None
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"CPU": TRIAL_CPUS}),
        tune_config=tune.TuneConfig(
            metric=plan.metric,
            mode="max",
            num_samples=-1,  # the dealer says when it is over
            max_concurrent_trials=plan.concurrent,
            search_alg=_Dealer(ledger),
            scheduler=_Judge(ledger),
            time_budget_s=left_s,
            trial_name_creator=_name_of,
            trial_dirname_creator=_name_of,
        ),
        run_config=tune.RunConfig(
            name=_TUNE_FOLDER,
            storage_path=str(ledger.folder),
            verbose=0,
            callbacks=[_Clerk(ledger)],
            failure_config=tune.FailureConfig(max_failures=MAX_TRIAL_FAILURES),
        ),
    )
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the commands draw their own progress
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"  # a measure may be undefined at a validation
    os.environ.setdefault("TUNE_PRINT_ALL_TRIAL_ERRORS", "0")  # they are said in a line each
    # Tune would return as if all were done; a KeyboardInterrupt leaves through the caller's `connect()`.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    tuner.fit()


def _name_of(trial: Any) -> str:
    return str(trial.config["trial"])


class _Dealer(Searcher):
    """Hands Ray Tune the ledger's trials."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(metric=ledger.plan.metric, mode="max")
        self._ledger = ledger

    def suggest(self, trial_id: str) -> Any:
        trial = None if self._ledger.is_out_of_time else self._ledger.take()
        if trial is None:
            return Searcher.FINISHED
        return {"trial": trial.name, "values": trial.values, "repeat": trial.repeat}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        pass

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).touch()  # nothing is read back: the ledger is what a sweep goes on from

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("no start of a sweep goes on from Ray Tune's own state")


class _Judge(FIFOScheduler):
    """Writes down what trials report, and ends those that the ledger says are behind."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self._ledger = ledger

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        name = _name_of(trial)
        if failure := result.get(_FAILURE):
            self._ledger.end(name, "failed", failure)
            return TrialScheduler.CONTINUE
        self._ledger.add_point(name, result)
        if not self._ledger.is_behind(name):
            return TrialScheduler.CONTINUE
        self._ledger.end(name, "pruned")
        return TrialScheduler.STOP


class _Clerk(tune.Callback):
    """Writes down how trials end."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        name = _name_of(trial)
        # Ray Tune calls those complete, too, which it ends because the time is up.
        if (
            self._ledger.trials[name].state == "running"
            and (self._ledger.folder / name / BUNDLE_FOLDER).is_dir()
        ):
            self._ledger.end(name, "done")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._ledger.end(_name_of(trial), "failed", last_line(trial.get_error() or "its process died")[:300])


_FAILURE = "failure"


def _run_trial(
    settings: dict[str, Any],
    plan: Plan,
    resources: dict[str, ResourcesConfig],
    tracking: dict[str, Any],
    corpus_uri: str,
    folder: str,
) -> None:
    """In a process of its own on some node: the run of a trial, from the start or from its checkpoint."""
    config = plan.config_of(settings["values"], settings["repeat"])
    config = dataclasses.replace(
        config,
        resources=resources[settings["values"].get(TRY, "")],
        tracking=dataclasses.replace(config.tracking, **tracking),
    )
    run = Storage(Path(folder) / settings["trial"])
    is_begun = run.size("run.json") is not None
    if not is_begun:
        shutil.rmtree(run.path(), ignore_errors=True)  # killed before there was anything to go on from
    options: dict[str, Any] = {"resume": is_begun, "show_progress": False}
    options["ray_callbacks"] = [TuneReportCallback()]
    try:
        _when_there_is_room(lambda: run_training(config, corpus_uri, folder, settings["trial"], **options))
    except ValueError as error:  # it would only come again
        tune.report({_FAILURE: one_line(error)[:300]})


def _when_there_is_room(train: Callable[[], object]) -> None:
    """Other runs of the sweep take what there is, or a node has gone and its start of this run is not quite over."""
    deadline_s = time.monotonic() + _MAX_WAIT_S
    while True:
        try:
            train()
            return
        except (PlacementError, RunInUseError):
            if time.monotonic() > deadline_s:
                raise
            time.sleep(_LOOK_EVERY_S)
