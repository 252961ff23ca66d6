"""What ClearML keeps of a run: on a server, and as an offline session."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile as sf

from cluster.settings.experiment import load_config
from tests.cluster.tracking.clearml_runs import (
    EXPECTED,
    finish,
    offline_curves,
    offline_sessions,
    run,
    start,
    wait_until,
)
from tests.cluster.tracking.clearml_server import ClearMLServer


def test_a_server_hears_everything(server: ClearMLServer, tmp_path: Path) -> None:
    process = start(tmp_path, server.environment, then="sys.stdin.readline()")
    wait_until(
        lambda: bool(server.curve(":monitor:machine", "memory_used_gb"))
    )  # read some seconds after the start
    _, said = finish(process)
    assert said == ""
    task = server.only_task
    assert task["name"] == "a run"
    assert task["status"] == "completed"
    assert {"tiny", "manifest:abc"} <= set(task["tags"])
    assert "script" not in task or not task["script"].get("repository"), "without looking for a repository"
    values = {name: entry["value"] for name, entry in task["hyperparams"]["config"].items()}
    assert values == {"loss.l1_weight": "2.0", "model.hidden": "48", "seed": "3"}

    own = {("loss", "broken"), *EXPECTED}
    assert {key: server.curve(*key) for key in own if server.curve(*key)} == EXPECTED
    titles = {event["metric"] for event in server.events if event["type"] == "training_stats_scalar"}
    assert titles == {title for title, _ in EXPECTED} | {"Summary", ":monitor:machine"}
    assert server.curve(":monitor:machine", "cpu_usage")
    assert set(server.curve(":monitor:machine", "cpu_usage")) == {20}, (
        "machine load stands at the run's steps"
    )
    assert min(server.curve(":monitor:machine", "memory_used_gb").values()) > 0.3, "of the whole machine"

    samples, rate = sf.read(io.BytesIO(server.media("example_0", "noisy")[20]))
    assert rate == 16_000
    np.testing.assert_allclose(samples, 0.1 * np.sin(np.arange(8000) * 0.1), atol=1e-4)
    assert server.media("example_0", "picture")[20].startswith(b"\x89PNG")

    (model,) = server.models.values()
    assert task["models"]["output"][0]["model"] == model["id"]
    scores = {name: float(entry["value"]) for name, entry in model["metadata"].items()}
    assert scores == {"SI-SDR (dB)": 9.5, "SI-SDR (dB), noisy": 4.5}
    bundle = server.files[model["uri"].removeprefix(server.address)]
    assert bundle.startswith(b"PK")
    assert list(server.curve("Summary", "SI-SDR (dB)").values()) == [9.5]
    left = {path.name for path in (tmp_path / "tracking" / "clearml").iterdir()}
    assert left == {"clearml.log"}, "what was delivered is not kept twice"


def test_offline_session_holds_everything(tmp_path: Path) -> None:
    _, said = run(tmp_path, {}, mode="offline")
    (session,) = offline_sessions(tmp_path)
    task = json.loads((session.with_suffix("") / "task.json").read_text())
    assert task["name"] == "a run"
    assert task["project_name"] == "Wave Wizard"
    assert {"tiny", "manifest:abc"} <= set(task["tags"])
    values = {name: entry["value"] for name, entry in task["hyperparams"]["config"].items()}
    assert values == {"loss.l1_weight": "2.0", "model.hidden": "48", "seed": "3"}
    curves = offline_curves(session)
    assert {
        key: points for key, points in curves.items() if key[0] not in ("Summary", ":monitor:machine")
    } == EXPECTED
    files = {path.suffix for path in session.with_suffix("").rglob("*") if path.is_file()}
    assert {".wav", ".png", ".zip"} <= files
    assert [artifact["key"] for artifact in task["execution"]["artifacts"]] == ["bundle"]
    assert f"import_offline_session('{session}')" in said
    assert len(said.splitlines()) == 1


def test_a_resumed_offline_run_is_one_session(tmp_path: Path) -> None:
    run(tmp_path, {}, mode="offline")
    run(tmp_path, {}, mode="offline", steps="(20, 30)")
    (session,) = offline_sessions(tmp_path)
    assert sorted(offline_curves(session)["PESQ", "val"]) == [10, 20, 30]
    assert len(list(session.with_suffix("").rglob("bundle.zip"))) == 1


def test_a_failed_run_is_marked_failed(server: ClearMLServer, tmp_path: Path) -> None:
    finish(start(tmp_path, server.environment, then="raise ValueError('no')"), code=1)
    assert server.only_task["status"] == "failed"
    assert server.curve("loss", "train") == EXPECTED["loss", "train"]


@pytest.mark.cluster
def test_training_is_one_task_also_when_its_workers_are_killed(
    server: ClearMLServer, small_corpus: Path, tmp_path: Path
) -> None:
    """jobs.train on two workers: rank 0 alone speaks, and the workers that take over go on with its task."""
    settings = ["training.max_steps=40", "training.validate_every_steps=10", "resources.num_workers=2"]
    command = ["jobs.train", "--data", str(small_corpus), "--storage", str(tmp_path), "--name", "cut"]
    overrides = [part for setting in settings for part in ("--set", setting)]
    job = subprocess.Popen(
        [sys.executable, "-m", *command, "--preset", "tiny", *overrides],
        env={**os.environ, **server.environment, "CLEARML_CONFIG_FILE": str(tmp_path / "none.conf")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline_s = time.monotonic() + 400
    while not (server.curve("PESQ", "val") or job.poll() is not None or time.monotonic() > deadline_s):
        time.sleep(0.02)
    for process in psutil.Process(job.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "RayTrainWorker" in " ".join(process.cmdline()[:1]):
                process.kill()
    assert job.wait(timeout=400) == 0, job.stderr.read() if job.stderr else ""

    task = server.only_task
    assert server.statuses.count("in_progress") >= 2, "it was taken up again"
    assert task["status"] == "completed"
    tags = set(task["tags"])
    assert "tiny" in tags
    assert any(tag.startswith("manifest:") for tag in tags)
    flat = load_config("tiny", settings).flat()
    values = {name: entry["value"] for name, entry in task["hyperparams"]["config"].items()}
    assert values == {name: str(value) for name, value in flat.items()}
    for title in ("loss", "PESQ", "STOI", "SNR (dB)", "SI-SDR (dB)"):
        assert sorted(server.curve(title, "val")) == [10, 20, 30, 40], title
    for title in ("PESQ", "STOI", "SNR (dB)", "SI-SDR (dB)"):
        assert sorted(server.curve(title, "noisy")) == [10, 20, 30, 40], title
    assert sorted(server.media("example_0", "estimate")) == [10, 20, 30, 40]
    assert len(server.models) == 1
