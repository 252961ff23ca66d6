"""docs/run_exported.py: an export runs where there is nothing but numpy and ONNX Runtime."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
import torch

from ww_models import Denoiser, build_model
from ww_models.streaming.onnx_engine import OnnxEngine

SCRIPT = Path(__file__).resolve().parent.parent / "docs" / "run_exported.py"
# The packages of the project and torch lie in the same environment; this takes them away.
ALONE = """
import runpy, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"ww_models", "ww_data", "cluster", "jobs", "torch", "onnx", "soundfile"}:
            raise ImportError(f"{name} is not to be had here")
sys.meta_path.insert(0, Blocked())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
FORMS = {
    "gatewave": {"hidden": 4, "depth": 3, "residual": True},
    "demucs": {"hidden": 4, "depth": 3, "sinc_zeros": 8},
    "waveunet": {"hidden": 4, "depth": 3, "growth": 1.5},
    "bandmask": {"hidden": 8, "normalize": "none"},
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Denoiser, Path]]:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("exported")
    models = {name: build_model(name, **settings).eval() for name, settings in FORMS.items()}
    return {
        name: (model, OnnxEngine.from_model(model).save(folder / f"{name}.onnx"))
        for name, model in models.items()
    }


def write_wav(
    path: Path, samples_T: np.ndarray, rate: int = 16_000, channels: int = 1, width: int = 2
) -> Path:
    """samples_T: of all channels in turn, full scale +-1."""
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, width, rate, 0, "NONE", ""))
        kind = {2: "<i2", 4: "<i4"}[width]
        file.writeframes((samples_T * 2 ** (8 * width - 1)).round().astype(kind).tobytes())
    return path


def read_wav(path: Path) -> np.ndarray:
    """(T,), full scale +-1."""
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 16_000)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768


def call(cwd: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-c", ALONE, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, env={"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=400
    )


@pytest.mark.parametrize("num_samples", [1, 4321])
@pytest.mark.parametrize("name", FORMS)
def test_it_gives_what_the_model_gives(
    exported: dict[str, tuple[Denoiser, Path]], tmp_path: Path, name: str, num_samples: int
) -> None:
    model, path = exported[name]
    rng = np.random.default_rng(0)
    noisy = write_wav(tmp_path / "noisy.wav", 0.1 * rng.standard_normal(num_samples).clip(-3, 3))
    done = call(tmp_path, path, noisy, tmp_path / "clean.wav")
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        expected = model(torch.from_numpy(read_wav(noisy))[None, None])[0, 0].numpy()
    clean = read_wav(tmp_path / "clean.wav")
    assert clean.shape == expected.shape
    assert np.abs(clean - expected).max() <= 0.6 / 32768


def test_an_empty_file_stays_empty(exported: dict[str, tuple[Denoiser, Path]], tmp_path: Path) -> None:
    noisy = write_wav(tmp_path / "noisy.wav", np.zeros(0))
    done = call(tmp_path, exported["gatewave"][1], noisy, tmp_path / "clean.wav")
    assert done.returncode == 0, done.stderr
    assert read_wav(tmp_path / "clean.wav").size == 0


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"rate": 44_100}, "the file has 44100 Hz, the model takes 16000 Hz: convert it first"),
        ({"channels": 2}, "has 2 channel(s) of 16 bits: convert it to 16-bit mono first"),
        ({"width": 4}, "has 1 channel(s) of 32 bits: convert it to 16-bit mono first"),
        (None, "cannot be read (file does not start with RIFF id): give a WAV file"),
    ],
)
def test_what_it_cannot_take_is_one_line(
    exported: dict[str, tuple[Denoiser, Path]], tmp_path: Path, form: dict[str, int] | None, words: str
) -> None:
    path = tmp_path / "noisy.wav"
    if form is None:
        path.write_bytes(b"ID3 this is no WAV file")
    else:
        write_wav(path, np.zeros(800), **form)
    done = call(tmp_path, exported["gatewave"][1], path, tmp_path / "clean.wav")
    assert done.returncode == 1
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "clean.wav").exists()


@pytest.mark.parametrize("change", [{"format": "another"}, {"format_version": 2}, {"format_version": None}])
def test_another_format_is_one_line(
    exported: dict[str, tuple[Denoiser, Path]], tmp_path: Path, change: dict[str, object]
) -> None:
    model = tmp_path / "denoiser.onnx"
    model.write_bytes(exported["gatewave"][1].read_bytes())
    content = json.loads(exported["gatewave"][1].with_suffix(".json").read_text(encoding="utf-8"))
    model.with_suffix(".json").write_text(json.dumps({**content, **change}), encoding="utf-8")
    noisy = write_wav(tmp_path / "noisy.wav", np.zeros(800))
    done = call(tmp_path, model, noisy, tmp_path / "clean.wav")
    assert done.returncode == 1
    assert (
        "denoiser.onnx is no export of version 1, by the .json beside it: export the model again"
        in done.stderr
    )
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "clean.wav").exists()


@pytest.mark.parametrize("fault", ["cut", "odd", "never closed", "no model", "no folder"])
def test_what_is_not_whole_or_not_there_is_one_line(
    exported: dict[str, tuple[Denoiser, Path]], tmp_path: Path, fault: str
) -> None:
    noisy = write_wav(tmp_path / "noisy.wav", np.zeros(800))
    whole = noisy.read_bytes()
    sizes = whole[:40] + bytes(4) + whole[44:]
    faults = {"cut": whole[:-800], "odd": whole[:-801], "never closed": sizes}
    noisy.write_bytes(faults.get(fault, whole))
    model = tmp_path / "no.onnx" if fault == "no model" else exported["gatewave"][1]
    target = tmp_path / ("no" if fault == "no folder" else "") / "clean.wav"
    done = call(tmp_path, model, noisy, target)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert not target.exists()


def test_it_is_short_and_needs_little() -> None:
    text = SCRIPT.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 76
    names = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
        )
    }
    assert names == {"json", "os", "sys", "wave", "pathlib", "numpy", "onnxruntime"}
