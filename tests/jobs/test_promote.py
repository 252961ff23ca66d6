"""`python -m jobs.promote`: finds the endpoint by its address, and refuses before anything changes."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.evaluation.report import write_report
from cluster.serving.deploy import promotion
from tests.cluster.evaluation.made_scores import FACTS, make_report
from tests.jobs.conftest import Done
from ww_models import build_model, read_bundle_info, save_bundle


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


@pytest.fixture
def two_bundles(tmp_path: Path) -> dict[str, Path]:
    """As "<a>" and "b" of a made-up report."""
    make = {"<a>": 2, "b": 3}
    return {
        name: save_bundle(tmp_path / "runs" / name[-1], build_model("demucs", hidden=size, depth=2))
        for name, size in make.items()
    }


def report_of(bundles: dict[str, Path], folder: Path, gain: float, rival_gain: float) -> Path:
    report = make_report(gain, rival_gain=rival_gain)
    systems = [
        dataclasses.replace(
            system,
            model=dataclasses.replace(
                FACTS,
                bundle_id=read_bundle_info(bundles[system.name]).id,
                path=str(bundles[system.name]),
            ),
        )
        if system.name in bundles
        else system
        for system in report.systems
    ]
    write_report(dataclasses.replace(report, systems=tuple(systems)), folder)
    return folder


def test_the_best_of_a_report_comes_into_force_and_goes_again(
    run_job: Callable[..., Done],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    two_bundles: dict[str, Path],
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    first, second = (read_bundle_info(bundle).id for bundle in two_bundles.values())
    to = ("--to", tmp_path / "store")
    report = ("--report", report_of(two_bundles, tmp_path / "one", 0.5, 0.2))
    assert "more than 0.001" in run_job("promote", *report, *to, "--max-real-time-factor", 0.001).error
    assert not (tmp_path / "store" / "promotions").exists(), "refused, and yet written down"
    assert f"{first} is in force" in run_job("promote", *report, *to, "--min-clean-pesq", 4).out
    assert "not surely better than the model in force" in run_job("promote", *report, *to).error
    better = ("--report", report_of(two_bundles, tmp_path / "two", 0.5, 0.9))
    assert f"{second} is in force" in run_job("promote", *better, *to).out
    assert f"{first} is in force" in run_job("promote", "--rollback", *to).out
    assert "nothing to go back to" in run_job("promote", "--rollback", *to).error
    worse = run_job("promote", *report, *to, "--anyway")
    assert f"{second} is in force" in worse.out
    history = run_job("promote", "--history", *to).out
    assert history.count("promote") == 3
    assert history.count("rollback") == 1
    assert "overruled: it is not surely better" in history


def test_what_the_report_did_not_measure_is_refused(
    run_job: Callable[..., Done],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    two_bundles: dict[str, Path],
    bundle: Path,
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    to = ("--to", tmp_path / "store")
    report = report_of(two_bundles, tmp_path / "one", 0.5, 0.2)
    assert "give one of --report, --rollback, --history and --bundle" in run_job("promote", *to).error
    assert "--history needs --to" in run_job("promote", "--history").error
    assert "jobs.evaluate" in run_job("promote", "--report", tmp_path, *to).error
    other = {"<a>": bundle, "b": two_bundles["b"]}
    run_job("promote", "--report", report_of(other, tmp_path / "other", 0.5, 0.2), *to)
    refused = run_job("promote", "--report", report, *to).error
    assert f"does not measure the model in force ({read_bundle_info(bundle).id})" in refused
    weights = two_bundles["<a>"] / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    damaged = run_job("promote", "--report", report, *to, "--anyway")
    assert damaged.code == 2
    assert str(two_bundles["<a>"]) in damaged.error
    assert run_job("promote", "--history", *to).out.count("promote") == 1
