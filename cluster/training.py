"""A training run: N Ray Train workers, each a Lightning trainer, on one shared stream of mixtures.

    run_training (driver) -> check the data and the room on the cluster -> TorchTrainer
      train_worker (each rank) -> model, its share of the stream, Lightning fit
        every n steps: validate, rank 0 saves a checkpoint (optimizer state and a ready bundle), all ranks report

A run is a folder `<storage>/<name>`: run.json (settings, manifest hash), checkpoint_*/, tracking/, and at the end
bundle/ (or failure.txt, after an error that would only come again). The same name again never resumes by accident:
that takes `resume=True`, and the same settings (`cluster/run_folder.py`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import tempfile
import threading
import time
import warnings
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import ray
import ray.train
import torch
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment, prepare_trainer
from ray.train.torch import TorchConfig, TorchTrainer

from cluster.callbacks import SCORE, ReportCheckpoint, TrackRun
from cluster.config import ConfigError, ExperimentConfig
from cluster.datasets import FeedConfig, RankBatches, split_among_ranks
from cluster.lightning import DenoisingModule
from cluster.placement import check_placement
from cluster.progress import watch_board
from cluster.run_folder import FAILURE_FILE, claim_run_folder
from cluster.tracking import Tracker
from cluster.validation import stored_mixtures
from ww_data import Corpus, open_corpus
from ww_models import build_model

STATE_FILE = "state.ckpt"
MAX_WORKER_FAILURES = 3


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """run_dir, and in it the bundle of the best checkpoint; scores: its validation metrics; steps: of the last one."""

    run_dir: Path
    bundle: Path
    scores: dict[str, float]
    steps: int
    wall_s: float


def run_training(
    config: ExperimentConfig,
    corpus_uri: str,
    storage: str | Path,
    name: str,
    *,
    resume: bool = False,
    ray_callbacks: list[Any] | None = None,
    show_progress: bool = True,
) -> TrainingResult:
    """Trains on a connected Ray cluster and returns where the bundle lies.

    corpus_uri: what `jobs.prepare` wrote. storage: a folder that all nodes reach. name: the run's, new unless `resume`.
    Raises ConfigError for a name that is taken, or a resume with other settings (the differences are named);
    CorpusError for damaged data; PlacementError where the cluster has no room; TrainingError if training failed.
    """
    start = time.monotonic()
    corpus = open_corpus(corpus_uri)
    _check_validation_set(config, corpus)
    resources = config.resources.resolved(ray.cluster_resources().get("CPU", 0.0))
    run_dir = Path(storage).resolve() / name
    check_placement(resources)
    claim_run_folder(run_dir, config, corpus.manifest_hash, resume)
    job = _WorkerJob(
        config, dataclasses.asdict(resources), corpus.storage.uri, describe_corpus(corpus), str(run_dir)
    )
    with _progress_board(f"training {name}", show_progress) as board:
        trainer = TorchTrainer(
            train_worker,
            train_loop_config={"job": job, "board": board},
            torch_config=TorchConfig(backend="nccl" if resources.gpus_per_worker else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=resources.num_workers,
                use_gpu=resources.gpus_per_worker > 0,
                resources_per_worker=resources.worker_resources(),
                placement_strategy=resources.placement_strategy,
            ),
            run_config=RunConfig(
                name=name,
                storage_path=str(run_dir.parent),
                failure_config=FailureConfig(
                    max_failures=MAX_WORKER_FAILURES,
                    controller_failure_limit=MAX_WORKER_FAILURES,  # type: ignore[call-arg]
                ),
                checkpoint_config=CheckpointConfig(
                    num_to_keep=2, checkpoint_score_attribute=SCORE, checkpoint_score_order="max"
                ),
                callbacks=ray_callbacks,
            ),
        )
        try:
            result = _fit(trainer)
        except ray.train.TrainingFailedError as error:
            raise TrainingError(_first_cause(error)) from error
    return _collect(result, run_dir, time.monotonic() - start)


def _fit(trainer: TorchTrainer) -> Any:
    """`trainer.fit()`, with Ctrl-C left to us: in the main thread Ray Train would handle it and end the process.

    A KeyboardInterrupt leaves through the caller's `connect()`, which ends the workers; the last checkpoint stands.
    """
    if threading.current_thread() is not threading.main_thread():
        return trainer.fit()
    outcome: Future[Any] = Future()

    def fit() -> None:
        try:
            outcome.set_result(trainer.fit())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=fit, name="fit", daemon=True).start()
    while not outcome.done():  # a wait without an end would not hear the interrupt
        wait([outcome], timeout=0.5)
    return outcome.result()


class TrainingError(ValueError):
    """Training failed in a worker; the message is the worker's own."""


