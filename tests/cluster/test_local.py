"""`python -m cluster.local`: several nodes on loopback that outlive their command, and end without a trace."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from cluster.local.state import known, token_file
from cluster.machine.guard import MARK, marked
from tests.cluster.environment import private_environment
from tests.cluster.local_cluster import ROOT, Running, local, local_cluster, short_folder
from tests.cluster.sockets import assert_loopback, listening_of
from tests.cluster.training.cut_runs import wait_until


@pytest.mark.cluster
def test_it_runs_on_loopback_until_down_and_leaves_another_ray_alone() -> None:
    with local_cluster("--nodes", "1", "--cpus", "1") as other, short_folder() as folder:
        started = local(
            folder, "--nodes", "2", "--gpu-nodes", "1", "--idle-head", "--object-store-mib", "100"
        )
        assert started.returncode == 0, started.stderr
        cluster = Running(folder, started.stdout)
        assert_loopback(listening_of(cluster.processes()))
        assert token_file(folder).stat().st_mode & 0o077 == 0, "others can read the token"
        _check_status(cluster)
        again = local(folder, "--nodes", "2")
        assert again.returncode == 2
        assert again.stderr.startswith(
            f"error: a cluster of 2 nodes runs already, at {cluster.cluster.address}"
        )
        processes = cluster.processes()
        sockets = set(listening_of(processes))
        ended = local(folder, "down")
        assert ended.returncode == 0, ended.stderr
        assert not [process for process in processes if process.is_running() and not _is_zombie(process)]
        assert not sockets & {f"{one.laddr.ip}:{one.laddr.port}" for one in _listening_on_machine()}
        assert not folder.exists()
        _check_untouched(other)
        assert "no cluster was started in" in local(folder, "down").stderr


def _check_status(cluster: Running) -> None:
    status = local(cluster.folder, "status")
    assert status.returncode == 0, status.stderr
    head, worker = (line.split() for line in status.stdout.splitlines() if "CPUs" in line)
    assert head[:5] == ["head", "0", "CPUs", "cpu", "runs"]
    assert worker[:6] == ["node", "1", "2", "CPUs", "gpu", "runs"]
    assert cluster.cluster.address in status.stdout
    assert f"RAY_API_SERVER_ADDRESS={cluster.cluster.jobs_url}" in status.stdout
    os.kill(cluster.cluster.nodes[1].pid, signal.SIGKILL)
    wait_until(lambda: cluster.cluster.nodes[1].pid not in cluster.cluster.pids(), "its end")
    status = local(cluster.folder, "status")
    assert status.returncode == 1
    assert "has ended" in status.stdout


def _check_untouched(other: Running) -> None:
    assert local(other.folder, "status").returncode == 0
    assert {node["state"] for node in other.ask("nodes")} == {"ALIVE"}


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _listening_on_machine() -> list[psutil._common.sconn]:
    return [one for one in psutil.net_connections("inet") if one.status == psutil.CONN_LISTEN]


@pytest.mark.cluster
@pytest.mark.parametrize("how", [pytest.param(signal.SIGKILL, marks=pytest.mark.soak), signal.SIGINT])
def test_a_start_that_is_cut_leaves_nothing(how: signal.Signals) -> None:
    with short_folder() as folder:
        command = subprocess.Popen(
            [sys.executable, "-m", "cluster.local", "--folder", str(folder)],
            cwd=ROOT,
            env=private_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        assert command.stdout is not None
        try:
            lines = iter(command.stdout.readline, "")
            assert any(line.startswith("1/3") for line in lines), command.stderr
            (mark,) = {child.environ().get(MARK) for child in psutil.Process(command.pid).children()} - {None}
            assert mark is not None
            assert marked(mark)
            command.send_signal(how)
            _, errors = command.communicate(timeout=60)
        finally:
            command.kill()
        wait_until(lambda: not marked(mark) and not folder.exists(), "the end of all of it")
        assert how == signal.SIGKILL or (command.returncode, errors) == (130, "interrupted\n")


def test_wrong_use_is_one_line_and_starts_nothing(tmp_path: Path) -> None:
    kept = tmp_path / "mine.txt"
    kept.write_text("")
    with short_folder() as folder:
        for where, arguments, words in (
            (folder, ["--nodes", "0"], "--nodes must be at least 1; got 0"),
            (folder, ["--gpu-nodes", "3"], "--gpu-nodes must lie between 0 and 2"),
            (folder, ["status"], "no cluster was started in"),
            (folder, ["down"], "no cluster was started in"),
            (Path("/tmp/" + "x" * 60), [], "is too long for Ray's sockets"),
            (Path("/usr"), [], "holds other files" if os.getuid() == 0 else "no folder of yours"),
        ):
            done = local(where, *arguments)
            assert done.returncode == 2, done.stdout
            assert done.stderr.startswith("error: ")
            assert done.stderr.count("\n") == 1
            assert words in done.stderr
        assert not folder.exists()


def test_help_names_units_and_defaults() -> None:
    said = " ".join(local(Path("/tmp/none"), "--help").stdout.split())
    for words in ("in MiB (default: 300)", "the head included (default: 3)", "CPUs that each node offers"):
        assert words in said


def test_a_file_of_another_make_is_named(tmp_path: Path) -> None:
    (tmp_path / "cluster.json").write_text('{"nodes": [], "other": 1}')
    with pytest.raises(ValueError, match=r"cluster\.json is not what cluster\.local wrote .*: remove it"):
        known(tmp_path)
