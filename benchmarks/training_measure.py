"""The two that take turns in benchmarks/training.py: training as jobs.train runs it, and a plain PyTorch loop."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from threading import Barrier
from typing import Any
from unittest import mock

import psutil
import pytorch_lightning as pl
import ray.train
import torch

import cluster.training.run
from cluster.feeding.blocks import mix_positions
from cluster.feeding.stream import FeedConfig, RankBatches
from cluster.machine.session import connect
from cluster.settings.experiment import ExperimentConfig, load_config
from cluster.training.run import train_worker
from ww_data import open_corpus
from ww_models import DenoisingLoss, build_model

CORES = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """What both do: `steps` steps of a preset after `warm_up` ones, in `num_workers` processes of one thread each.

    stride: steps between two looks at the clock. On a GPU each look waits for what was asked of it, so there are fewer.
    """

    preset: str
    corpus_uri: str
    num_workers: int = 1
    warm_up: int = 8
    steps: int = 12
    stride: int = 1
    on_gpu: bool = False
    overrides: tuple[str, ...] = ()

    @functools.cached_property
    def config(self) -> ExperimentConfig:
        """The preset, without what runs beside training, and without an end: the clock ends it."""
        settings = ["training.num_pesq_mixtures=0", "training.accumulate=1", "tracking.clearml=never"]
        settings += [f"training.{limit}=100000" for limit in ("max_steps", "validate_every_steps")]
        settings += [f"resources.num_workers={self.num_workers}", "resources.torch_threads=1"]
        settings += [f"resources.gpus_per_worker={int(self.on_gpu)}", *self.overrides]
        return load_config(self.preset, settings)

    @property
    def audio_s_per_step(self) -> float:
        """Of the whole batch of one worker, or of all of them."""
        item_s = self.config.mixing.crop_s or open_corpus(self.corpus_uri).segment_s
        return self.config.training.batch_size * item_s

    @property
    def feed(self) -> FeedConfig:
        return FeedConfig(
            corpus_uri=self.corpus_uri,
            mixing=self.config.mixing,
            seed=self.config.seed,
            global_batch=self.config.training.batch_size,
            num_workers=self.num_workers,
            start_step=0,
            num_steps=self.warm_up + self.steps,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speed:
    """Of one process, per step: seconds on the clock, CPU seconds, and the part of the time that it waited for data.

    steps_s: one after the other; where the clock is looked at once in several steps, their mean.
    busy_cores: of the machine meanwhile, by whatever process.
    from_s, to_s: when it was measured, on the clock that all processes of a machine share.
    """

    steps_s: list[float]
    step_cpu_s: float
    wait_fraction: float
    busy_cores: float
    from_s: float
    to_s: float

    @property
    def step_s(self) -> float:
        return median(self.steps_s)


class StepClock:
    """Looks at the clocks after the steps that are measured."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self._step = 0
        self._looks: list[
            tuple[float, float, float, float]
        ] = []  # (clock, CPU, waited, machine's CPU) seconds

    def tick(self, waited_s: float = 0.0) -> bool:
        """To be called after each step, with the seconds it has waited for data in all; whether all is measured."""
        self._step += 1
        measured = self._step - self.work.warm_up
        if measured >= 0 and measured % self.work.stride == 0:
            if self.work.on_gpu:
                torch.cuda.synchronize()
            self._looks.append((time.perf_counter(), time.process_time(), waited_s, _machine_cpu_s()))
        return measured >= self.work.steps

    def speed(self) -> Speed:
        clock_s, cpu_s, waited_s, machine_cpu_s = zip(*self._looks, strict=True)
        elapsed_s = clock_s[-1] - clock_s[0]
        return Speed(
            steps_s=self._each_step(clock_s),
            step_cpu_s=median(self._each_step(cpu_s)),
            wait_fraction=(waited_s[-1] - waited_s[0]) / elapsed_s,
            busy_cores=(machine_cpu_s[-1] - machine_cpu_s[0]) / elapsed_s,
            from_s=clock_s[0],
            to_s=clock_s[-1],
        )

    def _each_step(self, looks: tuple[float, ...]) -> list[float]:
        return [(later - earlier) / self.work.stride for earlier, later in itertools.pairwise(looks)]