@dataclasses.dataclass(frozen=True)
class _WorkerJob:
    """All that a worker needs to know."""

    config: ExperimentConfig
    resources: dict[str, Any]
    corpus_uri: str
    data: dict[str, Any]
    run_dir: str


def train_worker(parameters: dict[str, Any]) -> None:
    """One rank's part of a run; Ray Train calls it in every worker, again after each restart.

    Ray restarts workers whatever ended them. An error that would only come again (ValueError: a loss that is not
    finite, say) is noted in the run's folder, and the restarted workers end with it at once.
    """
    job: _WorkerJob = parameters["job"]
    failure = Path(job.run_dir) / FAILURE_FILE
    if failure.is_file():
        raise TrainingError(failure.read_text(encoding="utf-8"))
    try:
        _train(job, parameters["board"])
    except ValueError as error:
        failure.write_text(str(error), encoding="utf-8")
        raise


def _train(job: _WorkerJob, board: Any) -> None:
    config = job.config
    torch.set_num_threads(job.resources["torch_threads"] or _threads_per_worker())
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    pl.seed_everything(config.seed, verbose=False)
    model = build_model(config.model_name, **dataclasses.asdict(config.model))
    module = DenoisingModule(model, config.loss, config.optimizer, config.training, config.seed)

    checkpoint = ray.train.get_checkpoint()
    with tempfile.TemporaryDirectory(prefix="ww-resume-") as folder:
        state = _fetch_state(checkpoint, Path(folder))
        start_step = _saved_step(state) if state else 0
        if start_step >= config.training.max_steps:
            return
        context = ray.train.get_context()
        feed = _feed(job, start_step)
        batches = RankBatches(_share_of_stream(feed, job), feed, context.get_world_rank())
        num_nodes = len(set(_of_all_ranks(ray.get_runtime_context().get_node_id())))
        tracker = _open_tracker(job) if context.get_world_rank() == 0 else None
        try:
            if tracker is not None:
                tracker.started(start_step, num_workers=context.get_world_size(), num_nodes=num_nodes)
            trainer = _lightning_trainer(job, tracker, board)
            trainer.fit(
                module,
                train_dataloaders=batches,
                val_dataloaders=stored_mixtures(
                    job.corpus_uri,
                    "val",
                    limit=config.training.num_val_mixtures,
                    rank=context.get_world_rank(),
                    world_size=context.get_world_size(),
                ),
                ckpt_path=str(state) if state else None,
                weights_only=False,  # our own file: it holds optimizer state, which is more than tensors
            )
        finally:
            if tracker is not None:
                tracker.close()


def describe_corpus(corpus: Corpus) -> dict[str, Any]:
    """What a model card says of the data: how much of it there was, and the hash that names it."""
    train = corpus.splits["train"]
    return {
        "manifest_hash": corpus.manifest_hash,
        "train_speech_hours": round(train.speech_hours, 3),
        "train_speakers": train.num_speakers,
        "train_noise_hours": round(train.noise_hours, 3),
        "train_noise_recordings": train.num_recordings,
    }


def _lightning_trainer(job: _WorkerJob, tracker: Tracker | None, board: Any) -> pl.Trainer:
    config, gpus = job.config, job.resources["gpus_per_worker"]
    precision = config.training.precision
    if precision == "auto":
        precision = "bf16-mixed" if gpus and torch.cuda.is_bf16_supported() else "32-true"
    callbacks: list[pl.Callback] = [ReportCheckpoint(config, job.data, STATE_FILE)]
    if ray.train.get_context().get_world_rank() == 0:
        callbacks.insert(0, TrackRun(config, job.data, tracker, board))
    trainer = pl.Trainer(
        max_steps=config.training.max_steps,
        max_epochs=-1,
        val_check_interval=config.training.validate_every_steps,
        check_val_every_n_epoch=None,
        gradient_clip_val=config.optimizer.gradient_clip_norm or None,
        precision=precision,
        accelerator="gpu" if gpus else "cpu",
        devices="auto" if gpus else 1,
        strategy=RayDDPStrategy(),
        plugins=[RayLightningEnvironment()],
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
    )
    return prepare_trainer(trainer)


