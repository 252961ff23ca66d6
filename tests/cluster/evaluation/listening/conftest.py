"""What the tests of the listening test share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.evaluation.listening.made_reports import write_made_report


@pytest.fixture(scope="session")
def made_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report's folder with three examples; never written to."""
    return write_made_report(tmp_path_factory.mktemp("listening") / "report")
