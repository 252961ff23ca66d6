"""What runs in each worker of a training run: the model, this rank's share of the stream, and Lightning's loop."""

from __future__ import annotations

import dataclasses
import functools
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import ray
import ray.train
import torch
from pytorch_lightning.callbacks import LambdaCallback
from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment, prepare_trainer

from cluster.feeding.stream import FeedConfig, RankBatches, split_among_ranks
from cluster.feeding.validation import stored_mixtures
from cluster.machine.memory import keep_freed_memory
from cluster.runs.checkpoints import STATE_FILE, Checkpoints
from cluster.runs.folder import check_reachable
from cluster.settings.experiment import ExperimentConfig
from cluster.settings.training import TrainingConfig
from cluster.tracking.tracker import Tracker, open_tracker
from cluster.training.finetune import load_start
from cluster.training.loop.bad_batches import WatchLoss, keep_batch
from cluster.training.loop.callbacks import ReportCheckpoint, TrackRun, register_best
from cluster.training.loop.journal import ItemJournal
from cluster.training.loop.module import DenoisingModule
from cluster.training.loop.perceptual import ScoreBeside, write_rest
from cluster.training.loop.stopping import StopAtLimits, StopWithoutGain, was_stopped
from cluster.training.loop.weight_average import WeightAverage
from cluster.training.notes import all_ranks_fail, note_failure, would_come_again
from ww_data import Storage
from ww_models import build_model


@dataclasses.dataclass(frozen=True)
class WorkerJob:
    """All that a worker needs to know.

    run: its folder, which all nodes reach; run_name. notes: see cluster.training.notes.
    finetuned_from: id of the weights that the run starts from, or "". last_step: optimizer steps of the whole run.
    deadline_s: when it has to end, seconds since 1970, or None.
    scorer: of PESQ and STOI (see cluster.training.loop.scorer), or None to have them scored while validating.
    """

    config: ExperimentConfig
    resources: dict[str, Any]
    corpus_uri: str
    data: dict[str, Any]
    run: Storage
    run_name: str
    finetuned_from: str
    last_step: int
    deadline_s: float | None
    scorer: Any
    notes: Any


def train_worker(parameters: dict[str, Any]) -> None:
    """One rank's part of a run; Ray Train calls it in every worker, again after each restart.

    Ray restarts workers whatever ended them. An error that would only come again (a loss that is not finite, a disk
    that is full) is noted instead, for the driver to raise. Where all ranks have it, all end well; where one has, the
    others wait for its messages, so it fails for Ray to end them, and the restarted ones end well.
    """
    job: WorkerJob = parameters["job"]
    rank = ray.train.get_context().get_world_rank()
    failure, failed_ranks = ray.get(job.notes.failure.remote())
    if failure:
        if rank == 0 and rank not in failed_ranks:
            _open_tracking(job).close(failed=True)  # another rank's error ended it before it could say so
        return
    try:
        _train(job, parameters["board"])
    except (ValueError, OSError) as error:
        if not would_come_again(error):
            raise
        note_failure(job.notes, error, job.run_name)
        if not all_ranks_fail(job.notes):
            raise


def _train(job: WorkerJob, board: Any) -> None:
    config, rank = job.config, ray.train.get_context().get_world_rank()
    check_reachable(job.run)
    torch.set_num_threads(job.resources["torch_threads"] or _threads_per_worker())
    keep_freed_memory()
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    pl.seed_everything(config.seed, verbose=False)
    model = build_model(config.model_name, **dataclasses.asdict(config.model))
    load_start(job.run, model, job.finetuned_from)
    module = DenoisingModule(
        model,
        config.loss,
        config.optimizer,
        config.training,
        config.seed,
        last_step=job.last_step,
        perceptual_beside=job.scorer is not None,
    )

    resume_copy = tempfile.TemporaryDirectory(prefix="ww-resume-")
    with resume_copy as folder:
        state = _newest_state(job, Path(folder))
        start_step, finished = _saved_progress(state, job.last_step) if state else (0, False)
        if finished:
            if rank == 0:
                _conclude(job, start_step)
            return
        if rank == 0:
            ray.get(job.notes.train.remote())
        feed = _feed(job, start_step)
        batches = RankBatches(_share_of_stream(feed, job), feed, rank)
        num_nodes = len(set(_of_all_ranks(ray.get_runtime_context().get_node_id())))
        tracking = _open_tracking(job) if rank == 0 else None
        try:
            if tracking is not None:
                tracking.started(start_step, num_workers=feed.num_workers, num_nodes=num_nodes)
                tracking.send()
            trainer = _lightning_trainer(job, feed, tracking, board, when_loaded=resume_copy.cleanup)
            trainer.fit(
                module,
                train_dataloaders=batches,
                val_dataloaders=stored_mixtures(
                    job.corpus_uri,
                    "val",
                    limit=config.training.num_val_mixtures,
                    rank=rank,
                    world_size=feed.num_workers,
                ),
                ckpt_path=str(state) if state else None,
                weights_only=False,  # our own file: it holds optimizer state, which is more than tensors
            )
        except (ValueError, OSError) as error:
            # Now: closing the tracker may take longer than the others wait.
            if would_come_again(error):
                note_failure(job.notes, error, job.run_name)
            raise
        finally:
            if tracking is not None:
                tracking.close(failed=sys.exc_info()[0] is not None)


