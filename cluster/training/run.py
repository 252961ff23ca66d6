"""A training run: N Ray Train workers, each a Lightning trainer, on one shared stream of mixtures.

    run_training (driver) -> check the data and the room on the cluster -> TorchTrainer
      train_worker (each rank) -> model, its share of the stream, Lightning fit
        every n steps: validate, rank 0 saves a checkpoint (optimizer state and a ready bundle), all ranks report

The same name never resumes by accident: that takes `resume=True`, and the same settings. Ray Train restarts workers
that were killed; which checkpoint they resume from is ours to say (`cluster/runs/checkpoints.py`).
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from cluster.errors import last_line
from cluster.machine import guard, termination
from cluster.machine.placement import check_placement, nodes_of, selector_of
from cluster.machine.progress import watch_board
from cluster.machine.ray_internals import leave_interrupts, spare_processes
from cluster.machine.session import owns_ray
from cluster.runs.checkpoints import CheckpointError, Checkpoints
from cluster.runs.folder import (
    FAILURE_FILE,
    TRACKING_FOLDER,
    check_run_folder,
    claim_run_folder,
    open_run,
    read_finetuned_from,
    trained_alone,
)
from cluster.runs.result import TrainingResult, collect_result
from cluster.settings.experiment import ConfigError, ExperimentConfig
from cluster.settings.resources import ResourcesConfig
from cluster.tracking.clearml_task import NOTICE_FILE
from cluster.training.checks import check_rate
from cluster.training.finetune import Source, check_fit, check_start, keep_source
from cluster.training.job import WorkerJob
from cluster.training.notes import run_notes
from cluster.training.process_group import torch_config
from ww_data import Corpus, Storage, open_corpus

__all__ = ["TrainingError", "TrainingResult", "check_training", "run_training"]

MAX_WORKER_FAILURES = 3


class TrainingError(ValueError):
    """Training failed in a worker; the message is the worker's own."""


def run_training(
    config: ExperimentConfig,
    corpus_uri: str,
    storage: str | Path,
    name: str,
    *,
    resume: bool = False,
    finetune: Source | None = None,
    ray_callbacks: list[Any] | None = None,
    show_progress: bool = True,
) -> TrainingResult:
    """Trains on a connected Ray cluster and returns where the bundle lies.

    corpus_uri: what `jobs.prepare` wrote. storage: of all runs, a folder or an address that all nodes reach. name: the
    run's, new unless `resume`. finetune: the weights that a new run starts from; a resumed one has kept them.
    Raises ConfigError for a name that is taken, a corpus of another sample rate, or a resume with other settings (the
    differences are named); CorpusError for damaged data; CheckpointError where no checkpoint can be used;
    PlacementError where the cluster has no room; TrainingError if training failed.
    SIGTERM, where it is obeyed, has it save its state, within `training.stop_s`, and then raises KeyboardInterrupt.
    """
    start_s = time.monotonic()
    run = open_run(storage, name)
    corpus = check_training(config, corpus_uri, run, resume=resume, finetune=finetune)
    node_cpus = [node["Resources"].get("CPU", 0.0) for node in nodes_of(config.resources.worker_nodes)]
    resources = config.resources.resolved(sum(node_cpus), node_cpus)
    check_placement(resources)
    _set_up(run, config, corpus, resume, finetune)
    training, finetuned_from = config.training, read_finetuned_from(run)
    with trained_alone(run), run_notes() as notes:
        job = WorkerJob(
            config=config,
            resources=resources,
            corpus_uri=corpus.storage.uri,
            data=_describe(corpus) | ({"finetuned_from": finetuned_from} if finetuned_from else {}),
            run=run,
            run_name=name,
            last_step=training.num_steps(sum(shard.num_segments for shard in corpus.shards("train"))),
            deadline_s=time.time() + 60 * training.max_minutes if training.max_minutes else None,
            notes=notes,
        )
        try:
            with (
                watch_board(f"training {name}", notes) if show_progress else contextlib.nullcontext(),
                termination.time_to_stop(training.stop_s, notes.stop.remote),
            ):
                _run_workers(job, ray_callbacks)
        except KeyboardInterrupt:
            _say_where_it_stands(job)
            raise
        segment_s = config.mixing.crop_s or corpus.segment_s
        return collect_result(config, run, segment_s, time.monotonic() - start_s)


def check_training(
    config: ExperimentConfig,
    corpus_uri: str,
    run: Storage,
    *,
    resume: bool = False,
    finetune: Source | None = None,
) -> Corpus:
    """The corpus, if all is well that can be told without Ray; raises like `run_training`."""
    corpus = open_corpus(corpus_uri)
    check_rate(config, corpus.sample_rate, corpus_uri)
    _check_validation_set(config, corpus)
    if finetune is not None:
        check_fit(finetune, config)
    check_run_folder(run, config, corpus.manifest_hash, resume, finetune.id if finetune else "")
    return corpus


def _check_validation_set(config: ExperimentConfig, corpus: Corpus) -> None:
    """Every worker needs a mixture to validate on, or the others would wait for it."""
    stored = corpus.splits["val"].num_mixtures
    used = min(config.training.num_val_mixtures or stored, stored)
    if used < config.resources.num_workers:
        raise ConfigError(
            f"{config.resources.num_workers} workers need at least as many validation mixtures, but there are {used}: "
            "raise training.num_val_mixtures, prepare the corpus with more --val-mixtures, or take fewer workers"
        )


