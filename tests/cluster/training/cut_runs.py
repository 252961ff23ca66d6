"""Runs that are cut and resumed, and what must hold of them all."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from cluster.feeding.blocks import FeedConfig, make_plan
from cluster.settings.experiment import load_config
from cluster.training.loop.journal import read_lineage
from cluster.training.run import TrainingResult
from ww_data import Storage, open_corpus
from ww_models import load_bundle

LAST_STEP, INTERVAL = 24, 6  # of checkpoints, in steps
SETTINGS = [
    "resources.num_workers=2",
    "resources.torch_threads=1",
    f"training.max_steps={LAST_STEP}",
    f"training.validate_every_steps={INTERVAL}",
    "training.journal=true",
    "tracking.log_every_steps=1",
    # What a checkpoint has to hold besides weights and optimizer.
    "training.accumulate=2",
    "training.ema_decay=0.9",
]


def command_line(corpus: Path, storage: Path | str, *settings: str) -> list[str]:
    """Options of jobs.train for such a run."""
    pairs = [part for setting in (*SETTINGS, *settings) for part in ("--set", setting)]
    return ["--data", str(corpus), "--storage", str(storage), "--preset", "tiny", *pairs]


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = 400) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s} s"
        time.sleep(0.02)


def curves(run: Storage) -> list[dict[str, float | str]]:
    """The lines of metrics.jsonl so far."""
    if run.size("tracking/metrics.jsonl") is None:
        return []
    text = run.read("tracking/metrics.jsonl").decode()
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def has_checkpoint(run: Storage, step: int) -> bool:
    """Whether one of this step or a later one was finished."""
    steps = range(step, LAST_STEP + 1, INTERVAL)
    return any(run.size(f"checkpoint_{at:09d}/checkpoint.json") is not None for at in steps)


def reached(run: Storage) -> int:
    """The last step in the curves."""
    return max((int(line["step"]) for line in curves(run)), default=0)


def train_workers(root: psutil.Process) -> list[psutil.Process]:
    """Ray Train's worker processes among the descendants of one process."""
    found = []
    for process in root.children(recursive=True):
        try:
            if "RayTrainWorker" in " ".join(process.cmdline()[:1]):
                found.append(process)
        except psutil.Error:  # it ended meanwhile
            continue
    return found


def starts(run: Storage) -> list[tuple[int, int]]:
    """(step resumed from, workers) of each start in the curves."""
    return [
        (int(line["step"]), int(line["num_workers"])) for line in curves(run) if line["series"] == "start"
    ]


def assert_same_end(cut: Storage, whole: TrainingResult, tmp_path: Path) -> None:
    """The bundle is that of the uninterrupted run, and so is the loss of the last step."""
    from cluster.runs.transfer import fetch_folder

    losses = [
        {line["step"]: line["loss"] for line in curves(run) if line["series"] == "train"}
        for run in (cut, whole.run)
    ]
    assert losses[0][LAST_STEP] == pytest.approx(losses[1][LAST_STEP], abs=1e-6)
    fetch_folder(cut, "bundle", tmp_path / "bundle-of-cut")
    expected = load_bundle(whole.bundle).state_dict()
    for name, weight in load_bundle(tmp_path / "bundle-of-cut").state_dict().items():
        assert abs(weight - expected[name]).max() <= 1e-6, name


def assert_nothing_lost(run: Storage, corpus_uri: Path) -> None:
    """Along the way to the last weights each step is there with its items, each of them once in each complete epoch."""
    lineage = read_lineage(run)
    assert list(lineage) == list(range(1, LAST_STEP + 1))
    config = load_config("tiny", SETTINGS)
    per_step = config.training.items_per_step
    for step, positions in lineage.items():
        assert positions == list(range((step - 1) * per_step, step * per_step)), step
    corpus = open_corpus(corpus_uri)
    feed = FeedConfig(
        corpus_uri=str(corpus_uri),
        mixing=config.mixing,
        seed=config.seed,
        global_batch=config.training.batch_size,
        num_workers=1,
        start_step=0,
        num_steps=1,
    )
    epoch_N, shard_N, row_N = make_plan(corpus, feed).at(0, LAST_STEP * per_step)
    segments = {(n, row) for n, s in enumerate(corpus.shards("train")) for row in range(s.num_segments)}
    items = sorted(position for positions in lineage.values() for position in positions)
    seen = Counter((int(epoch_N[at]), int(shard_N[at]), int(row_N[at])) for at in items)
    complete = [
        epoch for epoch in sorted(set(epoch_N.tolist())) if epoch < int(epoch_N.max())
    ]  # the last one is cut
    assert len(complete) >= 2
    for epoch in complete:
        of_epoch = {(shard, row): n for (at, shard, row), n in seen.items() if at == epoch}
        assert of_epoch == dict.fromkeys(segments, 1), f"epoch {epoch}"
