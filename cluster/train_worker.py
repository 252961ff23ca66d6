"""What runs in each worker of a training run: the model, this rank's share of the stream, and Lightning's loop."""

from __future__ import annotations

import dataclasses
import functools
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import ray
import ray.train
import torch
from pytorch_lightning.callbacks import LambdaCallback
from ray.train import Checkpoint
from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment, prepare_trainer

from cluster.bad_batches import WatchLoss, keep_batch
from cluster.callbacks import ReportCheckpoint, TrackRun
from cluster.code_version import code_commit
from cluster.config import ExperimentConfig
from cluster.datasets import FeedConfig, RankBatches, split_among_ranks
from cluster.finetune import load_start
from cluster.lightning import DenoisingModule
from cluster.loop_config import TrainingConfig
from cluster.perceptual import ScoreBeside
from cluster.run_folder import FAILURE_FILE
from cluster.stopping import StopAtLimits, StopWithoutGain, was_stopped
from cluster.tracking import Tracker
from cluster.validation import stored_mixtures
from cluster.weight_average import WeightAverage
from ww_models import build_model

STATE_FILE = "state.ckpt"
FAILED_RANKS = ".failed-ranks"  # a folder with a file for each rank that has ended with an error of its own
_AWAIT_RANKS_S = 5.0


@dataclasses.dataclass(frozen=True)
class WorkerJob:
    """All that a worker needs to know.

    finetuned_from: id of the weights that the run starts from, or "". last_step: optimizer steps of the whole run.
    deadline_s: when it has to end, seconds since 1970, or None.
    scorer: of PESQ and STOI (see cluster.perceptual), or None to have them scored while validating.
    """

    config: ExperimentConfig
    resources: dict[str, Any]
    corpus_uri: str
    data: dict[str, Any]
    run_dir: str
    finetuned_from: str
    last_step: int
    deadline_s: float | None
    scorer: Any


def train_worker(parameters: dict[str, Any]) -> None:
    """One rank's part of a run; Ray Train calls it in every worker, again after each restart.

    Ray restarts workers whatever ended them. An error that would only come again (ValueError: a loss that is not
    finite, say) is noted in the run's folder instead, for the driver to raise. Where all ranks have it, all end well;
    where one has, the others wait for its messages, so it fails for Ray to end them, and the restarted ones end well.
    """
    job: WorkerJob = parameters["job"]
    failure = Path(job.run_dir) / FAILURE_FILE
    if failure.is_file():
        return
    try:
        _train(job, parameters["board"])
    except ValueError as error:
        _note_failure(Path(job.run_dir), error)
        if not _all_ranks_fail(Path(job.run_dir)):
            raise


def _note_failure(run_dir: Path, error: ValueError) -> None:
    """Writes the error down for the driver, and for the other ranks that this one has failed."""
    rank, failure = ray.train.get_context().get_world_rank(), run_dir / FAILURE_FILE
    temporary = failure.with_name(f".{failure.name}.{rank}")
    temporary.write_text(str(error), encoding="utf-8")
    temporary.replace(failure)
    (run_dir / FAILED_RANKS).mkdir(exist_ok=True)
    (run_dir / FAILED_RANKS / str(rank)).touch()


def _all_ranks_fail(run_dir: Path) -> bool:
    """Waits a little for the other ranks to fail too."""
    folder, world_size = run_dir / FAILED_RANKS, ray.train.get_context().get_world_size()
    until_s = time.monotonic() + _AWAIT_RANKS_S
    while (failed := len(list(folder.iterdir()))) < world_size and time.monotonic() < until_s:
        time.sleep(0.05)
    return failed == world_size


def _train(job: WorkerJob, board: Any) -> None:
    config = job.config
    torch.set_num_threads(job.resources["torch_threads"] or _threads_per_worker())
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    pl.seed_everything(config.seed, verbose=False)
    model = build_model(config.model_name, **dataclasses.asdict(config.model))
    load_start(Path(job.run_dir), model, job.finetuned_from)
    module = DenoisingModule(
        model,
        config.loss,
        config.optimizer,
        config.training,
        config.seed,
        last_step=job.last_step,
        perceptual_beside=job.scorer is not None,
    )

    checkpoint = ray.train.get_checkpoint()
    resume_copy = tempfile.TemporaryDirectory(prefix="ww-resume-")
    with resume_copy as folder:
        state = _fetch_state(checkpoint, Path(folder))
        start_step, finished = _saved_progress(state, job.last_step) if state else (0, False)
        context = ray.train.get_context()
        if finished:
            if context.get_world_rank() == 0:
                _open_tracker(job).close()  # killed after its last step: its task must not stay "running"
            return
        feed = _feed(job, start_step)
        batches = RankBatches(_share_of_stream(feed, job), feed, context.get_world_rank())
        num_nodes = len(set(_of_all_ranks(ray.get_runtime_context().get_node_id())))
        tracker = _open_tracker(job) if context.get_world_rank() == 0 else None
        try:
            if tracker is not None:
                tracker.started(start_step, num_workers=context.get_world_size(), num_nodes=num_nodes)
            trainer = _lightning_trainer(job, feed, tracker, board, when_loaded=resume_copy.cleanup)
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
        except ValueError as error:
            # Now: closing the tracker may take longer than the others wait.
            _note_failure(Path(job.run_dir), error)
            raise
        finally:
            if tracker is not None:
                tracker.close(failed=sys.exc_info()[0] is not None)


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
    job: WorkerJob, feed: FeedConfig, tracker: Tracker | None, board: Any, when_loaded: Callable[[], None]
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
        functools.partial(keep_batch, feed, Path(job.run_dir)),
    )
    callbacks = loop_callbacks(config.training, job.last_step, watch_loss, job.deadline_s)
    callbacks.append(LambdaCallback(on_train_start=lambda trainer, module: when_loaded()))
    late_scores: dict[int, dict[str, float]] = {}
    if job.scorer is not None:
        beside = ScoreBeside(job.scorer, tracker, config.tracking.log_every_steps)
        callbacks.append(beside)
        late_scores = beside.scores
    if ray.train.get_context().get_world_rank() == 0:
        callbacks.append(
            TrackRun(
                config,
                card,
                tracker,
                board,
                job.last_step,
                job.deadline_s,
                late_scores,
                watch_loss=watch_loss,
                run_dir=Path(job.run_dir),
            )
        )
    # Last: it saves what the others have come to.
    callbacks.append(ReportCheckpoint(config, card, STATE_FILE, watch_loss))
    trainer = pl.Trainer(
        **loop_limits(config.training, job.last_step),
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


def _fetch_state(checkpoint: Checkpoint | None, folder: Path) -> Path | None:
    if checkpoint is None:
        return None
    return Path(checkpoint.to_directory(folder)) / STATE_FILE


def _open_tracker(job: WorkerJob) -> Tracker:
    run_dir = Path(job.run_dir)
    tags = [job.config.preset or job.config.model_name, f"manifest:{str(job.data['manifest_hash'])[:12]}"]
    tags += [f"commit:{commit}" for commit in (code_commit(),) if commit]
    tracker = Tracker(job.config.tracking, run_dir / "tracking", run_dir.name, tags=tags)
    tracker.config(job.config.flat())
    return tracker
