"""What several tests of this package need."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .clearml_server import ClearMLServer
from .s3_server import s3_server


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
