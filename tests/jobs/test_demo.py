"""The whole way on two small folders of sound: what `make demo SPEECH=... NOISE=...` does, with the tiny preset."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import soundfile as sf

from ww_models import read_bundle_info


def processes_with_home(home: Path) -> list[str]:
    """Names of processes that were started with this home folder: the demo's own, wherever they came to lie."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("HOME") == str(home):
                found.append(process.name())
        except psutil.Error:
            continue
    return found


def test_a_taken_port_is_said_before_anything_is_made(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "jobs.demo", "--port", port, "--out", str(tmp_path / "demo")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: cannot listen on 127.0.0.1:{port}")
    assert not (tmp_path / "demo").exists()


def test_demo_goes_all_the_way_on_a_users_folders(small_sources: Path, tmp_path: Path) -> None:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "CLEARML"))
    }
    demo = subprocess.Popen(
        [
            *(sys.executable, "-m", "jobs.demo", "--port", "0"),
            *("--set", "training.max_steps=4", "--set", "training.validate_every_steps=4"),
            *("--set", "tracking.clearml=never"),  # it would leave a file of its own in the home folder
            *("--speech", str(small_sources / "speech"), "--noise", str(small_sources / "noise")),
            *("--out", str(tmp_path / "demo")),
            *("--segment-s", "2", "--test-mixtures", "10", "--val-mixtures", "4"),
            *("--val-fraction", "0.17", "--test-fraction", "0.17"),
        ],
        env=environment | {"HOME": str(tmp_path / "home")},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    stdout, stderr = demo.communicate(timeout=2000)
    assert demo.returncode == 0, stderr
    for words in (
        "10 test mixtures",
        "x real time",
        "python -m jobs.train",
        "it comes with Wave Wizard, on these",
    ):
        assert words in stdout, stdout
    for label in (
        "PESQ",
        "STOI",
        "SNR dB",
        "SI-SDR dB",
    ):  # noisy, shipped, trained, improvement and its interval
        number, change = r"-?\d+\.\d{3}", r"[+-]\d+\.\d{3}"
        row = rf"│ {label} +│" + rf" +{number} │" * 3 + rf" +{change} │ +{change} to {change} │"
        assert re.search(row, stdout), stdout
    first = tmp_path / "demo" / "first"
    assert str(first / "enhanced.wav") in stdout
    assert sf.info(first / "noisy.wav").frames == sf.info(first / "enhanced.wav").frames > 16_000
    assert "finetuned_from" in read_bundle_info(next((tmp_path / "demo").glob("run-*")) / "bundle").data

    run = next((tmp_path / "demo").glob("run-*"))
    named = [line.split()[-1] for line in stdout.splitlines() if str(run) in line]
    assert all(Path(path).exists() for path in named), named
    noisy, rate = sf.read(run / "noisy.wav")
    enhanced, enhanced_rate = sf.read(run / "enhanced.wav")
    assert rate == enhanced_rate
    assert noisy.shape == enhanced.shape
    report = json.loads((run / "report" / "report.json").read_text())
    assert report["num_clips"] == 10
    assert report["manifest_hash"] == read_bundle_info(run / "bundle").data["manifest_hash"]

    gone = time.monotonic() + 15
    while left := processes_with_home(tmp_path / "home"):
        assert time.monotonic() < gone, f"the demo left processes behind: {left}"
        time.sleep(0.5)
    assert not list(Path("/tmp").glob(f"ww-ray-{demo.pid}-*")), "the demo left Ray's files behind"
    written = {path.name for path in (tmp_path / "home").glob("*")} | {
        p.name for p in tmp_path.glob("home/.config/*")
    }
    assert written <= {".cache", ".config", "matplotlib"}, (
        "the demo wrote more than font caches to the home folder"
    )
