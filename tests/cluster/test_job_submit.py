"""Each command runs as a job on a token-guarded cluster: from recordings to a served model, step by step."""

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
from cluster.settings.experiment import load_config
from tests.cluster.local_cluster import ROOT, Running, local_cluster
from tests.cluster.sockets import free_ports
from tests.cluster.training.cut_runs import curves, wait_until
from ww_data import Storage
from ww_models import load_bundle, read_bundle_info

RAY = str(Path(sys.executable).with_name("ray"))
TRAIN = ("python", "-m", "jobs.train")
NO_END = ("--set", "training.max_steps=100000", "--set", "training.validate_every_steps=100000")

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]


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


def curves_of(run: Path, series: str) -> list[dict[str, Any]]:
    """The lines of a run's metrics that are of a kind, so far."""
    return [line for line in curves(Storage(run)) if line["series"] == series]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all jobs keep what they make."""
    return tmp_path_factory.mktemp("jobs")


@pytest.fixture(scope="module")
def data(cluster_environment: dict[str, str], small_sources: Path, folder: Path) -> Path:
    """What jobs.prepare made."""
    sources = ("--speech", small_sources / "speech", "--noise", small_sources / "noise")
    few = ("--segment-s", 2, "--val-mixtures", 4, "--test-mixtures", 4)
    splits = ("--val-fraction", 0.17, "--test-fraction", 0.17)
    run_job(cluster_environment, "prepare", *sources, *few, *splits, "--out", folder / "data")
    return folder / "data"


@pytest.fixture(scope="module")
def stopped(nodes: Running, cluster_environment: dict[str, str], data: Path, folder: Path) -> str:
    """What a training said that was stopped while its two workers were at work; its name is `run`."""
    submitted = submit(
        cluster_environment,
        *(*TRAIN, "--data", str(data), "--storage", str(folder), "--preset", "tiny", "--name", "run"),
        # More than half a node each, so that each worker has a node of its own.
        *("--workers", "2", "--set", "resources.cpus_per_worker=1.2", "--set", "tracking.log_every_steps=1"),
        *NO_END,
        options=("--submission-id", "stopped", "--no-wait"),
    )
    assert submitted.returncode == 0, submitted.stderr
    wait_until(lambda: len(curves_of(folder / "run", "train")) > 2, "training")
    assert [title for title in nodes.titles() if "RayTrainWorker" in title]
    ray_job(cluster_environment, "stop", "stopped")
    return ray_job(cluster_environment, "logs", "stopped").stdout


@pytest.fixture(scope="module")
def resumed_at_s(stopped: str) -> float:
    """When the stopped run had ended, and nothing had gone on with it."""
    return time.time()


@pytest.fixture(scope="module")
def trained(cluster_environment: dict[str, str], resumed_at_s: float, folder: Path, data: Path) -> Path:
    """The bundle of the same run, which went on on the pool gpu."""
    pools = ("--set", "resources.worker_nodes=gpu", "--set", "resources.mixing_nodes=cpu")
    limits = ("--set", "training.max_minutes=0.05", "--set", "resources.cpus_per_worker=0.8")
    place = ("--data", data, "--storage", folder)
    run_job(cluster_environment, "train", *place, "--resume", "run", *limits, *pools)
    return folder / "run" / "bundle"


def test_a_job_that_is_stopped_saves_where_it_stands(nodes: Running, stopped: str, folder: Path) -> None:
    assert "3 nodes, 6 CPUs" in stopped
    (start,) = curves_of(folder / "run", "start")
    assert (start["num_workers"], start["num_nodes"]) == (2, 2)
    checkpoint = Checkpoints(Storage(folder / "run"), load_config("tiny").training).recorded()[0]
    assert checkpoint.step > 2
    assert f"it stands at step {checkpoint.step}: go on with --resume run" in stopped
    assert "Traceback" not in stopped
    assert "*** SIG" not in stopped
    wait_until(lambda: not any("RayTrainWorker" in title for title in nodes.titles()), "the workers' end", 60)


def test_it_goes_on_on_the_nodes_that_it_is_given(nodes: Running, resumed_at_s: float, trained: Path) -> None:
    first, second = curves_of(trained.parent, "start")
    assert (first["step"], second["node_ids"]) == (0, sorted(nodes.node_ids("gpu")))
    assert second["step"] > 2
    mixed_on = {
        task["node_id"]
        for task in nodes.ask("tasks")
        if "MixtureSource" in task["name"] and task["creation_time_ms"] > 1000 * resumed_at_s
    }
    assert mixed_on
    assert mixed_on <= nodes.node_ids("cpu")
    assert load_bundle(trained).num_parameters > 0


def test_runs_of_a_sweep_go_on_at_the_same_time(
    cluster_environment: dict[str, str], data: Path, folder: Path
) -> None:
    run_job(
        cluster_environment,
        "tune",
        *("--data", data, "--storage", folder, "--name", "wide", "--preset", "tiny"),
        *("--set", "training.max_steps=4", "--search", "grid", "--space", "loss.l1_weight=1,2"),
        *("--concurrent", 2),
    )
    rows = json.loads((folder / "wide" / "sweep.json").read_text())["rows"]
    assert [row["state"] for row in rows] == ["done"] * 2
    runs = [folder / "wide" / row["trial"] for row in rows]
    on = {id_ for run in runs for start in curves_of(run, "start") for id_ in start["node_ids"]}
    assert len(on) == 2, "each run has a node of its own"
    began, ended = ([(run / file).stat().st_mtime for run in runs] for file in ("run.json", "bundle"))
    assert max(began) < min(ended), "the second began while the first was under way"


def test_what_is_evaluated_and_promoted_is_served(
    nodes: Running,
    cluster_environment: dict[str, str],
    trained: Path,
    bundle: Path,
    small_sources: Path,
    folder: Path,
    data: Path,
) -> None:
    """The endpoint is there first, and gets the model that the other jobs came to."""
    (port,) = free_ports(1)
    served = submit(
        cluster_environment,
        *("python", "-m", "jobs.serve", "--bundle", str(bundle), "--port", str(port)),
        *("--replicas", "2", "--cpus", "0.1"),
        options=("--submission-id", "served", "--no-wait"),
    )
    assert served.returncode == 0, served.stdout + served.stderr
    report = folder / "report"
    quick = ("--resamples", 100, "--timing", 0)
    run_job(cluster_environment, "evaluate", "--data", data, "--bundle", trained, "--out", report, *quick)
    url = f"http://127.0.0.1:{port}"
    wait_until(lambda: _answers(url), "the endpoint")
    said = run_job(cluster_environment, "promote", "--report", report, "--to", folder / "models", "--anyway")
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


def test_without_the_token_nobody_submits(cluster_environment: dict[str, str]) -> None:
    stranger = {**cluster_environment, "RAY_AUTH_TOKEN": "another-token-0123456789abcdef-0123"}
    done = submit(stranger, *TRAIN, "--help")
    assert done.returncode != 0
    assert "succeeded" not in done.stdout
    assert "oken" in done.stdout + done.stderr, "it failed for another reason"


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
