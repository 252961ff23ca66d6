"""Runs that are cut end where an uninterrupted run ends, with each item trained on once, here and on S3."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from cluster.runs.checkpoints import CheckpointError, Checkpoints
from cluster.settings.experiment import ConfigError, load_config
from cluster.training.run import TrainingError, TrainingResult, run_training
from tests.cluster.environment import interruptible, private_environment
from tests.cluster.sockets import assert_on_loopback
from tests.cluster.training.cut_runs import (
    INTERVAL,
    SETTINGS,
    assert_nothing_lost,
    assert_same_end,
    command_line,
    curves,
    has_checkpoint,
    reached,
    starts,
    train_workers,
    wait_until,
)
from ww_data import Storage

pytestmark = pytest.mark.cluster


@pytest.mark.soak
def test_interrupted_command_resumes_past_what_the_cut_left_half_done(
    whole: TrainingResult, small_corpus: Path, tmp_path: Path
) -> None:
    """Its last checkpoint is damaged meanwhile, and one after it was never finished: an earlier one is resumed from."""
    train, run = [sys.executable, "-m", "jobs.train"], Storage(tmp_path / "cut")
    process = interruptible(
        [*train, *command_line(small_corpus, tmp_path), "--name", "cut"], private_environment()
    )
    children: list[psutil.Process] = []
    try:
        wait_until(lambda: has_checkpoint(run, 2 * INTERVAL), "two checkpoints")
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in stderr
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive, "the interrupted command left processes behind"
    assert not (tmp_path / "cut" / "bundle").exists()

    finished = sorted(path.parent for path in run.path().glob("checkpoint_*/checkpoint.json"))
    state = finished[-1] / "state.ckpt"
    state.write_bytes(state.read_bytes()[:-1])
    unfinished = run.path("checkpoint_000000023")
    unfinished.mkdir()
    (unfinished / "state.ckpt").write_bytes(b"half")

    # Resuming takes nothing but the name: the settings are those that the run was started with.
    resume = [*train, "--data", str(small_corpus), "--storage", str(tmp_path), "--resume", "cut"]
    done = subprocess.run(resume, env=private_environment(), capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr
    assert f"{finished[-1].name}: state.ckpt is damaged" in done.stderr
    assert f"checkpoint_{starts(run)[1][0]:09d}" == finished[-2].name
    assert_nothing_lost(run, small_corpus)
    assert_same_end(run, whole, tmp_path)

    for state in run.path().glob("checkpoint_*/state.ckpt"):
        state.write_bytes(b"")
    config = load_config("tiny", SETTINGS)
    with pytest.raises(CheckpointError, match="no checkpoint of"):
        run_training(config, str(small_corpus), tmp_path, "cut", resume=True, show_progress=False)


def test_a_run_on_s3_outlives_a_killed_worker_and_a_command_that_is_told_to_end(
    whole: TrainingResult, small_corpus: Path, s3: tuple[str, str], tmp_path: Path
) -> None:
    start, options = s3
    storage, train = f"{start}/my runs{options}", [sys.executable, "-m", "jobs.train"]
    run = Storage(f"{start}/my runs/cut{options}")
    environment = private_environment()
    process = interruptible([*train, *command_line(small_corpus, storage), "--name", "cut"], environment)
    try:
        wait_until(lambda: has_checkpoint(run, INTERVAL), "a checkpoint")
        assert_on_loopback(process.pid)
        train_workers(psutil.Process(process.pid))[-1].send_signal(signal.SIGKILL)
        killed_at = reached(run)
        wait_until(lambda: len(starts(run)) == 2 and has_checkpoint(run, 2 * INTERVAL), "it went on")
        slow = train_workers(psutil.Process(process.pid))[-1]
        slow.suspend()  # or a fast machine would be done before it hears of the end
        process.send_signal(signal.SIGTERM)
        time.sleep(2)
        slow.resume()
        _, stderr = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 143, stderr
    assert "Traceback" not in stderr
    assert "*** SIG" not in stderr
    stands = max(checkpoint.step for checkpoint in Checkpoints(run, load_config("tiny").training).recorded())
    assert f"cut was cut; it stands at step {stands}: go on with --resume cut" in stderr
    assert not run.size("bundle/weights.safetensors")
    resume = [*train, "--data", str(small_corpus), "--storage", storage, "--resume", "cut"]
    done = subprocess.run(resume, env=environment, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr
    resumed_from = [step for step, _ in starts(run)]
    assert len(resumed_from) == 3
    assert 0 == resumed_from[0] < resumed_from[1] <= resumed_from[2] == stands
    assert killed_at - INTERVAL <= resumed_from[1], "more was done again than one interval"
    assert_nothing_lost(run, small_corpus)
    assert_same_end(run, whole, tmp_path)
    assert f"bundle: {start}/my runs/cut/bundle" in done.stdout
    names = {file.name for file in run.files()}
    assert {"run.json", "tracking/metrics.jsonl", "bundle/weights.safetensors"} <= names
    events = [name for name in names if name.startswith("tracking/tensorboard/events.")]
    assert len(events) == 3, "a file for each start"
    assert sorted({line["step"] for line in curves(run) if line["series"] == "val"}) == [6, 12, 18, 24]


@pytest.mark.soak
def test_a_disk_that_is_full_ends_the_run_with_one_line_and_a_resume_goes_on(
    whole: TrainingResult, small_corpus: Path, tmp_path: Path
) -> None:
    """Files of one rank may grow no more: first of rank 1 alone, which others only wait for, then of rank 0."""
    run, config = Storage(tmp_path / "cut"), load_config("tiny", [*SETTINGS, "tracking.clearml=offline"])
    for rank, after in ((1, INTERVAL), (0, 2 * INTERVAL)):
        limiter = threading.Thread(target=let_files_grow_no_more, args=(run, rank, after))
        limiter.start()
        with pytest.raises(TrainingError) as error:
            run_training(config, str(small_corpus), tmp_path, "cut", resume=rank == 0, show_progress=False)
        limiter.join()
        words = str(error.value)
        assert "\n" not in words
        assert "go on with --resume cut" in words
        assert run.read("failure.txt").decode() in words
        if rank == 1:  # rank 0's own messages to ClearML have no room either
            messages = max((run.path() / "tracking" / "clearml").glob("messages-*.jsonl"))
            assert '"outcome": "failed"' in messages.read_text().splitlines()[-1], "its task is still open"
    rest = run_training(config, str(small_corpus), tmp_path, "cut", resume=True, show_progress=False)
    assert rest.steps == whole.steps
    assert run.size("failure.txt") is None
    assert_nothing_lost(run, small_corpus)
    assert_same_end(run, whole, tmp_path)


def let_files_grow_no_more(run: Storage, rank: int, after_step: int) -> None:
    """From a checkpoint on, the process of a rank cannot write beyond the first byte of any file."""
    wait_until(lambda: has_checkpoint(run, after_step), f"the checkpoint of step {after_step}")
    for process in train_workers(psutil.Process()):
        if any(file.path.endswith(f"-rank_{rank}.jsonl") for file in process.open_files()):
            process.rlimit(psutil.RLIMIT_FSIZE, (1, psutil.RLIM_INFINITY))
            return
    raise AssertionError(f"rank {rank} was not found")


def test_storage_that_cannot_be_written_to_is_one_line(
    local_ray: str, small_corpus: Path, s3: tuple[str, str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a folder")
    command = [
        sys.executable,
        "-m",
        "jobs.train",
        *command_line(small_corpus, tmp_path / "file"),
        "--name",
        "x",
    ]
    done = subprocess.run(command, env=private_environment(), capture_output=True, text=True, timeout=400)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "cannot write the run's folder" in done.stderr.splitlines()[-1]
    start, options = s3
    no_bucket = f"{start.replace('bucket', 'no-such-bucket')}/runs{options}"
    with pytest.raises(ConfigError, match="cannot write the run's folder"):
        run_training(load_config("tiny", SETTINGS), str(small_corpus), no_bucket, "x", show_progress=False)