def _machine_cpu_s() -> float:
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system)


def through_trainer(work: Work) -> list[Speed]:
    """Each worker's speed in `run_training`, in a Ray of its own."""
    with tempfile.TemporaryDirectory(prefix="ww-training-") as folder:
        worker = functools.partial(clocked_worker, work, folder)
        with (
            connect(num_cpus=None if work.on_gpu else CORES),
            mock.patch.object(cluster.training.run, "train_worker", worker),
        ):
            cluster.training.run.run_training(
                work.config, work.corpus_uri, folder, "run", show_progress=False
            )
        ranks = range(work.num_workers)
        return [Speed(**json.loads(_speed_file(folder, rank).read_text())) for rank in ranks]


def clocked_worker(work: Work, folder: str, parameters: dict[str, Any]) -> None:
    """`train_worker`, with one more callback in Lightning's loop, which notes its steps' times and ends it."""
    clock, fit = StepClock(work), pl.Trainer.fit

    class Tick(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            batches = trainer.train_dataloader
            assert isinstance(batches, RankBatches)
            trainer.should_stop = clock.tick(batches.waited_s)

    def fit_with_clock(trainer: pl.Trainer, *arguments: Any, **settings: Any) -> None:
        trainer.callbacks.append(Tick())  # type: ignore[attr-defined]
        fit(trainer, *arguments, **settings)

    with mock.patch.object(pl.Trainer, "fit", fit_with_clock):
        train_worker(parameters)
    file = _speed_file(folder, ray.train.get_context().get_world_rank())
    file.write_text(json.dumps(dataclasses.asdict(clock.speed())))


def _speed_file(folder: str, rank: int) -> Path:
    return Path(folder) / f"speed-{rank}.json"


def through_plain_loops(work: Work) -> list[Speed]:
    """The speed of independent plain loops, as many as there are workers, that start at the same moment."""
    processes = multiprocessing.get_context("spawn")
    together = processes.Barrier(work.num_workers)
    with ProcessPoolExecutor(work.num_workers, processes, _meet_at, (together,)) as pool:
        return list(pool.map(plain_loop, [work] * work.num_workers, range(work.num_workers)))


def _meet_at(barrier: Barrier) -> None:
    global _together
    _together = barrier


_together: Barrier


def plain_loop(work: Work, rank: int) -> Speed:
    """One process' speed over a rank's batches, all of which lie in memory before it starts."""
    config, feed, device = work.config, work.feed, torch.device("cuda" if work.on_gpu else "cpu")
    torch.set_num_threads(1)
    torch.manual_seed(config.seed)
    model = build_model(config.model_name, **dataclasses.asdict(config.model)).to(device).train()
    loss = DenoisingLoss(config.loss, config.model.sample_rate).to(device)
    adam = config.optimizer
    optimizer = torch.optim.Adam(model.parameters(), lr=adam.learning_rate, betas=(adam.beta1, adam.beta2))
    items = [mix_positions(feed, feed.batch_positions(step, rank)) for step in range(feed.num_steps)]
    clock = StepClock(work)
    _together.wait()
    for batch in items:
        noisy, clean = (
            torch.from_numpy(side)[:, None].to(device, non_blocking=True)
            for side in (batch.noisy_NT, batch.clean_NT)
        )
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=work.on_gpu):
            total = loss(model(noisy), clean, noisy).total
        total.backward()
        if adam.gradient_clip_norm:
            torch.nn.utils.clip_grad_norm_(model.parameters(), adam.gradient_clip_norm)
        optimizer.step()
        clock.tick()
    return clock.speed()
