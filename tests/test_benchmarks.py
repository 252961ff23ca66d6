"""The benchmarks run; what they measure is for a person to read, not for a test."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from matplotlib.image import imread

from cluster.runs.folder import claim_run_folder
from cluster.settings.experiment import load_config
from tests.conftest import speech_like
from ww_data import Storage
from ww_models import load_bundle

ROOT = Path(__file__).resolve().parent.parent


def run_streaming(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run_benchmark("streaming", *arguments)


def run_benchmark(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_streaming_prints_its_table_and_its_bars(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    quick = ("--repeats", "1", "--seconds", "0.05", "--silence", "0", "--json", str(file))
    done = run_streaming("--presets", "gatewave-compact", *quick)
    assert done.returncode == 0, done.stderr
    for expected in ("fp32, alone", "int8, 16 streams", "torch, step by step", "per stream in a batch of 16"):
        assert expected in done.stdout
    assert "…" not in done.stdout  # a table that was cut
    content = json.loads(file.read_text())
    (model,) = content["models"]
    assert len(model["contestants"]) == 8
    assert {"fp32, 16 streams, half ready at a time", "int8, 16 streams, half ready at a time"} < set(
        model["contestants"]
    )
    for figures in model["contestants"].values():
        assert len(figures["rounds"]) == 1
        assert 0 < figures["step_ms_median"] <= figures["step_ms_p99"]
    assert {bar["what"]: bar["met"] is None for bar in content["bars"]} == {
        "alone": False,
        "per stream in a batch of 16": False,
        "silence over speech": True,
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--bundle", "not-there"), "not-there"),
        (("--presets", "waveunet"), "waveunet needs the whole clip"),
        (
            ("--presets", "gatewave-compact", "--silence", "0.01"),
            "--silence is 0.01: give 0, or at least 4 s",
        ),
    ],
)
def test_streaming_refuses_at_once_what_it_cannot_measure(arguments: tuple[str, ...], said: str) -> None:
    done = run_streaming(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "arguments", "rows"),
    [
        ("mixing", ("--rounds", "1", "--seconds", "0.05"), ("plain", "default chain")),
        ("full_band", ("--minutes", "0.6", "--seconds", "0.5"), ("passed through", "| 15 |")),
        ("throughput", ("--presets", "tiny", "--steps", "1"), ("`tiny`", "audio s per CPU s")),
        (
            "scaling",
            ("--hours", "1"),
            ("plan: segments in order", "noise bank: pieces", "the bar is 2,000 MB"),
        ),
        ("preparation", ("--seconds", "100", "--files", "0"), ("10 of 16 kHz", "10 of 44.1 kHz")),
        pytest.param(
            "feeding",
            ("--hours", "0.3", "--rounds", "1", "--seconds", "1"),
            ("DataLoader", "first batch, s"),
            marks=[pytest.mark.cluster, pytest.mark.soak],
        ),
    ],
)
def test_benchmarks_print_their_tables(name: str, arguments: tuple[str, ...], rows: tuple[str, ...]) -> None:
    assert_table(run_benchmark(name, *arguments), rows)


@pytest.mark.soak
@pytest.mark.cluster
def test_the_training_benchmark_prints_its_table(small_corpus: Path) -> None:
    options = ("--data", str(small_corpus), "--presets", "tiny", "--steps", "3", "--rounds", "1")
    rows = ("one worker", "two plain loops", "two workers / two plain loops at once", "GPU")
    assert_table(run_benchmark("training", *options), rows)


@pytest.mark.soak
@pytest.mark.cluster
def test_the_serving_benchmark_prints_its_table() -> None:
    options = ("--servers", "uvicorn", "--seconds", "1", "--sessions", "1", "2")
    done = run_benchmark("serving", *options, "--parts", "live", "http")
    assert_table(done, ("would admit", "uvicorn: 10 s over HTTP", "client's", "measured"))
    assert "uvicorn: 2 sessions: p50 " in done.stdout


def test_curves_are_drawn_of_runs_in_one_picture(tmp_path: Path) -> None:
    runs = [tmp_path / "one", tmp_path / "other"]
    for number, run in enumerate(runs):
        claim_run_folder(
            Storage(run),
            load_config("demo", ["training.batch_size=8", "mixing.crop_s=1.5"]),
            "manifest",
            resume=False,
        )
        lines = [
            {"step": 0, "series": "start", "time_s": 1000},
            {
                "step": 500,
                "series": "val",
                "loss": 2.0,
                "snr_db": 5.0 + number,
                "si_sdr_db": 4.0,
                "time_s": 1600,
            },
            {"step": 500, "series": "noisy", "loss": 9.0, "snr_db": 3.0, "time_s": 1600},
            {"step": 500, "series": "start", "time_s": 8000},  # interrupted and resumed
            {"step": 500, "series": "val", "pesq": 1.5, "stoi": 0.8, "time_s": 8060},  # comes later
            {"step": 500, "series": "noisy", "pesq": 1.25, "stoi": 0.75, "time_s": 8060},
            {
                "step": 1000,
                "series": "val",
                "loss": 1.0,
                "snr_db": 6.0 + number,
                "si_sdr_db": 5.0,
                "time_s": 8600,
            },
        ]
        (run / "tracking").mkdir()
        (run / "tracking" / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"cut sh')
    picture = tmp_path / "curves.png"
    done = run_benchmark("curves", *map(str, runs), "--out", str(picture), "--over", "minutes")
    assert done.returncode == 0, done.stderr
    assert (
        "other            best after 3.33 h, 20 min: loss 1.000  snr_db 7.000  si_sdr_db 5.000" in done.stdout
    )
    height, width, _ = imread(picture).shape
    assert width > 3 * height > 900
    (runs[0] / "tracking" / "metrics.jsonl").write_text("")
    refused = run_benchmark("curves", str(runs[0]))
    assert refused.returncode == 1
    assert refused.stderr == f"error: {runs[0]} has not been validated yet\n"


def test_recipes_are_tried_once_and_stand_in_a_table(small_corpus: Path, tmp_path: Path) -> None:
    tries = tmp_path / "tries.yaml"
    tries.write_text("base: {preset: tiny}\nquick: {preset: tiny, set: [optimizer.learning_rate=1e-2]}\n")
    options = ("--data", str(small_corpus), "--tries", str(tries), "--out", str(tmp_path / "out"))
    for _ in range(2):
        done = run_benchmark("recipes", *options, "--minutes", "0.01")
        assert_table(done, ("| base | preset tiny |", "| quick | optimizer.learning_rate=1e-2 |"))
        assert "not finished" not in done.stdout
    assert "hours_heard" not in done.stdout  # nothing was run again
    assert load_bundle(tmp_path / "out" / "quick" / "bundle").name == "gatewave"


def test_quality_is_measured_beside_the_noisy_sound(bundle: Path, small_corpus: Path, tmp_path: Path) -> None:
    options = ("--bundle", str(bundle), "--clips", "3", "--out", str(tmp_path))
    done = run_benchmark("quality", "--data", str(small_corpus), *options)
    assert_table(done, ("noisy", "fp32", "int8", "silence in", "fp32 above"))
    assert imread(tmp_path / "quality.png").shape[0] > 500
    systems = json.loads((tmp_path / "quality.json").read_text())["systems"]
    assert [len(about["rows"]) for about in systems.values()] == [3, 3, 3]
    noisy, fp32, int8 = ([row["si_sdr_db"] for row in about["rows"]] for about in systems.values())
    assert fp32 == pytest.approx(int8, abs=1.0)
    assert noisy != pytest.approx(fp32, abs=1e-3)


def test_quality_takes_two_folders_at_any_rate(bundle: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for folder in ("noisy", "clean", "out"):
        (tmp_path / folder).mkdir()
    for name in ("a", "b"):
        clean = speech_like(rng, 6.0)  # at 48 kHz these are 2 s
        for folder, sound in (("clean", clean), ("noisy", clean + 0.05 * rng.standard_normal(len(clean)))):
            soundfile.write(tmp_path / folder / f"{name}.wav", sound, 48_000)
    soundfile.write(tmp_path / "noisy" / "alone.wav", clean, 48_000)
    pairs = f"{tmp_path / 'noisy'}:{tmp_path / 'clean'}"
    done = run_benchmark("quality", "--pairs", pairs, "--bundle", str(bundle), "--out", str(tmp_path / "out"))
    assert_table(done, ("noisy", "fp32", "int8"))
    assert json.loads((tmp_path / "out" / "quality.json").read_text())["clips"] == ["a", "b"]


@pytest.mark.parametrize("delay", [0, 480, 1440])
def test_a_peer_at_48_khz_is_heard_without_its_delay(delay: int) -> None:
    code = f"""
import sys
sys.path.insert(0, {str(ROOT / "benchmarks")!r})
import numpy as np
from quality_systems import _at_48_khz
x = np.sin(0.1 * np.arange(16_000) ** 1.2).astype(np.float32) * np.hanning(16_000).astype(np.float32)
y = _at_48_khz(lambda frames: np.concatenate([np.zeros({delay}), frames])[: len(frames)])(x)
print(len(y), np.abs(y - x).max())
"""
    length, difference = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert (int(length), float(difference) < 0.02) == (16_000, True)


def assert_table(done: subprocess.CompletedProcess[str], rows: tuple[str, ...]) -> None:
    assert done.returncode == 0, done.stderr
    for row in rows:
        assert row in done.stdout
    assert "\u2026" not in done.stdout  # a table that was cut