def _feed(job: _WorkerJob, start_step: int) -> FeedConfig:
    training = job.config.training
    return FeedConfig(
        corpus_uri=job.corpus_uri,
        mixing=job.config.mixing,
        seed=job.config.seed,
        global_batch=training.batch_size,
        num_workers=ray.train.get_context().get_world_size(),
        start_step=start_step,
        num_steps=training.max_steps - start_step,
    )


def _share_of_stream(feed: FeedConfig, job: _WorkerJob) -> Any:
    """This rank's iterator over one execution that rank 0 starts, at the step and for the ranks there are now.

    Train's own `datasets=` would start it before the workers know which checkpoint they resume from.
    """
    shares: list[Any] = [None] * feed.num_workers
    if ray.train.get_context().get_world_rank() == 0:
        reserved = float(job.resources["cpus_per_worker"]) * feed.num_workers
        shares = list(split_among_ranks(feed, train_cpus=reserved))
    torch.distributed.broadcast_object_list(shares, src=0)
    return shares[ray.train.get_context().get_world_rank()]


def _of_all_ranks(value: Any) -> list[Any]:
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def _threads_per_worker() -> int:
    """This node's CPUs, shared by the workers that are on it."""
    here = ray.get_runtime_context().get_node_id()
    cpus = next(node["Resources"].get("CPU", 1) for node in ray.nodes() if node["NodeID"] == here)
    return max(1, int(cpus // ray.train.get_context().get_local_world_size()))


def _saved_step(state: Path) -> int:
    # Our own file: it holds optimizer state, which is more than tensors. To the CPU, wherever it was saved.
    return int(torch.load(state, weights_only=False, map_location="cpu", mmap=True)["global_step"])


def _fetch_state(checkpoint: Checkpoint | None, folder: Path) -> Path | None:
    if checkpoint is None:
        return None
    return Path(checkpoint.to_directory(folder)) / STATE_FILE


def _open_tracker(job: _WorkerJob) -> Tracker:
    run_dir = Path(job.run_dir)
    tags = [job.config.preset or job.config.model_name, f"manifest:{str(job.data['manifest_hash'])[:12]}"]
    tracker = Tracker(job.config.tracking, run_dir / "tracking", run_dir.name, tags=tags)
    tracker.config(job.config.flat())
    return tracker


def _check_validation_set(config: ExperimentConfig, corpus: Corpus) -> None:
    """Every worker needs a mixture to validate on, or the others would wait for it."""
    stored = corpus.splits["val"].num_mixtures
    used = min(config.training.num_val_mixtures or stored, stored)
    if used < config.resources.num_workers:
        raise ConfigError(
            f"{config.resources.num_workers} workers need at least as many validation mixtures, but there are {used}: "
            "raise training.num_val_mixtures, prepare the corpus with more --val-mixtures, or take fewer workers"
        )


def _collect(result: Any, run_dir: Path, wall_s: float) -> TrainingResult:
    """Copies the bundle of the best checkpoint to where people look for it."""
    best, metrics = max(result.best_checkpoints, key=lambda pair: pair[1].get(SCORE, float("-inf")))
    bundle, temporary = run_dir / "bundle", run_dir / ".bundle"
    with best.as_directory() as folder:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(Path(folder) / "bundle", temporary)
    shutil.rmtree(bundle, ignore_errors=True)
    os.replace(temporary, bundle)  # noqa: PTH105 - replaces in one step
    steps = int((result.metrics or metrics)["step"])
    scores = {name: value for name, value in metrics.items() if isinstance(value, float)}
    return TrainingResult(run_dir, bundle, scores, steps, wall_s)


def _first_cause(error: BaseException) -> str:
    """The worker's own words, without the traceback that Ray puts around them."""
    failures = getattr(error, "worker_failures", None) or {}
    for failure in failures.values():
        return f"training failed in a worker: {str(failure).strip().splitlines()[-1]}"
    return f"training failed: {str(error).strip().splitlines()[-1]}"


def _progress_board(title: str, show: bool) -> Any:
    return watch_board(title) if show else contextlib.nullcontext(None)
