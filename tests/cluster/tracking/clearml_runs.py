"""Small runs that tell ClearML, in processes of their own, since some are killed; and what is left of them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.tracking.clearml_task import NOTICE_FILE

# A run in small: `steps` says which points it adds, `then` what happens before it closes.
SCRIPT = """
import os, signal, sys, time
from pathlib import Path
import matplotlib.figure
import numpy as np
import psutil
import torch.utils.tensorboard
from cluster.settings.tracking import TrackingConfig
from cluster.tracking.pictures import compare_signals
from cluster.tracking.tracker import Tracker
from ww_data import Storage

folder, steps, mode = Path(sys.argv[1]), eval(sys.argv[2]), sys.argv[3]
(folder / "bundle").mkdir(exist_ok=True)
(folder / "bundle" / "config.json").write_text("{}")
tone = 0.1 * np.sin(np.arange(8000) * 0.1).astype(np.float32)
start_s = time.monotonic()
config = TrackingConfig(clearml=mode, clearml_close_s=20)


def kill_deliverer():
    of_it = {"cluster.tracking.clearml_process", str(folder / "tracking" / "clearml")}
    for process in psutil.process_iter(["cmdline"]):
        if of_it <= set(process.info["cmdline"] or ()):
            process.kill()


with Tracker(config, Storage(folder), "a run", ["tiny", "manifest:abc"]) as tracker:
    tracker.config({"loss.l1_weight": 2.0, "model.hidden": 48, "seed": 3})
    for step in steps:
        tracker.scalars("train", {"loss": 1.0 / step, "steps_per_s": 2.0, "broken": float("nan")}, step)
        tracker.scalars("val", {"loss": 2.0 / step, "pesq": 1.5, "stoi": 0.8, "snr_db": 7.5}, step)
        tracker.scalars("noisy", {"pesq": 1.25, "stoi": 0.7, "snr_db": 2.5}, step)
    tracker.scalars("test", {"pesq": 1.75}, steps[-1])
    tracker.audio("example_0/noisy", tone, 16000, steps[-1])
    tracker.image("example_0", compare_signals(tone, tone, tone, 16000), steps[-1])
    tracker.model(folder / "bundle", {"si_sdr_db": 9.5, "noisy_si_sdr_db": 4.5})
    print("took", time.monotonic() - start_s, flush=True)
    THEN
    start_s = time.monotonic()
print("closed", time.monotonic() - start_s, flush=True)
"""


def start(
    folder: Path,
    environment: dict[str, str],
    *,
    steps: str = "(10, 20)",
    then: str = "pass",
    mode: str = "auto",
) -> subprocess.Popen[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CLEARML_")}
    none = {"CLEARML_CONFIG_FILE": str(folder / "none.conf"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT.replace("THEN", then), str(folder), steps, mode],
        env={**inherited, **none, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], *, code: int = 0) -> tuple[dict[str, float], str]:
    """What the run took in seconds, and what it told people."""
    out, said = process.communicate(timeout=360)
    assert process.returncode == code, said
    times = {name: float(value) for name, value in re.findall(r"^(took|closed) ([\d.]+)$", out, re.MULTILINE)}
    return times, said


def run(folder: Path, environment: dict[str, str], **options: Any) -> tuple[dict[str, float], str]:
    return finish(start(folder, environment, **options))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline_s, "did not happen within 60 s"
        time.sleep(0.05)


def steps_written(folder: Path, series: str) -> list[int]:
    lines = [json.loads(line) for line in (folder / "tracking" / "metrics.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if line["series"] == series]


def notice(folder: Path) -> str:
    """What people should know of the last start's ClearML session, or an empty string."""
    path = folder / "tracking" / "clearml" / NOTICE_FILE
    return path.read_text() if path.is_file() else ""


def offline_sessions(folder: Path) -> list[Path]:
    return sorted((folder / "tracking" / "clearml" / "offline").glob("*.zip"))


def offline_curves(session: Path) -> dict[tuple[str, str], dict[int, float]]:
    curves: dict[tuple[str, str], dict[int, float]] = {}
    for line in (session.with_suffix("") / "metrics.jsonl").read_text().splitlines():
        for event in json.loads(line):
            if "value" in event:
                curves.setdefault((event["metric"], event["variant"]), {})[event["iter"]] = event["value"]
    return curves


EXPECTED = {
    ("loss", "train"): {10: 0.1, 20: 0.05},
    ("loss", "val"): {10: 0.2, 20: 0.1},
    ("steps per s", "train"): {10: 2.0, 20: 2.0},
    ("PESQ", "val"): {10: 1.5, 20: 1.5},
    ("PESQ", "noisy"): {10: 1.25, 20: 1.25},
    ("PESQ", "test"): {20: 1.75},
    ("STOI", "val"): {10: 0.8, 20: 0.8},
    ("STOI", "noisy"): {10: 0.7, 20: 0.7},
    ("SNR (dB)", "val"): {10: 7.5, 20: 7.5},
    ("SNR (dB)", "noisy"): {10: 2.5, 20: 2.5},
}
