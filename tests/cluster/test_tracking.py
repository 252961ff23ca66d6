"""What trackers keep: read back from TensorBoard's files, ClearML's offline session and metrics.jsonl."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cluster.pictures import compare_signals
from cluster.tracking import Tracker, TrackingConfig, clearml_is_configured

# In a process of its own: ClearML patches TensorBoard and allows one task per process.
SCRIPT = """
import sys
from pathlib import Path
import numpy as np
from cluster.pictures import compare_signals
from cluster.tracking import Tracker, TrackingConfig
from ww_models import build_model, save_bundle

folder = Path(sys.argv[1])
bundle = save_bundle(folder / "bundle", build_model("gatewave", hidden=2, depth=2))
tone = 0.1 * np.sin(np.arange(16000) * 0.1).astype(np.float32)
with Tracker(TrackingConfig(clearml="offline"), folder / "tracking", "a run", tags=["tiny"]) as tracker:
    tracker.config({"loss.l1_weight": 2.0, "seed": 3})
    for step in (10, 20):
        tracker.scalars("train", {"loss": 1.0 / step, "broken": float("nan")}, step)
        tracker.scalars("val", {"pesq": 1.5, "loss": 2.0 / step}, step)
    tracker.audio("example/noisy", tone, 16000, 20)
    tracker.image("example", compare_signals(tone, tone, tone, 16000), 20)
    tracker.model(bundle, {"si_sdr_db": 9.5})
"""


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tracked")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return folder / "tracking"


def test_journal_holds_each_point_and_no_nan(tracked: Path) -> None:
    lines = [json.loads(line) for line in (tracked / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["series"]) for line in lines] == [
        (10, "train"),
        (10, "val"),
        (20, "train"),
        (20, "val"),
    ]
    assert lines[0]["loss"] == 0.1
    assert "broken" not in lines[0]


def test_clearml_offline_session_holds_everything(tracked: Path) -> None:
    sessions = [path for path in (tracked / "clearml" / "offline").glob("offline-*") if path.is_dir()]
    assert len(sessions) == 1
    task = json.loads((sessions[0] / "task.json").read_text())
    assert task["name"] == "a run"
    assert task["project_name"] == "Wave Wizard"
    assert "tiny" in task["tags"]
    parameters = json.dumps(task["hyperparams"])
    assert "l1_weight" in parameters
    assert '"2.0"' in parameters
    events = [json.loads(line) for line in (sessions[0] / "metrics.jsonl").read_text().splitlines()]
    flat = [event for line in events for event in (line if isinstance(line, list) else [line])]
    curves = {(event["metric"], event["variant"], event["iter"]) for event in flat if "value" in event}
    assert {("loss", "train", 10), ("loss", "train", 20), ("pesq", "val", 20), ("loss", "val", 10)} <= curves
    stored = [path.suffix for path in sessions[0].rglob("*") if path.is_file()]
    assert ".wav" in stored
    assert ".jpeg" in stored or ".png" in stored
    assert list(sessions[0].rglob("artifacts/bundle/bundle.zip"))
    assert (sessions[0].with_suffix(".zip")).is_file(), "what `Task.import_offline_session` uploads later"


def test_without_clearml_nothing_of_it_is_imported(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from cluster.tracking import *\n"
        "with Tracker(TrackingConfig(clearml='auto'), Path(sys.argv[1]), 'x') as t:\n"
        "    t.scalars('train', {'loss': 1}, 1)\n"
        "assert 'clearml' not in sys.modules"
    )
    environment = {"HOME": str(tmp_path), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "t")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def test_configured_server_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("CLEARML_API_HOST", "CLEARML_API_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLEARML_CONFIG_FILE", str(tmp_path / "none.conf"))
    assert not clearml_is_configured()
    (tmp_path / "none.conf").write_text("api {}")
    assert clearml_is_configured()


def test_a_loud_sound_is_scaled_never_clipped(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    loud = 3 * np.sin(np.arange(16_000) * 0.1).astype(np.float32)
    with Tracker(TrackingConfig(clearml="never"), tmp_path, "x") as tracker:
        tracker.audio("loud", loud, 16_000, 1)
        tracker.image("picture", compare_signals(loud, loud, loud, 16_000), 1)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    import io

    import soundfile as sf

    samples, rate = sf.read(io.BytesIO(events.Audio("loud")[0].encoded_audio_string))
    assert rate == 16_000
    np.testing.assert_allclose(samples, loud / 3, atol=2e-4)
    assert events.Images("picture")[0].width > 300
