"""The record of a run: which settings and data it was started with, so that only the same ones resume it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cluster.config import ConfigError, ExperimentConfig, differences

FAILURE_FILE = "failure.txt"


def read_run_config(run_dir: Path) -> ExperimentConfig:
    """The settings that a run was started with. Raises ConfigError if there is no run in the folder."""
    return ExperimentConfig.from_dict(_read_record(run_dir)["config"])


def _read_record(run_dir: Path) -> dict[str, Any]:
    record = run_dir / "run.json"
    try:
        return dict(json.loads(record.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise ConfigError(f"there is no run to resume at {run_dir}; its folder must hold run.json") from error
    except ValueError as error:
        raise ConfigError(f"{record} is damaged ({error}); start a new run under another name") from error


def read_finetuned_from(run_dir: Path) -> str:
    """The id of the weights that a run started from; "" for one that started from random ones."""
    return str(_read_record(run_dir).get("finetuned_from", ""))


def claim_run_folder(
    run_dir: Path, config: ExperimentConfig, manifest_hash: str, resume: bool, finetuned_from: str = ""
) -> None:
    """Makes the run's folder with its settings, or, to resume, checks that they are the ones asked for."""
    settings = {"manifest_hash": manifest_hash, "config": config.to_dict()}
    if finetuned_from:
        settings["finetuned_from"] = finetuned_from
    if resume:
        changed = differences(_deciding(_read_record(run_dir)), _deciding(settings))
        if changed:
            raise ConfigError(
                f"run {run_dir.name} was started with other settings ({'; '.join(changed)}); resume it "
                "with the settings it has, or start a new run under another name"
            )
        (run_dir / FAILURE_FILE).unlink(missing_ok=True)
        return
    if run_dir.exists():
        raise ConfigError(f"{run_dir} exists already; choose another --name, or resume it with --resume")
    try:
        run_dir.mkdir(parents=True)
        temporary = run_dir / ".run.json"
        temporary.write_text(json.dumps(settings, indent=2), encoding="utf-8")
        temporary.replace(run_dir / "run.json")
    except OSError as error:
        raise ConfigError(f"cannot write the run's folder {run_dir}: {error.strerror}") from error


def _deciding(record: dict[str, Any]) -> dict[str, Any]:
    """The part of a run's record that decides its result: where it runs, for how long at a time and who hears of it
    may change.
    """
    free = ("resources", "tracking", "licence", "preset")
    settings = ExperimentConfig.from_dict(
        record["config"]
    ).to_dict()  # one that is newer than the run: its default
    settings["training"].pop("max_minutes")
    config = {name: value for name, value in settings.items() if name not in free}
    return {"manifest_hash": record["manifest_hash"], **config}
