"""`python -m jobs.promote`: finds the endpoint by its address, and refuses before anything changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.jobs.conftest import Done


def test_wrong_use_is_one_line(
    run_job: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, bundle: Path
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for arguments, words in (
        (["--bundle", "nowhere"], "nowhere does not exist"),
        (["--bundle", bundle, "--url", "http://127.0.0.1:1"], "none of your endpoints"),
    ):
        done = run_job("promote", *arguments)
        assert done.code == 2
        assert words in done.error
        assert done.err == f"{done.error}\n"
