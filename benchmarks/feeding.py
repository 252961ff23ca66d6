"""How fast mixtures reach a consumer: through Ray Data, and beside it through torch DataLoaders.

    python benchmarks/feeding.py                     # two hours of made-up sound, two minutes
    python benchmarks/feeding.py --data data/mine --chain default

All read the same shards with the same mixing code on the same two cores, in turns. Ray Data is what training uses; it
is started anew for each round and is running when the clock starts. The plain DataLoader has two workers, is asked for
one mixture at a time and collates them; the other one is given our blocks, a whole step mixed at once, and has none of
what Ray does for many nodes: no order to keep between machines, no store that they share. The consumer adds all
samples up, so that bytes that were never read do not count.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import secrets
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import psutil
import ray
import torch
from made_corpus import make_corpus
from rich.console import Console
from rich.table import Table

from cluster.feeding.blocks import mix_positions
from cluster.feeding.stream import OBJECT_STORE_BUDGET_BYTES, FeedConfig, RankBatches, split_among_ranks
from ww_data import AugmentConfig, MixingConfig, open_corpus

CORES = 2
OBJECT_STORE_BYTES = 1_500_000_000
RAY_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0"}
Pairs = Generator[tuple[torch.Tensor, torch.Tensor], None, None]  # batches, noisy and clean
MIN_SPEED, MAX_FIRST_S, MAX_GAP_S = 4000.0, 4.0, 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What one contestant did in one round. `speed`: seconds of audio per second, after the first batch."""

    first_s: float
    speed: float
    gap_s: float
    audio_s_per_cpu_s: float
    store_bytes: int = 0  # the most that Ray's object store held


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", metavar="DIR", help="corpus that jobs.prepare wrote (default: made up)")
    parser.add_argument("--hours", type=float, default=2.0, help="of made-up speech (default: %(default)s)")
    parser.add_argument(
        "--chain", choices=["none", "default"], default="none", help="augmentation (default: none)"
    )
    parser.add_argument("--batch", type=int, default=32, help="items of a batch (default: %(default)s)")
    parser.add_argument(
        "--steps", type=int, default=20_000, help="of the run that is fed (default: %(default)s)"
    )
    parser.add_argument(
        "--seconds", type=float, default=15.0, help="of each measurement (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--check", action="store_true", help="a missed bar is exit code 1")
    return parser


def main() -> None:
    arguments = parser().parse_args()
    os.environ.update(RAY_ENVIRONMENT)
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="ww-feeding-") as folder:
        data = arguments.data or make_corpus(Path(folder), arguments.hours)
        feed = FeedConfig(
            corpus_uri=str(data),
            mixing=MixingConfig(augment=AugmentConfig(chain=arguments.chain)),
            seed=0,
            global_batch=arguments.batch,
            num_workers=1,
            start_step=0,
            num_steps=arguments.steps,
        )
        contestants = (through_ray, through_plain_loader, through_step_loader)
        rounds = [tuple(run(feed, arguments.seconds) for run in contestants) for _ in range(arguments.rounds)]
    met = report(rounds, bars=arguments.chain == "none")
    raise SystemExit(0 if met or not arguments.check else 1)


def through_ray(feed: FeedConfig, measured_s: float) -> Run:
    """What a training worker gets, in a Ray of its own."""
    with small_ray(), peak_of_store() as peak:
        time.sleep(3)  # until its idle workers are there, as in any cluster that was not started just now

        def batches() -> Pairs:
            for batch in RankBatches(split_among_ranks(feed)[0], feed, 0):
                yield batch.noisy, batch.clean

        run = measure(batches, feed, measured_s)
        return dataclasses.replace(run, store_bytes=peak())


def through_plain_loader(feed: FeedConfig, measured_s: float) -> Run:
    """A torch DataLoader over the mixtures, one by one."""
    loader = torch.utils.data.DataLoader(Mixtures(feed), batch_size=feed.global_batch, num_workers=CORES)
    return measure(lambda: (pair for pair in loader), feed, measured_s)


def through_step_loader(feed: FeedConfig, measured_s: float) -> Run:
    """A torch DataLoader over whole steps, each of which is mixed at once."""
    loader = torch.utils.data.DataLoader(Steps(feed), batch_size=None, num_workers=CORES, prefetch_factor=8)
    return measure(lambda: (pair for pair in loader), feed, measured_s)


