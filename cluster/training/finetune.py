"""Starting from weights that are there already: a bundle, or a public checkpoint of facebook's `denoiser`."""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.runs.transfer import fetch_folder, replace_folder
from cluster.settings.experiment import ConfigError, ExperimentConfig, differences, override, read_preset
from ww_data import Storage
from ww_models import (
    Denoiser,
    build_model,
    load_bundle,
    load_denoiser_checkpoint,
    read_bundle_info,
    save_bundle,
)

# In a run's folder: the bundle that it started from, so that a resume needs nothing else.
START_FOLDER = "start"


@dataclasses.dataclass(frozen=True)
class Source:
    """Weights to start from. id: a bundle's own, or a checkpoint's file name and a digest of it."""

    id: str
    path: Path
    model: Denoiser

    @property
    def settings(self) -> dict[str, Any]:
        """What the `model` section of an experiment says of such a model."""
        return {"name": self.model.name, **dataclasses.asdict(self.model.config)}


def open_source(path: str | Path) -> Source:
    """Reads a bundle's folder or a file of `denoiser`. Raises ValueError, one line, if it is neither."""
    path = Path(path)
    if path.is_dir() or not path.exists():
        return Source(read_bundle_info(path).id, path, load_bundle(path))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Source(f"{path.name} sha256:{digest[:12]}", path, load_denoiser_checkpoint(path))


def finetune_config(source: Source, preset: str, overrides: Sequence[str]) -> ExperimentConfig:
    """A preset's settings with the source's model in place of its own, and overrides on top.

    Raises ConfigError where the overrides ask for a model that the weights do not fit.
    """
    values = read_preset(preset)
    values.setdefault("preset", Path(preset).stem)
    values["model"] = source.settings
    config = override(values, overrides)
    check_fit(source, config)
    return config


def check_fit(source: Source, config: ExperimentConfig) -> None:
    """Raises ConfigError, naming the settings that differ, if the weights do not fit the config's model.

    Weights of another sample rate have the same shapes, and hear each sound at another pitch.
    """
    ours, theirs = config.model.sample_rate, source.model.sample_rate
    if ours != theirs:
        raise ConfigError(
            f"the weights of {source.path} are of {theirs} Hz, model.sample_rate is {ours} Hz: "
            f"prepare the corpus with --sample-rate {theirs}, or train without --finetune"
        )
    model = build_model(config.model_name, **dataclasses.asdict(config.model))
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    there = {name: tuple(value.shape) for name, value in source.model.state_dict().items()}
    if wanted != there:
        changed = differences({"model": source.settings}, {"model": config.to_dict()["model"]})
        raise ConfigError(
            f"the weights of {source.path} fit no model with other settings than theirs "
            f"({'; '.join(changed)}); leave these out, or train without --finetune"
        )


def keep_source(source: Source, run: Storage) -> None:
    """Copies the weights into the run's folder, where all workers find them, also when it is resumed."""
    with tempfile.TemporaryDirectory(prefix="ww-start-") as folder:
        bundle = save_bundle(Path(folder) / START_FOLDER, source.model, metrics={"finetuned_from": source.id})
        replace_folder(bundle, run, START_FOLDER)


def check_start(run: Storage, finetuned_from: str) -> None:
    """Raises ConfigError if a run is to start from weights (their id, or "") that its folder does not hold."""
    if finetuned_from and run.size(f"{START_FOLDER}/config.json") is None:
        raise ConfigError(
            f"{run} starts from {finetuned_from}, but {run.address(START_FOLDER)} is missing, for it was cut "
            "while it was set up; start it anew with --finetune under another name"
        )


def load_start(run: Storage, model: Denoiser, finetuned_from: str = "") -> None:
    """Gives the model the weights that its run starts from, if there are any. Raises ConfigError if they are gone."""
    check_start(run, finetuned_from)
    if run.size(f"{START_FOLDER}/config.json") is not None:
        with tempfile.TemporaryDirectory(prefix="ww-start-") as folder:
            fetch_folder(run, START_FOLDER, Path(folder))
            model.load_state_dict(load_bundle(folder).state_dict())
