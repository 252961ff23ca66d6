"""`python -m jobs.export`: an engine on disk, in int8 only with its measured loss."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from jobs import export
from jobs.cli import main
from ww_models import build_model, load_bundle, read_bundle_info, save_bundle
from ww_models.runtime import OnnxEngine


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = build_model("gatewave", hidden=4, depth=3, residual=True)
    return save_bundle(
        tmp_path / "bundle", model, metrics={"noisy": {"pesq": 1.0}, "enhanced": {"pesq": 2.0}}
    )


@pytest.fixture
def all_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small models too get int8 products."""
    monkeypatch.setattr("ww_models.onnx_export.MIN_INT8_WEIGHTS", 1)
    monkeypatch.setattr("ww_models.onnx_export.MIN_INT8_INPUTS", 1)


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["export", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_info:
        main(export.parser(), export.run)
    return int(exit_info.value.code or 0)


def test_fp32_is_the_model(
    monkeypatch: pytest.MonkeyPatch, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in bundle.iterdir()}
    out = tmp_path / "new" / "denoiser.onnx"
    assert call(monkeypatch, "--bundle", bundle, "--out", out) == 0
    said = capsys.readouterr().out
    assert str(out) in said
    assert str(out.with_suffix(".json")) in said
    noisy = (0.1 * torch.randn(1, 1, 4000)).clamp(-1, 1)
    streamer = OnnxEngine.load(out).streamer()
    given = np.concatenate([streamer.feed(noisy[0].numpy()), streamer.flush()], axis=-1)
    with torch.no_grad():
        expected = load_bundle(bundle)(noisy)[0].numpy()
    np.testing.assert_allclose(given, expected, atol=1e-5 * np.abs(expected).max())
    assert {path: path.read_bytes() for path in bundle.iterdir()} == before


@pytest.mark.usefixtures("all_products")
def test_int8_comes_with_what_it_loses(
    monkeypatch: pytest.MonkeyPatch,
    bundle: Path,
    small_corpus: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before, weights = read_bundle_info(bundle), (bundle / "weights.safetensors").read_bytes()
    (bundle / "notes.txt").write_text("mine")
    out = tmp_path / "denoiser.onnx"
    arguments = ["--bundle", bundle, "--out", out, "--precision", "int8", "--data", small_corpus]
    assert call(monkeypatch, *arguments, "--mixtures", 4) == 0
    said = capsys.readouterr()
    assert "real-time factor" in said.out
    assert "over 4 stored test mixtures" in said.out
    assert "measuring int8: 4/4" in said.err
    assert "warning" not in said.err
    assert OnnxEngine.load(out).spec.precision == "int8"

    after = read_bundle_info(bundle)
    measured = after.metrics["int8"]
    assert json.loads(out.with_suffix(".json").read_text())["measured"] == measured
    assert measured["num_mixtures"] == 4
    assert 25 < measured["snr_to_fp32_db"] < 100
    for key, limit in measured["limits"].items():
        assert abs(measured[key]["int8"] - measured[key]["fp32"]) < limit
        assert measured[key]["int8"] != measured[key]["fp32"]
    assert all(0 < factor < 10 for factor in measured["real_time_factor"].values())
    assert measured["is_within_limits"]

    assert (after.id, after.metrics["noisy"]) == (before.id, before.metrics["noisy"])
    assert (bundle / "weights.safetensors").read_bytes() == weights
    assert (bundle / "notes.txt").read_text() == "mine"
    load_bundle(bundle)
    card = (bundle / "README.md").read_text()
    assert "## int8" in card
    assert f"{measured['snr_to_fp32_db']:.4g} dB, over 4 stored test mixtures" in card
    assert "It stays within 0.05 in PESQ and 0.2 in SI-SDR (dB) of fp32." in card
    assert "| PESQ | 1 | 2 | +1 |" in card
    assert sorted(path.name for path in bundle.iterdir()) == [
        "README.md",
        "config.json",
        "notes.txt",
        "weights.safetensors",
    ]


@pytest.mark.usefixtures("all_products")
def test_int8_that_loses_too_much_is_exported_with_a_warning(
    monkeypatch: pytest.MonkeyPatch,
    bundle: Path,
    small_corpus: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("cluster.export.LIMITS", {"pesq": 0.05, "si_sdr_db": -1.0})
    arguments = [
        "--bundle",
        bundle,
        "--out",
        tmp_path / "a.onnx",
        "--precision",
        "int8",
        "--data",
        small_corpus,
    ]
    assert call(monkeypatch, *arguments, "--mixtures", 1) == 0
    assert "warning: int8 loses more than 0.05 PESQ or -1.0 SI-SDR dB here" in capsys.readouterr().err
    assert (tmp_path / "a.onnx").exists()
    assert "It does not stay within" in (bundle / "README.md").read_text()
    assert not read_bundle_info(bundle).metrics["int8"]["is_within_limits"]


INT8 = ("--precision", "int8", "--data", "{data}")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--precision", "int8"], "int8 is exported only together with its measured loss"),
        (["--data", "{data}"], "leave --data out, or export int8"),
        (["--precision", "int8", "--data", "{data}", "--mixtures", "0"], "mixtures is 0: give at least 1"),
        (["--precision", "int8", "--data", "nowhere"], "holds no corpus"),
        (["--out", "denoiser.pt"], "does not end in .onnx"),
        (["--out", "folder.onnx", *INT8], "folder.onnx is a folder: give the name of a file"),
        (["--out", "note.txt/a.onnx", *INT8], "note.txt is no folder: choose another place"),
        (["--out", "{bundle}/config.onnx"], "config.json would be overwritten and is not of an export"),
        (["--bundle", "nowhere"], "nowhere does not exist: a bundle is a folder"),
        (["--bundle", "{whole}"], "has no streaming step to export (causal=False"),
        (["--bundle", "{slow}", "--precision", "int8", "--data", "{data}"], "16000 Hz, the model 8000 Hz"),
    ],
)
def test_wrong_use_is_one_line_and_writes_nothing(
    monkeypatch: pytest.MonkeyPatch,
    bundle: Path,
    small_corpus: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    save_bundle(tmp_path / "whole", build_model("gatewave", hidden=4, depth=2, causal=False))
    save_bundle(tmp_path / "slow", build_model("gatewave", hidden=4, depth=2, sample_rate=8000))
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "note.txt").write_text("mine")
    monkeypatch.chdir(tmp_path)
    # Measuring takes minutes: what is wrong has to be said before.
    monkeypatch.setattr("cluster.export.measure_int8", lambda *_: pytest.fail("it was measured first"))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    places = {"bundle": bundle, "data": small_corpus, "whole": "whole", "slow": "slow"}
    filled = [argument.format(**places) for argument in arguments]
    assert call(monkeypatch, "--bundle", bundle, "--out", "denoiser.onnx", *filled) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    assert words in said[0]
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.usefixtures("all_products")
def test_a_model_that_does_not_stand_int8_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    bundle: Path,
    small_corpus: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("ww_models.runtime.MIN_INT8_SNR_DB", 200)
    out = tmp_path / "denoiser.onnx"
    arguments = ["--bundle", bundle, "--out", out, "--precision", "int8", "--data", small_corpus]
    assert call(monkeypatch, *arguments) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    assert "does not stand int8: the int8 graph has" in said[0]
    assert "at least 200 were expected: export fp32" in said[0]
    assert not out.exists()
