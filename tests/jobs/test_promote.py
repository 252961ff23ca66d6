"""`python -m jobs.promote`: finds the endpoint by its address, and refuses before anything changes."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.serving.deploy import promotion
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


def test_the_only_endpoint_needs_no_address(
    run_job: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, bundle: Path
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(promotion, "promote", lambda bundles, *, keep: [("id", str(bundles[0]))])
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, contextlib.ExitStack() as endpoints:
        monkeypatch.setattr(promotion, "_FOLDERS", f"{Path(folder).name}/ww-ray-{{pid}}-*")
        assert "none of your endpoints" in run_job("promote", "--bundle", bundle).error
        ray_of_its_own = Path(folder) / f"ww-ray-{os.getpid()}-x"
        ray_of_its_own.mkdir()
        endpoints.enter_context(promotion.listening("http://127.0.0.1:8001"))
        assert run_job("promote", "--bundle", bundle).out == f"serving id from {bundle} (default)\n"
        endpoints.enter_context(promotion.listening("http://127.0.0.1:8002"))
        assert "at the ports 8001, 8002; name" in run_job("promote", "--bundle", bundle).error
        named = ("--bundle", bundle, "--url", "http://127.0.0.1:8002")
        assert run_job("promote", *named).code == 0
