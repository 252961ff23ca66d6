"""A saved engine: what was saved is what is loaded, and every damage is one clear error."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.ww_models.samples import heard, noise, small
from ww_models import stream
from ww_models.streaming.onnx_engine import OnnxEngine, check_target


@pytest.fixture(scope="module")
def engines() -> dict[str, OnnxEngine]:
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ww_models.streaming.onnx_export.MIN_INT8_WEIGHTS", 1)
        patch.setattr("ww_models.streaming.onnx_export.MIN_INT8_INPUTS", 1)
        model = heard(small("gatewave"))
        return {precision: OnnxEngine.from_model(model, precision) for precision in ("fp32", "int8")}


@pytest.fixture
def saved(engines: dict[str, OnnxEngine], tmp_path: Path) -> Path:
    return engines["fp32"].save(tmp_path / "denoiser.onnx")


def output(engine: OnnxEngine) -> np.ndarray:
    streamer = stream(engine)
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


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_umask_says_who_may_read(
    engines: dict[str, OnnxEngine], tmp_path: Path, umask: int, mode: int
) -> None:
    before = os.umask(umask)
    try:
        path = engines["fp32"].save(tmp_path / "a.onnx")
    finally:
        os.umask(before)
    assert [item.stat().st_mode & 0o777 for item in (path, path.with_suffix(".json"))] == [mode, mode]


def test_a_save_that_fails_leaves_what_was_there(
    engines: dict[str, OnnxEngine], saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {item: item.read_bytes() for item in saved.parent.iterdir()}
    opened: list[str] = []
    real_open = Path.open

    def full_disk(path: Path, *arguments: Any, **more: Any) -> Any:
        if arguments == ("xb",):
            opened.append(path.name)
            if len(opened) == 2:
                raise OSError(28, "No space left on device")
        return real_open(path, *arguments, **more)

    monkeypatch.setattr(Path, "open", full_disk)
    with pytest.raises(OSError, match="No space left"):
        engines["int8"].save(saved)
    monkeypatch.undo()
    assert len(opened) == 2, "the second of two files fails"
    assert {item: item.read_bytes() for item in saved.parent.iterdir()} == before
    assert OnnxEngine.load(saved).spec.precision == "fp32"


def test_two_exports_mixed_up_are_found(engines: dict[str, OnnxEngine], saved: Path, tmp_path: Path) -> None:
    other = engines["int8"].save(tmp_path / "other.onnx")
    other.with_suffix(".json").replace(saved.with_suffix(".json"))
    with pytest.raises(ValueError, match=r"belongs to another \.json"):
        OnnxEngine.load(saved)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.unlink(), "cannot be read"),
        (lambda path: path.with_suffix(".json").unlink(), "cannot be read"),
        (lambda path: path.write_bytes(b""), "its checksum differs"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "its checksum differs"),
        (
            lambda path: path.write_bytes(path.read_bytes().replace(b"chunk", b"chink")),
            "its checksum differs",
        ),
        (lambda path: path.with_suffix(".json").write_text("{"), "cannot be read"),
        (lambda path: path.with_suffix(".json").write_bytes(b"\xff\xfe"), "cannot be read"),
        (lambda path: path.with_suffix(".json").write_text("[]"), "does not describe an exported"),
        (
            lambda path: path.with_suffix(".json").write_text('{"format": "something else"}'),
            "does not describe an exported",
        ),
    ],
)
def test_damaged_files_are_refused(saved: Path, damage: Callable[[Path], object], words: str) -> None:
    damage(saved)
    assert_refused(saved, words)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda content: content.pop("states"), "KeyError: 'states'"),
        (lambda content: content.pop("lead_samples"), "KeyError: 'lead_samples'"),
        (lambda content: content.pop("precision"), "KeyError: 'precision'"),
        (lambda content: content.pop("graph_sha256"), "its checksum differs"),
        (lambda content: content.update(states=[]), "is damaged"),
        (lambda content: content.update(states={"age": 1}), "is damaged"),
        (lambda content: content.update(states={"age": [[1, 1]]}), "is damaged"),
        (lambda content: content["states"].update(age=[[1, 1], "young"]), "young"),
        (lambda content: content["states"].update(age=[[1, 1], float("nan")]), "starts with NaN"),
        (lambda content: content["states"].update(age=[[2, 1], 0.0]), "the graph takes"),
        (lambda content: content["states"].pop("age"), "the graph takes"),
        (lambda content: content["states"].update(other=[[1], 0.0]), "the graph takes"),
        (lambda content: content.update(hop_samples=128), "the graph takes"),
        (lambda content: content.update(hop_samples="256"), "hop_samples is '256'"),
        (lambda content: content.update(lag_samples=-1), "lag_samples is -1"),
        (lambda content: content.update(lead_samples=0.5), "lead_samples is 0.5"),
        (lambda content: content.update(sample_rate=0), "sample_rate is 0"),
        (lambda content: content.update(precision="int4"), "precision is 'int4'"),
        (lambda content: content.update(format_version=2), "has format version 2, this program reads 1"),
        (lambda content: content.update(format_version=None), "has format version None"),
    ],
)
def test_a_damaged_description_is_refused(
    saved: Path, edit: Callable[[dict[str, Any]], object], words: str
) -> None:
    change(saved, edit)
    assert_refused(saved, words)


def test_a_graph_that_the_runtime_refuses_is_refused(saved: Path) -> None:
    import hashlib

    saved.write_bytes(b"not a graph")
    change(saved, lambda content: content.update(graph_sha256=hashlib.sha256(b"not a graph").hexdigest()))
    assert_refused(saved, "or its .json is damaged")


def assert_refused(path: Path, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        OnnxEngine.load(path)
    assert type(caught.value) is ValueError
    assert str(caught.value).endswith(": export the model again") or "export the model again with" in str(
        caught.value
    )
    assert str(caught.value).startswith(str(path.with_suffix("")))
    assert "\n" not in str(caught.value)


def test_only_onnx_files_are_written(engines: dict[str, OnnxEngine], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"does not end in \.onnx"):
        engines["fp32"].save(tmp_path / "denoiser.pt")
    assert not list(tmp_path.iterdir())


def test_a_folder_is_not_written_over(engines: dict[str, OnnxEngine], tmp_path: Path) -> None:
    (tmp_path / "a.onnx").mkdir()
    with pytest.raises(ValueError, match=r"a\.onnx is a folder: give the name of a file"):
        engines["fp32"].save(tmp_path / "a.onnx")
    (tmp_path / "b.json").mkdir()
    with pytest.raises(ValueError, match=r"b\.json would be overwritten and is not of an export"):
        check_target(tmp_path / "b.onnx")


def test_a_place_that_cannot_be_written_is_refused_and_no_folder_is_made(
    engines: dict[str, OnnxEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "note.txt").write_text("mine")
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
    for name in ("note.txt", "nowhere"):
        with pytest.raises(ValueError, match=rf"cannot be written, .*{name} is no folder: choose another"):
            engines["fp32"].save(tmp_path / name / "new" / "a.onnx")
    asked: list[Path] = []
    # Root may write everywhere, so the answer is made up.
    monkeypatch.setattr("os.access", lambda path, mode: asked.append(path) or mode != os.W_OK | os.X_OK)
    with pytest.raises(ValueError, match=r"cannot be written, you may not write to .*: choose another place"):
        engines["fp32"].save(tmp_path / "new" / "deep" / "a.onnx")
    assert asked == [tmp_path]
    assert sorted(item.name for item in tmp_path.iterdir()) == ["note.txt", "nowhere"]


def test_a_name_without_a_folder_is_one_in_this_folder(
    engines: dict[str, OnnxEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert engines["fp32"].save("a.onnx") == Path("a.onnx")
    assert OnnxEngine.load(tmp_path / "a.onnx").spec == engines["fp32"].spec