class Mixtures(torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """The items of a feed in their order: noisy and clean, (1, T) each."""

    def __init__(self, feed: FeedConfig) -> None:
        self.feed = feed

    def __len__(self) -> int:
        return self.feed.num_steps * self.feed.global_batch

    def __getitem__(self, position: int) -> tuple[torch.Tensor, torch.Tensor]:
        items = mix_positions(self.feed, np.array([position]))
        return torch.from_numpy(items.noisy_NT), torch.from_numpy(items.clean_NT)


class Steps(torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """The steps of a feed: noisy and clean, (B, 1, T) each."""

    def __init__(self, feed: FeedConfig) -> None:
        self.feed = feed

    def __len__(self) -> int:
        return self.feed.num_steps

    def __getitem__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        items = mix_positions(self.feed, self.feed.batch_positions(step, 0))
        return torch.from_numpy(items.noisy_NT)[:, None], torch.from_numpy(items.clean_NT)[:, None]


def measure(start: Callable[[], Pairs], feed: FeedConfig, measured_s: float) -> Run:
    """Asks for the first batch, then takes all that comes for a number of seconds."""
    asked_s = time.perf_counter()
    with closing(start()) as batches:
        add_up(*next(batches))
        first_s = last_s = time.perf_counter()
        cpu_s, num_samples, gap_s = all_cpu_s(), 0, 0.0
        while last_s < first_s + measured_s:
            noisy, clean = next(batches)
            add_up(noisy, clean)
            num_samples += noisy.numel()
            now_s = time.perf_counter()
            gap_s, last_s = max(gap_s, now_s - last_s), now_s
        cpu_s = all_cpu_s() - cpu_s
    audio_s = num_samples / open_corpus(feed.corpus_uri).sample_rate
    return Run(
        first_s=first_s - asked_s,
        speed=audio_s / (last_s - first_s),
        gap_s=gap_s,
        audio_s_per_cpu_s=audio_s / cpu_s,
    )


def add_up(noisy: torch.Tensor, clean: torch.Tensor) -> float:
    return float(noisy.sum() + clean.sum())


def all_cpu_s() -> float:
    """CPU seconds of this process and of all below it."""
    total_s = 0.0
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total_s += times.user + times.system
    return total_s


@contextmanager
def small_ray() -> Iterator[None]:
    """A Ray of this machine alone, as `cluster.machine.session.connect` starts it, but with a small object store."""
    with tempfile.TemporaryDirectory(prefix="ww-ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        ray.init(
            address="local",
            num_cpus=CORES,
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            logging_level=logging.ERROR,
            log_to_driver=False,
            _temp_dir=folder,
            _node_ip_address="127.0.0.1",
        )
        try:
            context = ray.data.DataContext.get_current()
            context.enable_progress_bars = context.print_on_execution_start = False
            logging.getLogger("ray.data").setLevel(logging.ERROR)
            yield
        finally:
            # Threads that fetch ahead end a moment later; a thread that finds Ray gone ends the whole process.
            time.sleep(2)
            ray.shutdown()


@contextmanager
def peak_of_store() -> Iterator[Callable[[], int]]:
    """Asks Ray four times a second how full its object store is; gives a function that returns the most so far."""
    from ray._private.internal_api import node_stats  # the public API has no such thing without a dashboard

    node, most, stop = ray.nodes()[0], [0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.25):
            stats = node_stats(node["NodeManagerAddress"], node["NodeManagerPort"], include_memory_info=False)
            most[0] = max(most[0], stats.store_stats.object_store_bytes_used)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield lambda: most[0]
    finally:
        stop.set()
        thread.join()


def report(rounds: list[tuple[Run, Run, Run]], *, bars: bool) -> bool:
    """Prints the rounds' figures and their medians beside the bars; whether all of them are met."""
    ours, plain, steps = zip(*rounds, strict=True)
    rows: list[tuple[str, Callable[[Run], float], str, Callable[[float], bool] | None]] = [
        ("audio s per s", lambda run: run.speed, f">= {MIN_SPEED:g}", lambda value: value >= MIN_SPEED),
        ("first batch, s", lambda run: run.first_s, f"<= {MAX_FIRST_S:g}", lambda value: value <= MAX_FIRST_S),
        ("longest gap, s", lambda run: run.gap_s, f"<= {MAX_GAP_S:g}", lambda value: value <= MAX_GAP_S),
        ("peak of object store, MB", lambda run: run.store_bytes / 1e6, f"<= {OBJECT_STORE_BYTES / 1e6:g}",
         lambda value: value <= OBJECT_STORE_BYTES / 1e6),
        ("audio s per CPU s", lambda run: run.audio_s_per_cpu_s, "", None),
    ]  # fmt: skip
    table = Table(title=f"mixtures into a consumer, {CORES} cores, {len(rounds)} rounds: median (each round)")
    for column in ("", "Ray Data", "plain DataLoader", "DataLoader of steps", "bar", ""):
        table.add_column(column, justify="right")
    all_met = True
    for name, value_of, bar, is_met in rows:
        columns = [[value_of(run) for run in runs] for runs in (ours, plain, steps)]
        met = is_met is None or is_met(statistics.median(columns[0]))
        all_met &= met or not bars
        verdict = "" if is_met is None or not bars else "met" if met else "missed"
        table.add_row(name, *map(shown, columns), bar if bars else "", verdict)
    against_plain, against_steps = (
        [our.speed / their.speed for our, their in zip(ours, runs, strict=True)] for runs in (plain, steps)
    )
    met = statistics.median(against_plain) >= 1
    all_met &= met or not bars
    verdict = ("met" if met else "missed") if bars else ""
    table.add_row(
        "Ray Data / this",
        "",
        shown(against_plain),
        shown(against_steps),
        ">= 1 (plain)" if bars else "",
        verdict,
    )
    console = Console(width=130)
    console.print(table)
    console.print(
        f"Ray Data may mix ahead {OBJECT_STORE_BUDGET_BYTES / 1e6:.0f} MB on each node (cluster/feeding/stream.py)."
    )
    return all_met


def shown(values: list[float]) -> str:
    if not values:
        return ""
    each = ", ".join(f"{value:.3g}" if value < 100 else f"{value:.0f}" for value in values)
    median = statistics.median(values)
    return f"{median:.3g} ({each})" if median < 100 else f"{median:.0f} ({each})"


if __name__ == "__main__":
    main()