def _conclude(job: WorkerJob, step: int) -> None:
    """What is left to do for workers that come after the last step: none of it may stay "running" in a tracker.

    Where those who trained were killed after it, they may not have come to the last scores and the model.
    """
    tracking = _open_tracking(job)
    try:
        if ray.get(job.notes.has_trained.remote()):
            if job.scorer is not None:
                write_rest(job.scorer, tracking, step)
            register_best(tracking, Checkpoints(job.run, job.config.training))
    finally:
        tracking.close(failed=sys.exc_info()[0] is not None)


def loop_callbacks(
    training: TrainingConfig, last_step: int, watch_loss: WatchLoss, deadline_s: float | None = None
) -> list[pl.Callback]:
    """What takes part in Lightning's loop besides saving and telling: the average, and what ends the run."""
    callbacks: list[pl.Callback] = [watch_loss]
    if training.ema_decay:
        callbacks.append(WeightAverage(training.ema_decay))
    callbacks.append(StopAtLimits(last_step, deadline_s))
    if training.patience:
        callbacks.append(StopWithoutGain(training))
    return callbacks


def loop_limits(training: TrainingConfig, last_step: int) -> dict[str, Any]:
    """Lightning's settings for how long and how often. It counts batches between validations, and steps in all."""
    return {
        "max_steps": last_step,
        "max_epochs": -1,
        "accumulate_grad_batches": training.accumulate,
        "val_check_interval": training.validate_every_steps * training.accumulate,
        "check_val_every_n_epoch": None,
    }


def _lightning_trainer(
    job: WorkerJob,
    feed: FeedConfig,
    tracking: Tracker | None,
    board: Any,
    when_loaded: Callable[[], None],
) -> pl.Trainer:
    """when_loaded: called once the checkpoint that the run goes on from is not needed any more."""
    config, gpus = job.config, job.resources["gpus_per_worker"]
    precision = config.training.precision
    if precision == "auto":
        precision = "bf16-mixed" if gpus and torch.cuda.is_bf16_supported() else "32-true"
    card = job.data | ({"finetuned_from": job.finetuned_from} if job.finetuned_from else {})
    watch_loss = WatchLoss(
        config.training.skip_bad_batches,
        config.tracking.log_every_steps,
        functools.partial(keep_batch, feed, job.run),
    )
    callbacks = loop_callbacks(config.training, job.last_step, watch_loss, job.deadline_s)
    callbacks.append(LambdaCallback(on_train_start=lambda trainer, module: when_loaded()))
    checkpoints = Checkpoints(job.run, config.training)
    if job.scorer is not None:
        callbacks.append(ScoreBeside(job.scorer, tracking, config.tracking.log_every_steps))
    if tracking is not None:
        callbacks.append(
            TrackRun(config, tracking, board, job.last_step, job.deadline_s, watch_loss, checkpoints)
        )
    if config.training.journal:
        callbacks.append(ItemJournal(job.run))
    # Last: it saves what the others have come to.
    callbacks.append(ReportCheckpoint(config, card, checkpoints, watch_loss))
    trainer = pl.Trainer(
        **loop_limits(config.training, job.last_step),
        gradient_clip_val=config.optimizer.gradient_clip_norm or None,
        precision=precision,
        accelerator="gpu" if gpus else "cpu",
        devices="auto" if gpus else 1,
        # BatchNorm's statistics are sent before validations, which is when they are looked at; a step needs none.
        strategy=RayDDPStrategy(forward_sync_buffers=False),
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


def _feed(job: WorkerJob, start_step: int) -> FeedConfig:
    """The stretch of the plan that is still to do. To the plan a step is a batch, several of which may make ours."""
    training = job.config.training
    return FeedConfig(
        corpus_uri=job.corpus_uri,
        mixing=job.config.mixing,
        seed=job.config.seed,
        global_batch=training.batch_size,
        num_workers=ray.train.get_context().get_world_size(),
        start_step=start_step * training.accumulate,
        num_steps=(job.last_step - start_step) * training.accumulate,
    )


def _share_of_stream(feed: FeedConfig, job: WorkerJob) -> Any:
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


def _saved_progress(state: Path, last_step: int) -> tuple[int, bool]:
    """The step of a checkpoint, and whether nothing is left to do after it."""
    # Our own file: it holds optimizer state, which is more than tensors. To the CPU, wherever it was saved.
    saved = torch.load(state, weights_only=False, map_location="cpu", mmap=True)
    step = int(saved["global_step"])
    return step, step >= last_step or was_stopped(saved["callbacks"])


def _newest_state(job: WorkerJob, folder: Path) -> Path | None:
    """The file of the last whole checkpoint, on this machine; None where there is none yet. Rank 0 chooses."""
    checkpoints = Checkpoints(job.run, job.config.training)
    chosen = None
    if ray.train.get_context().get_world_rank() == 0:
        chosen, complaints = checkpoints.newest(folder)
        for complaint in complaints:
            job.notes.warn.remote(f"{complaint}; an earlier checkpoint is gone on from")
    message = [chosen]
    torch.distributed.broadcast_object_list(message, src=0)
    if message[0] is None:
        return None
    return checkpoints.check(message[0], folder, STATE_FILE) / STATE_FILE


def _open_tracking(job: WorkerJob) -> Tracker:
    return open_tracker(job.config, job.run, job.run_name, str(job.data["manifest_hash"]))
