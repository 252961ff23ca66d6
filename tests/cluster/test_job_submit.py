"""What ray_cluster.yaml promises: Ray's loader takes it, and jobs run on a token-guarded cluster of two nodes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import yaml

from cluster.runs.checkpoints import Checkpoints
from cluster.runs.folder import parse_lines
from cluster.settings.experiment import load_config
from jobs.__main__ import COMMANDS
from tests.cluster.training.cut_runs import wait_until
from tests.cluster.two_node_cluster import ROOT, TwoNodes, two_nodes
from ww_data import Storage
from ww_models import load_bundle

RAY = str(Path(sys.executable).with_name("ray"))
TRAIN = ("python", "-m", "jobs.train")
# One process, since each would take seconds for its imports.
EXPLAIN_EACH = """
import importlib
from jobs.__main__ import COMMANDS
for name in COMMANDS:
    print(importlib.import_module(f"jobs.{name}").parser().format_help())
"""


def test_ray_takes_the_cluster_file() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())
    validate_config(prepare_config(config))
    for command in ("head_start_ray_commands", "worker_start_ray_commands"):
        starts = [line for line in config[command] if "ray start" in line]
        assert starts
        assert all("RAY_AUTH_MODE=token" in line for line in starts), "a node without token authentication"


@pytest.fixture(scope="module")
def nodes() -> Iterator[TwoNodes]:
    with two_nodes() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def cluster_environment(nodes: TwoNodes) -> dict[str, str]:
    """In which `ray job submit` reaches the cluster."""
    return nodes.environment


def submit(
    environment: dict[str, str], *command: str, options: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [RAY, "job", "submit", "--working-dir", ".", *options, "--", *command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
    )


@pytest.mark.cluster
def test_submitted_training_succeeds_on_two_nodes(
    cluster_environment: dict[str, str], small_corpus: Path, tmp_path: Path
) -> None:
    done = submit(
        cluster_environment,
        *TRAIN,
        *("--data", str(small_corpus), "--storage", str(tmp_path), "--preset", "tiny"),
        # More than half a node each, so that each node must hold one.
        *("--workers", "2", "--set", "resources.cpus_per_worker=1.2", "--name", "submitted"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 nodes, 4 CPUs" in done.stdout
    assert "succeeded" in done.stdout
    assert load_bundle(tmp_path / "submitted" / "bundle").num_parameters > 0
    metrics = (tmp_path / "submitted" / "tracking" / "metrics.jsonl").read_text().splitlines()
    start = json.loads(metrics[0])
    assert (start["series"], start["num_workers"], start["num_nodes"]) == ("start", 2, 2)


@pytest.mark.cluster
def test_submitted_job_that_cannot_be_placed_fails_with_the_arithmetic(
    cluster_environment: dict[str, str], small_corpus: Path, tmp_path: Path
) -> None:
    done = submit(
        cluster_environment,
        *TRAIN,
        *("--data", str(small_corpus), "--storage", str(tmp_path), "--preset", "tiny"),
        *("--workers", "5", "--set", "resources.cpus_per_worker=1", "--set", "training.batch_size=5"),
    )
    assert done.returncode != 0
    assert "5 workers x 1 CPU = 5 CPU" in done.stdout
    assert "Traceback" not in done.stdout


@pytest.mark.cluster
def test_a_job_that_is_stopped_saves_where_it_stands(
    cluster_environment: dict[str, str], small_corpus: Path, tmp_path: Path
) -> None:
    run, lines = Storage(tmp_path / "stopped"), tmp_path / "stopped" / "tracking" / "metrics.jsonl"
    submitted = submit(
        cluster_environment,
        *TRAIN,
        *("--data", str(small_corpus), "--storage", str(tmp_path), "--preset", "tiny", "--name", "stopped"),
        *("--set", "training.max_steps=100000", "--set", "training.validate_every_steps=100000"),
        *("--set", "tracking.log_every_steps=1"),
        options=(
            *("--submission-id", "stopped", "--no-wait"),
            *("--runtime-env-json", '{"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "120"}}'),
        ),
    )
    assert submitted.returncode == 0, submitted.stderr
    wait_until(lambda: lines.exists() and lines.read_text().count('"train"') > 2, "training")
    subprocess.run([RAY, "job", "stop", "stopped"], cwd=ROOT, env=cluster_environment, timeout=240)
    (checkpoint,) = Checkpoints(run, load_config("tiny").training).recorded()
    assert checkpoint.step > 2
    logs = [RAY, "job", "logs", "stopped"]
    said = subprocess.run(
        logs, cwd=ROOT, env=cluster_environment, capture_output=True, text=True, timeout=240
    )
    assert f"it stands at step {checkpoint.step}: go on with --resume stopped" in said.stdout
    assert "Traceback" not in said.stdout
    assert "*** SIG" not in said.stdout


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
def test_runs_of_a_submitted_sweep_go_on_at_the_same_time_on_three_nodes(
    nodes: TwoNodes, cluster_environment: dict[str, str], small_corpus: Path, tmp_path: Path
) -> None:
    nodes.add()
    settings = ("training.max_steps=30", "training.validate_every_steps=5")
    done = submit(
        cluster_environment,
        *(
            "python",
            "-m",
            "jobs.tune",
            "--data",
            str(small_corpus),
            "--storage",
            str(tmp_path),
            "--name",
            "wide",
        ),
        *("--preset", "tiny", *(part for setting in settings for part in ("--set", setting))),
        *("--space", "loss.l1_weight=1,2", "--search", "grid", "--concurrent", "2"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "wide" / "sweep.json").read_text())["rows"]
    assert [row["state"] for row in rows] == ["done"] * 2
    on, spans_s = set(), []
    for row in rows:
        lines = parse_lines((tmp_path / "wide" / row["trial"] / "tracking" / "metrics.jsonl").read_text())
        (start,) = (line for line in lines if line["series"] == "start")
        on.add(start["node"])
        spans_s.append((start["time_s"], lines[-1]["time_s"]))
    assert len(on) == 2, "each run has a node of its own"
    spans_s.sort()
    assert spans_s[1][0] < spans_s[0][1], "the second began while the first was under way"
