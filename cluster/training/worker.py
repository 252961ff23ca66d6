"""What runs in each worker of a training run: the model, this rank's share of the stream, and Lightning's loop."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import tempfile
import warnings
from collections.abc import Callable, Iterator
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
from cluster.runs.checkpoints import STATE_FILE
from cluster.runs.folder import check_reachable
from cluster.settings.experiment import ExperimentConfig
from cluster.tracking.tracker import Tracker, open_tracker
from cluster.training.finetune import load_start
from cluster.training.job import WorkerJob
from cluster.training.loop.bad_batches import WatchLoss, keep_batch
from cluster.training.loop.checkpointing import ReportCheckpoint, read_state, register_best
from cluster.training.loop.curves import TrackRun
from cluster.training.loop.journal import ItemJournal
from cluster.training.loop.module import DenoisingModule, from_all_ranks
from cluster.training.loop.stopping import StopAtLimits, StopWithoutGain, was_stopped
from cluster.training.loop.weight_average import WeightAverage
from cluster.training.notes import all_ranks_fail, is_permanent, noted_failure
from ww_models import build_model


def train(job: WorkerJob) -> None:
    """One rank's part of a run; called in every worker, again after each restart.

    Ray restarts workers whatever ended them. A permanent error (a loss that is not finite, a disk that is full) is
    noted instead, for the driver to raise. Where all ranks have it, all end well; where one has, the others wait for
    its messages, so it fails for Ray to end them, and the restarted ones end well.
    """
    context = ray.train.get_context()
    rank = context.get_world_rank()
    failure, failed_ranks = ray.get(job.notes.failure.remote())
    if failure or ray.get(job.notes.is_told_to_stop.remote()):
        if failure and rank == 0 and rank not in failed_ranks:
            _open_tracker(job).close(failed=True)  # another rank's error ended it before it could say so
        return
    try:
        with noted_failure(job.notes, rank, job.run_name):
            _train(job, rank)
    except (ValueError, OSError) as error:
        if not (is_permanent(error) and all_ranks_fail(job.notes, context.get_world_size())):
            raise


def _train(job: WorkerJob, rank: int) -> None:
    check_reachable(job.run)
    torch.set_num_threads(job.resources.torch_threads or _threads_per_worker())
    keep_freed_memory()
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    pl.seed_everything(job.config.seed, verbose=False)
    model = build_model(job.config.model_name, **dataclasses.asdict(job.config.model))
    load_start(job.run, model, job.data.get("finetuned_from", ""))
    module = DenoisingModule(model, job.config, job.last_step)
    resume_copy = tempfile.TemporaryDirectory(prefix="ww-resume-")
    with resume_copy as folder:
        state = _newest_state(job, rank, Path(folder))
        start_step, is_finished = _saved_progress(state, job) if state else (0, False)
        batches = None if is_finished else _open_stream(job, rank, start_step)
        with tracked(job, rank) as tracker:
            if batches is not None:
                _note_start(job, tracker, start_step)
                limit, world_size = job.config.training.num_val_mixtures, batches.feed.num_workers
                validation = stored_mixtures(
                    job.corpus_uri, "val", limit=limit, rank=rank, world_size=world_size
                )
                trainer = _make_trainer(job, batches.feed, tracker)
                # Once it is loaded, the copy is not needed any more.
                trainer.callbacks.append(LambdaCallback(on_train_start=lambda *_: resume_copy.cleanup()))  # type: ignore[attr-defined]
                trainer.fit(module, batches, validation, ckpt_path=state, weights_only=True)
            # Also after workers that were killed between the last step and this.
            if tracker is not None and ray.get(job.notes.has_new_model.remote()):
                register_best(tracker, job.checkpoints)


@contextlib.contextmanager
def tracked(job: WorkerJob, rank: int) -> Iterator[Tracker | None]:
    """Rank 0's tracker of the run as long as the block lasts; None for the others.

    Errors are noted before it closes, for that may take longer than the other ranks wait.
    """
    with contextlib.ExitStack() as stack:
        tracker = _open_tracker(job) if rank == 0 else None
        if tracker is not None:
            stack.enter_context(tracker)
        stack.enter_context(noted_failure(job.notes, rank, job.run_name))
        yield tracker


def _open_tracker(job: WorkerJob) -> Tracker:
    return open_tracker(job.config, job.run, job.run_name, str(job.data["manifest_hash"]))


def _note_start(job: WorkerJob, tracker: Tracker | None, step: int) -> None:
    """Rank 0 writes down at which step, and on how many workers and nodes, training starts."""
    node_ids = from_all_ranks(ray.get_runtime_context().get_node_id())
    if tracker is not None:
        ray.get(job.notes.train.remote())
        tracker.started(step, node=ray.util.get_node_ip_address(), node_ids=node_ids)
        tracker.send()


def loop_callbacks(
    config: ExperimentConfig,
    watch_loss: WatchLoss,
    deadline_s: float | None = None,
    is_told_to_stop: Callable[[], bool] = lambda: False,
) -> list[pl.Callback]:
    """What takes part in Lightning's loop besides saving and reporting: the average, and what ends the run."""
    training = config.training
    average = [WeightAverage(training.ema_decay)] if training.ema_decay else []
    patience = [StopWithoutGain(training)] if training.patience else []
    limits = StopAtLimits(deadline_s, is_told_to_stop, 60 * training.budget_minutes)
    return [watch_loss, *average, limits, *patience]


