"""What is always written of a run, TensorBoard's files and metrics.jsonl, and what the pictures show."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from cluster.settings.tracking import TrackingConfig
from cluster.tracking.clearml_task import clearml_mode
from cluster.tracking.pictures import compare_signals, mel_of, mel_spectrogram_db, pixels_of
from cluster.tracking.tracker import Tracker, code_commit
from ww_data import Storage

NEVER = TrackingConfig(clearml="never")
TONE = 0.1 * np.sin(np.arange(16_000) * 0.1).astype(np.float32)


def board(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder / "tracking" / "tensorboard"), size_guidance={"tensors": 0})
    events.Reload()
    return events


def test_metrics_file_and_tensorboard_hold_each_point_and_no_nan(tmp_path: Path) -> None:
    with Tracker(NEVER, Storage(tmp_path), "x") as tracker:
        for step in (10, 20):
            tracker.scalars("train", {"loss": 1.0 / step, "broken": float("nan")}, step)
            tracker.scalars("val", {"pesq": 1.5}, step)
    lines = [json.loads(line) for line in (tmp_path / "tracking" / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["series"]) for line in lines] == [
        (10, "train"),
        (10, "val"),
        (20, "train"),
        (20, "val"),
    ]
    assert lines[0]["loss"] == 0.1
    assert "broken" not in lines[0]
    events = board(tmp_path)
    assert set(events.Tags()["scalars"]) == {"loss/train", "pesq/val"}
    assert [(event.step, event.value) for event in events.Scalars("pesq/val")] == [(10, 1.5), (20, 1.5)]


def test_a_resumed_run_adds_to_its_metrics_file(tmp_path: Path) -> None:
    for step in (10, 20):
        with Tracker(NEVER, Storage(tmp_path), "x") as tracker:
            tracker.started(step, node="127.0.0.1", node_ids=["a", "a"])
            tracker.scalars("val", {"pesq": 1.5}, step)
    lines = [json.loads(line) for line in (tmp_path / "tracking" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["series"] == "start"] == [10, 20]
    assert [event.step for event in board(tmp_path).Scalars("pesq/val")] == [10, 20]


def test_a_torn_line_takes_no_other_with_it(tmp_path: Path) -> None:
    (tmp_path / "tracking").mkdir()
    (tmp_path / "tracking" / "metrics.jsonl").write_text('{"step": 1, "series": "val", "lo')
    for step in (10, 20):
        with Tracker(NEVER, Storage(tmp_path), "x") as tracker:
            tracker.started(step, node="127.0.0.1", node_ids=["a", "a"])
    torn, *whole = (tmp_path / "tracking" / "metrics.jsonl").read_text().splitlines()
    assert torn.endswith('"lo')
    assert [json.loads(line)["step"] for line in whole] == [10, 20]


def test_tensorboard_charts_show_each_curve_beside_the_noisy_baseline(tmp_path: Path) -> None:
    with Tracker(NEVER, Storage(tmp_path), "x") as tracker:
        tracker.scalars("val", {"pesq": 1.5}, 1)
    layout = layout_pb2.Layout()
    (event,) = board(tmp_path).Tensors("custom_scalars__config__")
    layout.ParseFromString(event.tensor_proto.string_val[0])
    charts = {chart.title: chart.multiline.tag[0] for chart in layout.category[0].chart}
    assert {"val loss", "PESQ", "STOI", "SNR (dB)"} <= charts.keys()
    for tag in ("pesq/val", "pesq/noisy"):
        assert re.match(charts["PESQ"], tag)
    assert not re.match(charts["PESQ"], "pesq/train")
    assert not re.match(charts["SNR (dB)"], "si_sdr_db/val")


def test_an_unknown_series_is_refused(tmp_path: Path) -> None:
    with (
        Tracker(NEVER, Storage(tmp_path), "x") as tracker,
        pytest.raises(ValueError, match="one of train, val, noisy, test; got 'valid'"),
    ):
        tracker.scalars("valid", {"pesq": 1.5}, 1)


def test_without_clearml_nothing_of_it_is_imported(tmp_path: Path) -> None:
    script = (
        "import sys; from cluster.settings.tracking import TrackingConfig\n"
        "from cluster.tracking.tracker import Tracker; from ww_data import Storage\n"
        "with Tracker(TrackingConfig(clearml='auto'), Storage(sys.argv[1]), 'x') as t:\n"
        "    t.scalars('train', {'loss': 1}, 1)\n"
        "assert 'clearml' not in sys.modules"
    )
    environment = {"HOME": str(tmp_path), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "t")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=480,
    )
    assert done.returncode == 0, done.stderr


def test_what_a_choice_turns_out_to_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("CLEARML_API_HOST", "CLEARML_API_ACCESS_KEY", "CLEARML_OFFLINE_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLEARML_CONFIG_FILE", str(tmp_path / "none.conf"))
    assert [clearml_mode(choice) for choice in ("auto", "offline", "never")] == [None, "offline", None]
    (tmp_path / "none.conf").write_text("api {}")
    assert clearml_mode("auto") == "online"
    (tmp_path / "none.conf").unlink()
    monkeypatch.setenv("CLEARML_API_HOST", "http://127.0.0.1:1")
    monkeypatch.setenv("CLEARML_API_ACCESS_KEY", "key")
    assert [clearml_mode(choice) for choice in ("auto", "offline", "never")] == ["online", "offline", None]
    monkeypatch.setenv("CLEARML_OFFLINE_MODE", "1")
    assert [clearml_mode(choice) for choice in ("auto", "offline", "never")] == ["offline", "offline", None]


def test_a_loud_sound_is_scaled_never_clipped(tmp_path: Path) -> None:
    loud = 3 * np.sin(np.arange(16_000) * 0.1).astype(np.float32)
    with Tracker(NEVER, Storage(tmp_path), "x") as tracker:
        tracker.audio("loud", loud, 16_000, 1)
        tracker.image("picture", compare_signals(loud, loud, loud, 16_000), 1)
    events = board(tmp_path)
    samples, rate = sf.read(io.BytesIO(events.Audio("loud")[0].encoded_audio_string))
    assert rate == 16_000
    np.testing.assert_allclose(samples, loud / 3, atol=2e-4)
    assert events.Images("picture")[0].width > 300


def test_the_commit_is_that_of_a_checkout_of_this_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site-packages" / "cluster"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    monkeypatch.setattr("cluster.tracking.tracker.__file__", str(package / "tracker.py"))
    assert code_commit() == "", "no checkout"

    def git(*arguments: str) -> str:
        who = ("-c", "user.name=t", "-c", "user.email=t@localhost")
        command = ["git", "-C", str(tmp_path), *who, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "-m", "another project")
    assert code_commit() == "", "installed into another project's checkout"
    git("add", ".")
    git("commit", "--quiet", "-m", "this code")
    assert code_commit() == git("rev-parse", "HEAD")[:12]
    (package / "__init__.py").write_text("changed = True")
    assert code_commit() == git("rev-parse", "HEAD")[:12] + "-dirty"


def test_a_mel_band_shows_its_tone_at_its_level() -> None:
    for hz in (250.0, 1000.0, 4000.0):
        sine = 0.5 * np.sin(2 * np.pi * hz * np.arange(16_000) / 16_000)
        spectrum_DM = mel_spectrogram_db(sine, 16_000)
        middle_D = spectrum_DM[:, spectrum_DM.shape[1] // 2]
        band = int(middle_D.argmax())
        assert abs((band + 1) * mel_of(8000) / 81 - mel_of(hz)) < mel_of(8000) / 81, hz
        assert middle_D[band] == pytest.approx(20 * np.log10(0.5), abs=3.0)
        assert middle_D[int(np.abs(np.arange(80) - band).argmax())] < middle_D[band] - 40


def test_pictures_compare_on_the_same_scales() -> None:
    quiet = 0.01 * TONE
    figure = compare_signals(TONE, quiet, quiet, 16_000)
    waves, spectra = figure.axes[0:6:2], figure.axes[1:6:2]
    assert [axis.get_title(loc="left") for axis in waves] == ["noisy", "estimate", "clean"]
    assert len({axis.get_ylim() for axis in waves}) == 1
    assert len({axis.get_xlim() for axis in figure.axes[:6]}) == 1
    assert waves[0].get_xlim() == (0.0, 1.0), "seconds"
    assert len({axis.images[0].get_clim() for axis in spectra}) == 1
    assert figure.axes[6].get_ylabel().startswith("power, dB")
    assert [tick.get_text() for tick in spectra[0].get_yticklabels()] == ["0.25", "0.5", "1", "2", "4", "8"]
    noisy, clean = (axis.images[0].get_array() for axis in (spectra[0], spectra[2]))
    assert noisy.max() - clean.max() == pytest.approx(40, abs=0.1)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("num_samples", [1, 100, 48_000])
def test_silent_and_short_signals_have_a_picture(num_samples: int) -> None:
    silence = np.zeros(num_samples, dtype=np.float32)
    assert pixels_of(compare_signals(silence, silence, silence, 48_000)).shape == (650, 1200, 3)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 3e38])
def test_an_estimate_that_is_not_finite_is_shown_and_heard(tmp_path: Path, value: float) -> None:
    estimate = TONE.copy()
    estimate[100] = value
    with Tracker(NEVER, Storage(tmp_path), "x") as tracker:
        tracker.audio("estimate", estimate, 16_000, 1)
        tracker.image("picture", compare_signals(TONE, TONE, estimate, 16_000), 1)
    events = board(tmp_path)
    samples, _ = sf.read(io.BytesIO(events.Audio("estimate")[0].encoded_audio_string))
    assert np.isfinite(samples).all()
    if not np.isfinite(value):
        np.testing.assert_allclose(np.delete(samples, 100), np.delete(TONE, 100), atol=2e-4)
    assert events.Images("picture")[0].width > 300
