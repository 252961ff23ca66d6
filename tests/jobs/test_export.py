"""`python -m jobs.export`: an engine on disk, in int8 only with its measured loss."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.jobs.conftest import Done
from ww_models import build_model, load_bundle, read_bundle_info, save_bundle, stream
from ww_models.streaming.onnx_engine import OnnxEngine

INT8 = ("--precision", "int8", "--data")


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
    monkeypatch.setattr("ww_models.streaming.onnx_export.MIN_INT8_WEIGHTS", 1)
    monkeypatch.setattr("ww_models.streaming.onnx_export.MIN_INT8_INPUTS", 1)


def test_fp32_is_the_model(run_job: Callable[..., Done], bundle: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in bundle.iterdir()}
    out = tmp_path / "new" / "denoiser.onnx"
    done = run_job("export", "--bundle", bundle, "--out", out)
    assert done.code == 0
    assert str(out) in done.out
    assert str(out.with_suffix(".json")) in done.out
    noisy = (0.1 * torch.randn(1, 1, 4000)).clamp(-1, 1)
    streamer = stream(OnnxEngine.load(out))
    given = np.concatenate([streamer.feed(noisy[0].numpy()), streamer.flush()], axis=-1)
    with torch.no_grad():
        expected = load_bundle(bundle)(noisy)[0].numpy()
    np.testing.assert_allclose(given, expected, atol=1e-5 * np.abs(expected).max())
    assert {path: path.read_bytes() for path in bundle.iterdir()} == before


@pytest.mark.usefixtures("all_products")
def test_int8_comes_with_what_it_loses(
    run_job: Callable[..., Done], bundle: Path, small_corpus: Path, tmp_path: Path
) -> None:
    before, weights = read_bundle_info(bundle), (bundle / "weights.safetensors").read_bytes()
    (bundle / "notes.txt").write_text("mine")
    out = tmp_path / "denoiser.onnx"
    done = run_job("export", "--bundle", bundle, "--out", out, *INT8, small_corpus, "--mixtures", 4)
    assert done.code == 0
    assert "real-time factor" in done.out
    assert "over 4 stored test mixtures" in done.out
    assert "measuring int8: 4/4" in done.err
    assert "warning" not in done.err
    assert OnnxEngine.load(out).spec.precision == "int8"

    after = read_bundle_info(bundle)
    measured = after.metrics["int8"]
    assert json.loads(out.with_suffix(".json").read_text())["measured"] == measured
    assert measured["num_mixtures"] == 4
    assert 25 < measured["snr_to_fp32_db"] < 100
    for key, limit in measured["limits"].items():
        assert abs(measured[key]["int8"] - measured[key]["fp32"]) < limit
    assert any(measured[key]["int8"] != measured[key]["fp32"] for key in measured["limits"])
    assert all(0 < factor < 10 for factor in measured["real_time_factor"].values())
    assert measured["is_within_limits"]

    assert (after.id, after.metrics["noisy"]) == (before.id, before.metrics["noisy"])
    assert (bundle / "weights.safetensors").read_bytes() == weights
    assert (bundle / "notes.txt").read_text() == "mine"
    load_bundle(bundle)
    card = (bundle / "README.md").read_text()
    assert "## int8" in card
    assert f"{measured['snr_to_fp32_db']:.4g} dB, over 4 stored test mixtures" in card
    assert "It stays within 0.05 in PESQ and 0.2 in SI-SDR dB of fp32." in card
    assert "| PESQ | 1 | 2 | +1 |" in card
    assert sorted(path.name for path in bundle.iterdir()) == [
        "README.md",
        "config.json",
        "notes.txt",
        "weights.safetensors",
    ]


@pytest.mark.usefixtures("all_products")
def test_int8_that_loses_too_much_is_exported_with_a_warning(
    run_job: Callable[..., Done],
    monkeypatch: pytest.MonkeyPatch,
    bundle: Path,
    small_corpus: Path,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("cluster.export.LIMITS", {"pesq": 0.05, "si_sdr_db": -1.0})
    out = tmp_path / "a.onnx"
    done = run_job("export", "--bundle", bundle, "--out", out, *INT8, small_corpus, "--mixtures", 1)
    assert done.code == 0
    assert "warning: int8 loses more than 0.05 PESQ or -1.0 SI-SDR dB here" in done.err
    assert out.exists()
    assert "It does not stay within" in (bundle / "README.md").read_text()
    assert not read_bundle_info(bundle).metrics["int8"]["is_within_limits"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--precision", "int8"], "int8 is exported only together with its measured loss"),
        (["--data", "{data}"], "leave --data out, or export int8"),
        ([*INT8, "{data}", "--mixtures", "0"], "mixtures is 0: give at least 1"),
        ([*INT8, "nowhere"], "holds no corpus"),
        (["--out", "denoiser.pt"], "does not end in .onnx"),
        (["--out", "folder.onnx", *INT8, "{data}"], "folder.onnx is a folder: give the name of a file"),
        (["--out", "note.txt/a.onnx", *INT8, "{data}"], "note.txt is no folder: choose another place"),
        (["--out", "{bundle}/config.onnx"], "config.json would be overwritten and is not of an export"),
        (["--bundle", "nowhere"], "nowhere does not exist: a bundle is a folder"),
        (["--bundle", "{whole}"], "has no streaming step (causal=False"),
        (["--bundle", "{slow}", *INT8, "{data}"], "16000 Hz, the model 8000 Hz"),
    ],
)
def test_wrong_use_is_one_line_and_writes_nothing(
    run_job: Callable[..., Done],
    monkeypatch: pytest.MonkeyPatch,
    bundle: Path,
    small_corpus: Path,
    tmp_path: Path,
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
    done = run_job("export", "--bundle", bundle, "--out", "denoiser.onnx", *filled)
    assert done.code == 2
    assert words in done.error
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.usefixtures("all_products")
def test_a_model_that_does_not_stand_int8_is_one_line(
    run_job: Callable[..., Done],
    monkeypatch: pytest.MonkeyPatch,
    bundle: Path,
    small_corpus: Path,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("ww_models.streaming.onnx_engine.MIN_INT8_SNR_DB", 200)
    out = tmp_path / "denoiser.onnx"
    done = run_job("export", "--bundle", bundle, "--out", out, *INT8, small_corpus)
    assert done.code == 2
    assert "does not stand int8: the int8 graph has" in done.error
    assert "at least 200 were expected: export fp32" in done.error
    assert not out.exists()
