"""Nodes that are killed under a run: it resumes elsewhere, or with fewer workers, over the same items."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.training.run import TrainingResult
from tests.cluster.training.cut_runs import (
    INTERVAL,
    assert_nothing_lost,
    assert_same_end,
    command_line,
    has_checkpoint,
    starts,
    wait_until,
)
from tests.cluster.two_node_cluster import TwoNodes, two_nodes
from ww_data import Storage

pytestmark = pytest.mark.cluster

ONE_ON_EACH_NODE = "resources.cpus_per_worker=1.2"  # of two CPUs


@pytest.fixture(scope="module")
def nodes() -> Iterator[TwoNodes]:
    """How soon a dead node is noticed is Ray's to say; here it is told to look often."""
    quick = {"RAY_health_check_period_ms": "500", "RAY_health_check_failure_threshold": "4"}
    with two_nodes(**quick) as cluster:
        yield cluster


def train_and_kill_a_node(nodes: TwoNodes, options: list[str], run: Storage, add: bool) -> str:
    """What a run prints under which the newest node dies after its first checkpoint."""
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs.train", *options, "--name", "cut"],
        env=nodes.environment | {"RAY_ADDRESS": nodes.address},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        wait_until(lambda: process.poll() is not None or has_checkpoint(run, INTERVAL), "a checkpoint")
        nodes.kill_newest()
        if add:
            nodes.add()
        output, _ = process.communicate(timeout=1200)
    finally:
        process.kill()
    assert process.returncode == 0, output
    return output


@pytest.mark.soak
def test_a_run_goes_on_on_a_new_node_and_ends_where_an_uninterrupted_one_ends(
    nodes: TwoNodes, whole: TrainingResult, small_corpus: Path, tmp_path: Path
) -> None:
    run = Storage(tmp_path / "cut")
    train_and_kill_a_node(nodes, command_line(small_corpus, tmp_path, ONE_ON_EACH_NODE), run, add=True)
    assert [workers for _, workers in starts(run)] == [2, 2]
    assert starts(run)[1][0] >= INTERVAL
    assert_nothing_lost(run, small_corpus)
    assert_same_end(run, whole, tmp_path)


def test_an_elastic_run_goes_on_with_fewer_workers_over_the_same_items(
    nodes: TwoNodes, small_corpus: Path, tmp_path: Path
) -> None:
    run = Storage(tmp_path / "cut")
    settings = (ONE_ON_EACH_NODE, "resources.placement_timeout_s=10")
    options = [*command_line(small_corpus, tmp_path, *settings), "--workers", "1..2"]
    train_and_kill_a_node(nodes, options, run, add=False)
    assert [workers for _, workers in starts(run)] == [2, 1]
    assert starts(run)[1][0] >= INTERVAL
    assert_nothing_lost(run, small_corpus)