def loop_settings(config: ExperimentConfig, last_step: int) -> dict[str, Any]:
    """Lightning's, wherever it runs. It counts batches between validations, and steps in all."""
    training = config.training
    unused = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    return {
        "max_steps": last_step,
        "max_epochs": -1,
        "accumulate_grad_batches": training.accumulate,
        "val_check_interval": training.validate_every_steps * training.accumulate,
        "check_val_every_n_epoch": None,
        "num_sanity_val_steps": 0,
        "gradient_clip_val": config.optimizer.gradient_clip_norm or None,
        **dict.fromkeys(unused, False),
    }


def _make_trainer(job: WorkerJob, feed: FeedConfig, tracker: Tracker | None) -> pl.Trainer:
    config, gpus = job.config, job.resources.gpus_per_worker
    precision = config.training.precision
    if precision == "auto":
        precision = "bf16-mixed" if gpus and torch.cuda.is_bf16_supported() else "32-true"
    log_every_steps, keep = config.tracking.log_every_steps, functools.partial(keep_batch, feed, job.run)
    watch_loss = WatchLoss(config.training.skip_bad_batches, log_every_steps, keep)
    callbacks = loop_callbacks(
        config, watch_loss, job.deadline_s, lambda: ray.get(job.notes.is_told_to_stop.remote())
    )
    if tracker is not None:
        callbacks.append(TrackRun(config, tracker, job.notes, job.deadline_s, watch_loss))
    if config.training.journal:
        callbacks.append(ItemJournal(job.run))
    # Last: it saves what the others have come to.
    callbacks.append(ReportCheckpoint(config, job.data, job.checkpoints, watch_loss))
    trainer = pl.Trainer(
        **loop_settings(config, job.last_step),
        precision=precision,
        accelerator="gpu" if gpus else "cpu",
        devices="auto" if gpus else 1,
        # BatchNorm's statistics are sent before validations, which is when they are looked at; a step needs none.
        strategy=RayDDPStrategy(forward_sync_buffers=False),
        plugins=[RayLightningEnvironment()],
        callbacks=callbacks,
        use_distributed_sampler=False,
    )
    return prepare_trainer(trainer)


def _open_stream(job: WorkerJob, rank: int, start_step: int) -> RankBatches:
    """This rank's share of one execution that rank 0 starts, at the step and for the ranks there are now.

    Train's own `datasets=` would start it before the workers know which checkpoint they resume from.
    """
    training, num_workers = job.config.training, ray.train.get_context().get_world_size()
    feed = FeedConfig(
        corpus_uri=job.corpus_uri,
        mixing=job.config.mixing,
        seed=job.config.seed,
        global_batch=training.batch_size,
        num_workers=num_workers,
        # To the plan a step is a batch, several of which may make one of ours.
        start_step=start_step * training.accumulate,
        num_steps=(job.last_step - start_step) * training.accumulate,
    )
    resources = job.resources
    train_cpus = 0.0 if resources.mixes_elsewhere else resources.cpus_per_worker * num_workers
    shares = (
        split_among_ranks(feed, train_cpus=train_cpus, mixing_nodes=resources.mixing_nodes)
        if rank == 0
        else None
    )
    return RankBatches(_from_rank_0(shares)[rank], feed, rank)


def _from_rank_0(value: Any) -> Any:
    """Rank 0's value, on each rank."""
    message = [value]
    torch.distributed.broadcast_object_list(message, src=0)
    return message[0]


def _threads_per_worker() -> int:
    """This node's CPUs, shared by the workers that are on it."""
    here = ray.get_runtime_context().get_node_id()
    cpus = next(node["Resources"].get("CPU", 1) for node in ray.nodes() if node["NodeID"] == here)
    return max(1, int(cpus // ray.train.get_context().get_local_world_size()))


def _newest_state(job: WorkerJob, rank: int, folder: Path) -> Path | None:
    """The file of the last whole checkpoint, on this machine; None where there is none yet. Rank 0 chooses."""
    newest = None
    if rank == 0:
        newest, complaints = job.checkpoints.newest(folder)
        for complaint in complaints:
            job.notes.warn.remote(f"{complaint}; an earlier checkpoint is gone on from")
    newest = _from_rank_0(newest)
    return job.checkpoints.check(newest, folder, STATE_FILE) / STATE_FILE if newest else None


def _saved_progress(state: Path, job: WorkerJob) -> tuple[int, bool]:
    """The step of a checkpoint, and whether nothing is left to do after it."""
    saved = read_state(state)
    step = int(saved["global_step"])
    budget_s = 60 * job.config.training.budget_minutes
    return step, step >= job.last_step or was_stopped(saved["callbacks"], budget_s)