def _set_up(
    run: Storage, config: ExperimentConfig, corpus: Corpus, resume: bool, finetune: Source | None
) -> None:
    """Makes the run's folder, with the weights to start from; to resume, checks that all it needs is there."""
    claim_run_folder(run, config, corpus.manifest_hash, resume, finetune.id if finetune else "")
    if finetune is not None and not resume:
        keep_source(finetune, run)
    check_start(run, read_finetuned_from(run))
    if resume:
        _check_checkpoints(run, config)


def _check_checkpoints(run: Storage, config: ExperimentConfig) -> None:
    """Says before anything is started which checkpoints are damaged, and refuses those of another model."""
    checkpoints = Checkpoints(run, config.training)
    with guard.temporary_folder("ww-resume-") as folder:
        newest, complaints = checkpoints.newest(folder)
        for complaint in complaints:
            _print(f"warning: {complaint}; the run goes on from the checkpoint before it")
        if newest is None:
            return
        changed = checkpoints.check_model(newest, folder, config.to_dict()["model"])
    if changed:
        raise CheckpointError(
            f"{run.address(newest.name)} holds another model than the run's settings ask for "
            f"({'; '.join(changed)}); put back the run.json that belongs to it, or start a new run under another name"
        )


def _describe(corpus: Corpus) -> dict[str, Any]:
    """What a model card says of the data: how much of it there was, and the hash that names it."""
    train = corpus.splits["train"]
    return {
        "manifest_hash": corpus.manifest_hash,
        "train_speech_hours": round(train.speech_hours, 3),
        "train_speakers": train.num_speakers,
        "train_noise_hours": round(train.noise_hours, 3),
        "train_noise_recordings": train.num_recordings,
    }


def train_worker(parameters: dict[str, Any]) -> None:
    """What Ray Train calls in each worker. Lightning is imported there alone, and not by driver and controller."""
    from cluster.training.worker import train

    train(parameters["job"])


def _run_workers(job: WorkerJob, ray_callbacks: list[Any] | None) -> None:
    backend = "nccl" if job.resources.gpus_per_worker else "gloo"
    with guard.temporary_folder("ww-train-") as rays_own:
        trainer = TorchTrainer(
            train_worker,
            train_loop_config={"job": job},
            torch_config=torch_config(backend),
            scaling_config=_scaling(job.resources),
            run_config=RunConfig(
                name=job.run_name,
                storage_path=str(rays_own),  # for a marker and nothing else: no checkpoint is reported
                failure_config=FailureConfig(
                    max_failures=MAX_WORKER_FAILURES,
                    controller_failure_limit=MAX_WORKER_FAILURES,  # type: ignore[call-arg]
                ),
                callbacks=ray_callbacks,
            ),
        )
        leave_interrupts(trainer)
        if owns_ray():
            spare_processes(trainer)
        try:
            trainer.fit()
        except ray.train.TrainingFailedError as error:
            _raise_noted_failure(job)
            raise TrainingError(_last_words(error)) from error
        finally:
            _print_notices(job)
        _raise_noted_failure(job)


def _say_where_it_stands(job: WorkerJob) -> None:
    """Of a run that was interrupted, or told to end."""
    with contextlib.suppress(OSError):
        done = [checkpoint.step for checkpoint in job.checkpoints.recorded()]
        stands = f"it stands at step {done[-1]}" if done else "it has no checkpoint yet"
        _print(f"{job.run_name} was cut; {stands}: go on with --resume {job.run_name}")


def _scaling(resources: ResourcesConfig) -> ScalingConfig:
    least, most = resources.least_workers, resources.num_workers
    if resources.is_elastic:
        # After a node is lost Ray may for a while still wait for all workers that it had: for so long at most.
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", f"{resources.placement_timeout_s:g}")
    return ScalingConfig(
        num_workers=(least, most) if resources.is_elastic else most,  # type: ignore[arg-type]
        use_gpu=resources.gpus_per_worker > 0,
        resources_per_worker=resources.worker_resources(),
        placement_strategy=resources.placement_strategy,
        label_selector=selector_of(resources.worker_nodes) or None,  # type: ignore[call-arg]
    )


def _raise_noted_failure(job: WorkerJob) -> None:
    """Raises the permanent error that a worker noted, if there is one, and leaves it in the run's folder."""
    try:
        failure, _ = ray.get(job.notes.failure.remote())
    except ray.exceptions.RayError:  # this node's Ray has ended: what Ray Train says tells more
        return
    if failure:
        with contextlib.suppress(OSError):  # the disk may be full: that is what the failure says
            job.run.write(FAILURE_FILE, failure.encode())
        raise TrainingError(f"training failed in a worker: {failure}")


def _last_words(error: BaseException) -> str:
    """The worker's own words, without the traceback that Ray puts around them."""
    failures = list((getattr(error, "worker_failures", None) or {}).values())
    where, cause = (" in a worker", failures[0]) if failures else ("", error)
    return f"training failed{where}: {last_line(cause)}"


def _print_notices(job: WorkerJob) -> None:
    """What workers have to say to people; what they print goes to a log."""
    with contextlib.suppress(ray.exceptions.RayError, OSError):
        for warning in ray.get(job.notes.warnings.remote(), timeout=10):
            _print(f"warning: {warning}")
        notice = f"{TRACKING_FOLDER}/clearml/{NOTICE_FILE}"
        if job.run.size(notice):
            _print(job.run.read(notice).decode())


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
