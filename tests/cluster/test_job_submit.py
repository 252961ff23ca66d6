"""Each command runs as a job on a token-guarded cluster."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import soundfile as sf

from cluster.runs.checkpoints import Checkpoints
from cluster.runs.folder import parse_lines
from cluster.settings.experiment import load_config
from jobs.__main__ import COMMANDS
from tests.cluster.local_cluster import ROOT, Running, local_cluster
from tests.cluster.sockets import free_ports
from tests.cluster.training.cut_runs import curves, starts, wait_until
from ww_data import Storage
from ww_models import load_bundle, read_bundle_info

RAY = str(Path(sys.executable).with_name("ray"))
TRAIN = ("python", "-m", "jobs.train")
# One process, since each would take seconds for its imports.
EXPLAIN_EACH = """
import importlib
from jobs.__main__ import COMMANDS
for name in COMMANDS:
    print(importlib.import_module(f"jobs.{name}").parser().format_help())
"""


@pytest.fixture(scope="module")
def nodes() -> Iterator[Running]:
    """Three nodes of two CPUs each, the last of which is the pool gpu."""
    with local_cluster("--nodes", "3", "--gpu-nodes", "1") as cluster:
        yield cluster


@pytest.fixture(scope="module")
def cluster_environment(nodes: Running) -> dict[str, str]:
    """In which `ray job submit` reaches the cluster."""
    return nodes.environment


def ray_job(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [RAY, "job", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )


def submit(
    environment: dict[str, str], *command: str, options: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    return ray_job(environment, "submit", "--working-dir", ".", *options, "--", *command)


def run_job(environment: dict[str, str], name: str, *arguments: object) -> str:
    """What a job that must end well prints, as it is followed from outside."""
    done = submit(environment, "python", "-m", f"jobs.{name}", *map(str, arguments))
    assert done.returncode == 0, done.stdout + done.stderr
    if "succeeded" in done.stdout:
        return done.stdout
    # On a busy machine Ray loses the job's log, and with it follows no longer.
    (job,) = set(re.findall(r"raysubmit_\w+", done.stdout))
    ends = ("succeeded", "failed", "stopped")
    wait_until(lambda: any(end in ray_job(environment, "status", job).stdout for end in ends), job, 600)
    said = ray_job(environment, "logs", job).stdout
    assert "succeeded" in ray_job(environment, "status", job).stdout, said
    return said


def start_of(run: Path) -> dict[str, Any]:
    """The first line of a run's metrics."""
    lines = parse_lines((run / "tracking" / "metrics.jsonl").read_text())
    return next(line for line in lines if line["series"] == "start")


