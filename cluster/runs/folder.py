"""A run's folder, here or at an address, and the record in it: the settings and data that alone resume the run.

<storage>/<name>/run.json        the record
                 checkpoint_*/   cluster/runs/checkpoints.py
                 tracking/       curves (cluster/tracking/tracker.py)
                 bundle/         at the end: the best weights
                 failure.txt     after an error that is permanent
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster.settings.experiment import ConfigError, ExperimentConfig, differences
from ww_data import Storage
from ww_data.storage import first_line, held_alone

FAILURE_FILE, TRACKING_FOLDER, BUNDLE_FOLDER = "failure.txt", "tracking", "bundle"
METRICS_FILE = "metrics.jsonl"  # in the tracking folder: a line for each point of a curve, and for each start
_RECORD_FILE = "run.json"
_LOCK_FILE = ".lock"


class RunInUseError(ConfigError):
    """A run that another command trains at this moment."""


def open_run(storage: str | Path, name: str) -> Storage:
    """The folder of a run. storage: of all runs, a folder or an address; it need not be there yet."""
    if "://" in str(storage):
        return Storage(str(storage)).child(name)
    return Storage(Path(storage).resolve() / name)


def read_run_config(run: Storage) -> ExperimentConfig:
    """The settings that a run was started with. Raises ConfigError if there is no run in the folder."""
    return ExperimentConfig.from_dict(_read_record(run)["config"])


def _read_record(run: Storage) -> dict[str, Any]:
    try:
        return dict(json.loads(run.read(_RECORD_FILE)))
    except OSError as error:
        raise ConfigError(
            f"there is no run to resume at {run}; its folder must hold {_RECORD_FILE} ({_reason(error)})"
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"{run.address(_RECORD_FILE)} is damaged ({error}); start a new run under another name"
        ) from error


def read_finetuned_from(run: Storage) -> str:
    """The id of the weights that a run started from; "" for one that started from random ones."""
    return str(_read_record(run).get("finetuned_from", ""))


def check_reachable(run: Storage) -> None:
    """Raises ConfigError where this machine does not see the run's folder: it would write into one of its own."""
    try:
        if run.size(_RECORD_FILE) is not None:
            return
        reason = f"it has no {_RECORD_FILE} there"
    except OSError as error:
        reason = _reason(error)
    raise ConfigError(
        f"{run} is not the same folder on all nodes ({reason}); choose a --storage that all reach"
    )


def check_run_folder(
    run: Storage, config: ExperimentConfig, manifest_hash: str, resume: bool, finetuned_from: str = ""
) -> None:
    """Raises ConfigError where a new run finds its name taken; for a resume, where the settings are not the run's."""
    try:
        if not resume:
            if run.path().exists() if run.is_local else any(run.files()):
                raise ConfigError(f"{run} exists already; choose another --name, or resume it with --resume")
            run.check_writable()
            return
    except OSError as error:
        raise ConfigError(f"cannot write the run's folder {run}: {_reason(error)}") from error
    settings = _settings(config, manifest_hash, finetuned_from)
    changed = differences(_deciding_of_record(_read_record(run)), _deciding_of_record(settings))
    if changed:
        raise ConfigError(
            f"run {Path(str(run)).name} was started with other settings ({'; '.join(changed)}); resume it with "
            "the settings it has, or start a new run under another name"
        )
    with trained_alone(run):
        pass


def claim_run_folder(
    run: Storage, config: ExperimentConfig, manifest_hash: str, resume: bool, finetuned_from: str = ""
) -> None:
    """Makes the run's folder with its settings, or, to resume, checks that they are the ones asked for."""
    check_run_folder(run, config, manifest_hash, resume, finetuned_from)
    try:
        if resume:
            run.delete(FAILURE_FILE)
        else:
            settings = _settings(config, manifest_hash, finetuned_from)
            run.write(_RECORD_FILE, json.dumps(settings, indent=2).encode())
    except OSError as error:
        raise ConfigError(f"cannot write the run's folder {run}: {_reason(error)}") from error


@contextlib.contextmanager
def trained_alone(run: Storage) -> Iterator[None]:
    """Two must not train into one folder of a file system at the same time. Raises RunInUseError."""
    with contextlib.ExitStack() as held:
        if run.is_local:
            try:
                held.enter_context(held_alone(run.path(_LOCK_FILE)))
            except BlockingIOError:
                raise RunInUseError(
                    f"{run} is being trained by another command: wait for its end, or end it"
                ) from None
        yield


def _settings(config: ExperimentConfig, manifest_hash: str, finetuned_from: str) -> dict[str, Any]:
    """The record of a run."""
    settings: dict[str, Any] = {"manifest_hash": manifest_hash, "config": config.to_dict()}
    return settings | ({"finetuned_from": finetuned_from} if finetuned_from else {})


def _reason(error: OSError) -> str:
    return error.strerror or first_line(error)


def _deciding_of_record(record: dict[str, Any]) -> dict[str, Any]:
    config = ExperimentConfig.from_dict(record["config"])  # what is newer than the run: its default
    return {"manifest_hash": record["manifest_hash"], **deciding(config)}


def deciding(settings: ExperimentConfig) -> dict[str, Any]:
    """What of a run's settings decides its result; where it runs, how long at a time and who is told may change."""
    config = settings.to_dict()
    for section in ("resources", "tracking", "licence", "preset"):
        del config[section]
    for name in ("max_minutes", "stop_s", "journal"):
        del config["training"][name]
    return config


def parse_lines(text: str) -> list[dict[str, Any]]:
    """An object for each line of JSON; one that is cut short, by a kill or while it is written, is left out."""
    lines = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            lines.append(dict(json.loads(line)))
    return lines
