"""A saved engine: what was saved is what is loaded, and every damage is one clear error."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ww_models.runtime import OnnxEngine

from .samples import heard, noise, small


@pytest.fixture(scope="module")
def engines() -> dict[str, OnnxEngine]:
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ww_models.onnx_export.MIN_INT8_WEIGHTS", 1)
        patch.setattr("ww_models.onnx_export.MIN_INT8_INPUTS", 1)
        model = heard(small("gatewave"))
        return {precision: OnnxEngine.from_model(model, precision) for precision in ("fp32", "int8")}


@pytest.fixture
def saved(engines: dict[str, OnnxEngine], tmp_path: Path) -> Path:
    return engines["fp32"].save(tmp_path / "denoiser.onnx")


def output(engine: OnnxEngine) -> np.ndarray:
    streamer = engine.streamer()
    return np.concatenate([streamer.feed(noise(3000)[0].numpy()), streamer.flush()], -1)


def change(saved: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    path = saved.with_suffix(".json")
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_what_was_saved_is_what_is_loaded(
    engines: dict[str, OnnxEngine], precision: str, tmp_path: Path
) -> None:
    path = engines[precision].save(tmp_path / "new" / "a.onnx", measured={"pesq": 2.5})
    loaded = OnnxEngine.load(str(path))
    assert loaded.spec == engines[precision].spec
    assert loaded.spec.precision == precision
    np.testing.assert_array_equal(output(loaded), output(engines[precision]))
    assert json.loads(path.with_suffix(".json").read_text())["measured"] == {"pesq": 2.5}
    assert sorted(item.name for item in path.parent.iterdir()) == ["a.json", "a.onnx"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_save_that_fails_leaves_what_was_there(
    engines: dict[str, OnnxEngine], saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {item: item.read_bytes() for item in saved.parent.iterdir()}
    opened: list[int] = []

    def full_disk(handle: int, mode: str) -> object:
        opened.append(handle)
        os.close(handle)
        if len(opened) % 2:
            return (saved.parent / "written").open(mode)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ww_models.runtime.os.fdopen", full_disk)
    with pytest.raises(OSError, match="No space left"):
        engines["int8"].save(saved)
    assert len(opened) == 2, "the second of two files fails"
    (saved.parent / "written").unlink()
    assert {item: item.read_bytes() for item in saved.parent.iterdir()} == before
    assert OnnxEngine.load(saved).spec.precision == "fp32"


def test_two_exports_mixed_up_are_found(engines: dict[str, OnnxEngine], saved: Path, tmp_path: Path) -> None:
    other = engines["int8"].save(tmp_path / "other.onnx")
    other.with_suffix(".json").replace(saved.with_suffix(".json"))
    with pytest.raises(ValueError, match=r"belongs to another \.json"):
        OnnxEngine.load(saved)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.with_suffix(".json").unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: path.write_bytes(path.read_bytes().replace(b"chunk", b"chink")),
        lambda path: path.with_suffix(".json").write_text("{"),
        lambda path: path.with_suffix(".json").write_bytes(b"\xff\xfe"),
        lambda path: path.with_suffix(".json").write_text("[]"),
        lambda path: path.with_suffix(".json").write_text('{"format": "something else"}'),
    ],
)
def test_damaged_files_are_refused(saved: Path, damage: Callable[[Path], object]) -> None:
    damage(saved)
    assert_refused(saved)


@pytest.mark.parametrize(
    "edit",
    [
        lambda content: content.pop("states"),
        lambda content: content.pop("lead_samples"),
        lambda content: content.pop("precision"),
        lambda content: content.pop("graph_sha256"),
        lambda content: content.update(states=[]),
        lambda content: content.update(states={"age": 1}),
        lambda content: content.update(states={"age": [[1, 1]]}),
        lambda content: content["states"].update(age=[[1, 1], "young"]),
        lambda content: content["states"].update(age=[[1, 1], float("nan")]),
        lambda content: content["states"].update(age=[[2, 1], 0.0]),
        lambda content: content["states"].pop("age"),
        lambda content: content["states"].update(other=[[1], 0.0]),
        lambda content: content.update(hop_samples=128),
        lambda content: content.update(hop_samples="256"),
        lambda content: content.update(lag_samples=-1),
        lambda content: content.update(lead_samples=0.5),
        lambda content: content.update(sample_rate=0),
        lambda content: content.update(precision="int4"),
        lambda content: content.update(format_version=2),
        lambda content: content.update(format_version=None),
    ],
)
def test_a_damaged_description_is_refused(saved: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    change(saved, edit)
    assert_refused(saved)


def test_a_graph_that_the_runtime_refuses_is_refused(saved: Path) -> None:
    import hashlib

    saved.write_bytes(b"not a graph")
    change(saved, lambda content: content.update(graph_sha256=hashlib.sha256(b"not a graph").hexdigest()))
    assert_refused(saved)


def assert_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="denoiser") as caught:
        OnnxEngine.load(path)
    assert type(caught.value) is ValueError
    assert "export the model again" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_only_onnx_files_are_written(engines: dict[str, OnnxEngine], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"does not end in \.onnx"):
        engines["fp32"].save(tmp_path / "denoiser.pt")
    assert not list(tmp_path.iterdir())