@pytest.mark.cluster
@pytest.mark.timeout(1800)  # six jobs
def test_from_recordings_to_a_served_model_each_step_is_a_job(
    nodes: Running, cluster_environment: dict[str, str], small_sources: Path, bundle: Path, tmp_path: Path
) -> None:
    """The endpoint is there first, and gets the model that the other jobs come to."""
    (port,) = free_ports(1)
    served = submit(
        cluster_environment,
        *("python", "-m", "jobs.serve", "--bundle", str(bundle), "--port", str(port)),
        *("--replicas", "2", "--cpus", "0.1"),
        options=("--submission-id", "served", "--no-wait"),
    )
    assert served.returncode == 0, served.stdout + served.stderr
    data, report = tmp_path / "data", tmp_path / "report"
    folders = ("--speech", small_sources / "speech", "--noise", small_sources / "noise")
    few = ("--segment-s", 2, "--val-mixtures", 6, "--test-mixtures", 4)
    splits = ("--val-fraction", 0.17, "--test-fraction", 0.17)
    run_job(cluster_environment, "prepare", *folders, *few, *splits, "--out", data)
    # More than half a node each, so that each worker has a node of its own.
    said = run_job(
        cluster_environment,
        "train",
        *("--data", data, "--storage", tmp_path, "--preset", "tiny", "--name", "run"),
        *("--workers", 2, "--set", "resources.cpus_per_worker=1.2"),
    )
    assert "3 nodes, 6 CPUs" in said
    start = start_of(tmp_path / "run")
    assert (start["num_workers"], start["num_nodes"]) == (2, 2)
    trained = tmp_path / "run" / "bundle"
    run_job(
        cluster_environment,
        "evaluate",
        *("--data", data, "--bundle", trained, "--out", report, "--resamples", 100, "--timing", 0),
    )
    url = f"http://127.0.0.1:{port}"
    wait_until(lambda: _answers(url), "the endpoint")
    said = run_job(
        cluster_environment, "promote", "--report", report, "--to", tmp_path / "models", "--anyway"
    )
    (model,) = httpx.get(f"{url}/v1/models", timeout=30).json()["data"]
    assert model["id"] == read_bundle_info(trained).id
    assert f"{model['id']} is in force in" in said
    sound = next((small_sources / "noise").iterdir())
    reply = httpx.post(f"{url}/v1/audio/denoise", content=sound.read_bytes(), timeout=60)
    assert reply.status_code == 200, reply.text
    assert len(sf.read(io.BytesIO(reply.content))[0]) == len(sf.read(sound)[0])
    replicas = [actor for actor in nodes.ask("actors") if actor["class_name"].startswith("ServeReplica")]
    assert len({actor["node_id"] for actor in replicas if actor["state"] == "ALIVE"}) == 2, "they are spread"
    ray_job(cluster_environment, "stop", "served")
    assert "stopping" in ray_job(cluster_environment, "logs", "served").stdout
    assert not _answers(url)
    assert not [title for title in nodes.titles() if "ServeReplica" in title]


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.mark.cluster
def test_submitted_job_that_cannot_be_placed_fails_with_the_arithmetic(
    cluster_environment: dict[str, str], small_corpus: Path, tmp_path: Path
) -> None:
    done = submit(
        cluster_environment,
        *TRAIN,
        *("--data", str(small_corpus), "--storage", str(tmp_path), "--preset", "tiny"),
        *("--workers", "5", "--set", "resources.cpus_per_worker=1", "--set", "training.batch_size=5"),
        *("--set", "resources.worker_nodes=gpu"),
    )
    assert done.returncode != 0
    assert "5 workers x 1 CPU = 5 CPU" in done.stdout
    assert "on 3 node(s), 1 of them with wave-wizard/nodes=gpu" in done.stdout
    assert "Traceback" not in done.stdout


@pytest.mark.cluster
def test_a_job_that_is_stopped_saves_where_it_stands_and_goes_on_on_the_nodes_that_it_is_given(
    nodes: Running, cluster_environment: dict[str, str], small_corpus: Path, tmp_path: Path
) -> None:
    run, lines = Storage(tmp_path / "stopped"), tmp_path / "stopped" / "tracking" / "metrics.jsonl"
    place = ("--data", str(small_corpus), "--storage", str(tmp_path))
    submitted = submit(
        cluster_environment,
        *(*TRAIN, *place, "--preset", "tiny", "--name", "stopped"),
        *("--set", "training.max_steps=100000", "--set", "training.validate_every_steps=100000"),
        *("--set", "tracking.log_every_steps=1"),
        options=("--submission-id", "stopped", "--no-wait"),
    )
    assert submitted.returncode == 0, submitted.stderr
    wait_until(lambda: lines.exists() and lines.read_text().count('"train"') > 2, "training")
    assert [title for title in nodes.titles() if "RayTrainWorker" in title]
    ray_job(cluster_environment, "stop", "stopped")
    (checkpoint,) = Checkpoints(run, load_config("tiny").training).recorded()
    assert checkpoint.step > 2
    said = ray_job(cluster_environment, "logs", "stopped").stdout
    assert f"it stands at step {checkpoint.step}: go on with --resume stopped" in said
    assert "Traceback" not in said
    assert "*** SIG" not in said
    wait_until(
        lambda: not [title for title in nodes.titles() if "RayTrainWorker" in title], "the workers' end", 60
    )
    begin_ms = 1000 * time.time()
    pools = ("--set", "resources.worker_nodes=gpu", "--set", "resources.mixing_nodes=cpu")
    limit = ("--set", "training.max_minutes=0.05")
    run_job(cluster_environment, "train", *place, "--resume", "stopped", *limit, *pools)
    assert [step for step, _ in starts(run)] == [0, checkpoint.step]
    again = [line for line in curves(run) if line["series"] == "start"][-1]
    assert again["node_ids"] == sorted(nodes.node_ids("gpu"))
    mixed_on = {
        task["node_id"]
        for task in nodes.ask("tasks")
        if "MixtureSource" in task["name"] and task["creation_time_ms"] > begin_ms
    }
    assert mixed_on
    assert mixed_on <= nodes.node_ids("cpu")
    assert load_bundle(tmp_path / "stopped" / "bundle").num_parameters > 0


