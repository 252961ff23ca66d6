"""What several tests of this package need."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.settings.experiment import load_config
from cluster.training.run import TrainingResult, run_training
from tests.cluster.s3_server import s3_server
from tests.cluster.tracking.clearml_server import ClearMLServer
from tests.cluster.training.cut_runs import SETTINGS, assert_nothing_lost


@pytest.fixture
def server() -> Iterator[ClearMLServer]:
    """ClearML's, on loopback; at the end it must have been asked for nothing that it does not know."""
    with ClearMLServer() as running:
        yield running
        assert running.unknown == []


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A real S3 server on loopback: what an address there starts with, and the options behind it."""
    with s3_server(tmp_path_factory.mktemp("s3") / "log") as address:
        yield address


@pytest.fixture(scope="session")
def whole(local_ray: str, small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    """An uninterrupted run, which those that are cut are held against."""
    config, folder = load_config("tiny", SETTINGS), tmp_path_factory.mktemp("runs")
    result = run_training(config, str(small_corpus), folder, "whole", show_progress=False)
    assert_nothing_lost(result.run, small_corpus)
    return result