@pytest.mark.cluster
def test_without_the_token_nobody_submits(cluster_environment: dict[str, str]) -> None:
    stranger = {**cluster_environment, "RAY_AUTH_TOKEN": "another-token-0123456789abcdef-0123"}
    done = submit(stranger, *TRAIN, "--help")
    assert done.returncode != 0
    assert "succeeded" not in done.stdout
    assert "oken" in done.stdout + done.stderr, "it failed for another reason"


@pytest.mark.cluster
def test_each_command_explains_itself_as_a_job(cluster_environment: dict[str, str]) -> None:
    done = submit(cluster_environment, "python", "-c", EXPLAIN_EACH)
    assert done.returncode == 0, done.stdout + done.stderr
    for job in COMMANDS:
        assert f"usage: python -m jobs.{job}" in done.stdout


@pytest.mark.cluster
def test_rayignore_keeps_history_environments_and_data_out(
    cluster_environment: dict[str, str], tmp_path: Path
) -> None:
    kept, left_out = ["jobs", "cluster", "ww_data"], [".git", ".venv", "runs", "demo", "data", ".mypy_cache"]
    for name in [*kept, *left_out]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "file.py").write_text("")
    (tmp_path / ".rayignore").write_text((ROOT / ".rayignore").read_text())
    (tmp_path / "look.py").write_text("import os; print('FOUND', *(f for d in os.walk('.') for f in d[1]))")
    done = subprocess.run(
        [RAY, "job", "submit", "--working-dir", str(tmp_path), "--", "python", "look.py"],
        env=cluster_environment,
        capture_output=True,
        text=True,
        timeout=480,
    )
    found = next(line.split()[1:] for line in done.stdout.splitlines() if line.startswith("FOUND"))
    assert sorted(found) == sorted(kept)


@pytest.mark.cluster
def test_runs_of_a_submitted_sweep_go_on_at_the_same_time(
    cluster_environment: dict[str, str], small_corpus: Path, tmp_path: Path
) -> None:
    steps = ("--set", "training.max_steps=30", "--set", "training.validate_every_steps=5")
    run_job(
        cluster_environment,
        "tune",
        *("--data", small_corpus, "--storage", tmp_path, "--name", "wide", "--preset", "tiny", *steps),
        *("--space", "loss.l1_weight=1,2", "--search", "grid", "--concurrent", 2),
    )
    rows = json.loads((tmp_path / "wide" / "sweep.json").read_text())["rows"]
    assert [row["state"] for row in rows] == ["done"] * 2
    on, spans_s = set(), []
    for row in rows:
        lines = parse_lines((tmp_path / "wide" / row["trial"] / "tracking" / "metrics.jsonl").read_text())
        (start,) = (line for line in lines if line["series"] == "start")
        on.update(start["node_ids"])
        spans_s.append((start["time_s"], lines[-1]["time_s"]))
    assert len(on) == 2, "each run has a node of its own"
    spans_s.sort()
    assert spans_s[1][0] < spans_s[0][1], "the second began while the first was under way"
