"""Files of `denoiser`: the forms that load, and what is refused."""

import hashlib
import os
import pickle
import sys
import time
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tests.ww_models.samples import noise
from ww_models import Demucs, build_model, load_denoiser_checkpoint
from ww_models.bundle import facebook_denoiser as module

SMALL: dict[str, Any] = {"hidden": 4, "depth": 3}


@pytest.fixture
def denoiser_class(monkeypatch: pytest.MonkeyPatch) -> type:
    """A class that pickles as denoiser's does. It fails where it is made or asked for anything."""

    class Trap(type):
        def __call__(cls, *args: object, **kwargs: object) -> None:
            raise AssertionError("the class of the file was called")

    fake = Trap("Demucs", (), {"__module__": "denoiser.demucs"})
    package, demucs = ModuleType("denoiser"), ModuleType("denoiser.demucs")
    demucs.Demucs = fake  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "denoiser", package)
    monkeypatch.setitem(sys.modules, "denoiser.demucs", demucs)
    return fake


def demucs(**settings: Any) -> Demucs:
    model = build_model("demucs", **{**SMALL, "normalize": "utterance", **settings}).eval()
    assert isinstance(model, Demucs)
    return model


def saved(path: Path, content: object) -> Path:
    """As another process would have left it: denoiser cannot be imported when it is read."""
    torch.save(content, path)
    for name in ("denoiser", "denoiser.demucs"):
        sys.modules.pop(name, None)
    return path


def same_output(model: Demucs, other: Demucs) -> bool:
    noisy = noise(1000)
    with torch.no_grad():
        return torch.equal(model(noisy), other(noisy))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"causal": False},
        {"hidden": 6, "depth": 4},
        {"growth": 1.5, "hidden": 5},
        {"growth": 1.0},
        {"max_hidden": 10, "depth": 4},
        {"kernel": 4, "depth": 1},
    ],
)
@pytest.mark.parametrize("is_zip", [True, False])
def test_a_state_dict_says_its_form_by_its_shapes(
    tmp_path: Path, settings: dict[str, Any], is_zip: bool
) -> None:
    model = demucs(**settings)
    torch.save(model.state_dict(), tmp_path / "a.th", _use_new_zipfile_serialization=is_zip)
    loaded = load_denoiser_checkpoint(tmp_path / "a.th")
    assert not loaded.training
    assert loaded.config.channels == model.config.channels
    assert loaded.config.normalize == "utterance"
    assert loaded.config.level_floor == 1e-3
    assert same_output(loaded, model)


def test_stride_and_resample_of_a_state_dict_can_be_said(tmp_path: Path) -> None:
    model = demucs(stride=2, resample=2)
    path = saved(tmp_path / "a.th", model.state_dict())
    assert not same_output(load_denoiser_checkpoint(path), model)
    assert same_output(load_denoiser_checkpoint(path, stride=2, resample=2), model)


def test_valentini_nc_is_known_by_its_checksum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = demucs(stride=2, resample=2, causal=False)
    path = saved(tmp_path / "renamed.th", model.state_dict())
    assert load_denoiser_checkpoint(path).config.stride == 4
    monkeypatch.setattr(module, "VALENTINI_NC_SHA256", hashlib.sha256(path.read_bytes()).hexdigest()[:8])
    assert same_output(load_denoiser_checkpoint(path), model)


def test_the_level_may_be_made_to_run(tmp_path: Path) -> None:
    loaded = load_denoiser_checkpoint(saved(tmp_path / "a.th", demucs().state_dict()), normalize="running")
    assert loaded.config.normalize == "running"
    assert loaded.latency_samples is not None


def test_a_package_says_its_settings_and_runs_nothing(tmp_path: Path, denoiser_class: type) -> None:
    model = demucs(stride=2, resample=2, kernel=4, growth=1.5, normalize="none", level_floor=0.01)
    state = {name: value.half() for name, value in model.state_dict().items()}
    kwargs = {"depth": 3, "kernel_size": 4, "stride": 2, "resample": 2, "growth": 1.5, "normalize": False}
    package = {
        "class": denoiser_class,
        "args": (1, 1, 4),
        "kwargs": {**kwargs, "floor": 0.01, "sample_rate": 16_000.0},
        "state": state,
    }
    loaded = load_denoiser_checkpoint(saved(tmp_path / "best.th", package))
    assert "denoiser" not in sys.modules
    assert loaded.config == model.config
    assert all(value.dtype == torch.float32 for value in loaded.state_dict().values())
    assert all(torch.equal(value, state[name].float()) for name, value in loaded.state_dict().items())


@pytest.mark.parametrize("has_best", [True, False])
def test_a_checkpoint_of_the_training_gives_its_best_weights(
    tmp_path: Path, denoiser_class: type, has_best: bool
) -> None:
    last, best = demucs(), demucs()
    package = {"class": denoiser_class, "args": (), "kwargs": SMALL, "state": last.state_dict()}
    content = {
        "model": package,
        "best_state": best.state_dict() if has_best else None,
        "history": [{"pesq": 2}],
    }
    loaded = load_denoiser_checkpoint(saved(tmp_path / "checkpoint.th", content))
    assert same_output(loaded, best if has_best else last)


class RunsCode:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("place", ["alone", "beside", "class", "weight"])
@pytest.mark.parametrize("is_zip", [True, False])
def test_code_in_a_file_is_not_run(tmp_path: Path, place: str, is_zip: bool) -> None:
    trap = RunsCode(tmp_path / "ran")
    content = {
        "alone": trap,
        "beside": {**demucs().state_dict(), "more": trap},
        "class": {"class": trap, "args": (), "kwargs": SMALL, "state": demucs().state_dict()},
        "weight": {**demucs().state_dict(), "encoder.0.0.weight": trap},
    }[place]
    torch.save(content, tmp_path / "a.th", _use_new_zipfile_serialization=is_zip)
    with pytest.raises(ValueError, match=r"refers to posix\.system, which could run code and was not run"):
        load_denoiser_checkpoint(tmp_path / "a.th")
    assert not (tmp_path / "ran").exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_plain_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.th").write_bytes(pickle.dumps(RunsCode(tmp_path / "ran")))
    with pytest.raises(ValueError, match=r"damaged|refers to"):
        load_denoiser_checkpoint(tmp_path / "a.th")
    assert not (tmp_path / "ran").exists()


def test_another_class_is_refused_by_name(tmp_path: Path) -> None:
    package = {"class": Path, "args": (), "kwargs": {}, "state": {}}
    with pytest.raises(ValueError, match=r"refers to pathlib\.Path"):
        load_denoiser_checkpoint(saved(tmp_path / "a.th", package))
    with pytest.raises(ValueError, match=r"of the class .*OrderedDict"):
        load_denoiser_checkpoint(saved(tmp_path / "a.th", {**package, "class": OrderedDict}))


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no such file"):
        load_denoiser_checkpoint(tmp_path / "missing.th")
    with pytest.raises(ValueError, match="there is no such file"):
        load_denoiser_checkpoint(tmp_path)
    whole = saved(tmp_path / "whole.th", demucs().state_dict()).read_bytes()
    for content in (b"", b"no pickle", whole[:100], whole[: len(whole) // 2], bytes(1000)):
        (tmp_path / "a.th").write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.th: the file is damaged"):
            load_denoiser_checkpoint(tmp_path / "a.th")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder.0.0.weight": None}, r"no encoder\.0\.0\.weight"),
        ({"encoder.1.0.bias": None}, r"\(encoder\.1\.0\.bias is missing\)"),
        ({"more": torch.zeros(1)}, r"\(more is not expected\)"),
        ({"lstm.lstm.bias_ih_l0": torch.zeros(3)}, r"bias_ih_l0 is \(3,\) instead of \(64,\)"),
        ({"encoder.0.0.bias": torch.full((4,), torch.nan)}, r"encoder\.0\.0\.bias are not all finite"),
        ({"encoder.0.0.bias": torch.zeros(4).int()}, "holds no weights"),
        ({"encoder.0.0.bias": "text"}, "holds no weights"),
        ({"encoder.0.0.weight": torch.zeros(4, 2, 8)}, "chin is 2: only models of one channel"),
        ({"encoder.0.2.weight": torch.zeros(4, 4, 1)}, "glu is False"),
        ({"encoder.1.0.weight": torch.zeros(3, 4, 8)}, "no steady growth"),
    ],
)
def test_weights_of_another_model_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    state = {**demucs().state_dict(), **change}
    state = {name: value for name, value in state.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        load_denoiser_checkpoint(saved(tmp_path / "a.th", state))


@pytest.mark.parametrize("content", [3, [1, 2], {}, {"best_state": None}, torch.zeros(3)])
def test_files_without_weights_are_refused(tmp_path: Path, content: object) -> None:
    with pytest.raises(ValueError, match="give"):
        load_denoiser_checkpoint(saved(tmp_path / "a.th", content))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"chin": 2}, "chin is 2"),
        ({"chout": 4}, "chout is 4"),
        ({"glu": False}, "glu is False"),
        ({"resample": 3}, "resample is 3: give 1, 2 or 4"),
        ({"hidden": "many"}, "hidden is 'many': a number was expected"),
        ({"causal": 1}, "causal is 1: true or false was expected"),
        ({"depth": 2.5}, r"depth is 2\.5: a whole number"),
        ({"depth": float("inf")}, "depth is inf: a number up to 1000000000 was expected"),
        ({"depth": 1_000_000}, "have not the 1000000 levels"),
        ({"depth": 10**9}, "have not the 1000000000 levels"),
        ({"depth": 0}, "have not the 0 levels"),
        ({"stride": 10**6}, "kernel is 8 with stride 1000000"),
        ({"stride": 10**6, "kernel_size": 10**6}, r"instead of \(4, 1, 1000000\)"),
        ({"growth": float("inf")}, "growth is inf: a number up to"),
        ({"growth": float("nan")}, "growth is nan: a number up to"),
        ({"growth": 1e6}, r"encoder\.1\.0\.weight is \(8, 4, 8\) instead of \(10000, 4, 8\)"),
        ({"rescale": 10**400}, r"rescale is 10+\.\.\.0+: a number up to"),
        ({"hidden": 10**400}, r"hidden is 10+\.\.\.0+: a number up to"),
        ({"hidden": -(10**400)}, r"hidden is -10+\.\.\.0+: a number up to"),
        ({"hidden": torch.zeros(9, 9)}, "hidden is tensor.*: a number was expected"),
        ({"hidden": 1_000_000}, r"encoder\.0\.0\.weight is \(4, 1, 8\) instead of \(1000000, 1, 8\)"),
        ({"attention": True}, "settings 'attention' are not denoiser's"),
        ({7: True}, "settings 7 are not denoiser's"),
    ],
)
def test_settings_that_cannot_be_built_are_refused(
    tmp_path: Path, denoiser_class: type, kwargs: dict[str, Any], message: str
) -> None:
    package = {
        "class": denoiser_class,
        "args": (),
        "kwargs": {**SMALL, **kwargs},
        "state": demucs().state_dict(),
    }
    assert_refused(saved(tmp_path / "a.th", package), message)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (7, torch.zeros(1), "has the entry 7, which names no weights"),
        (("a", 1), torch.zeros(1), r"has the entry \('a', 1\), which names no weights"),
        ("two\nlines", torch.zeros(1), r"has the entry 'two\\nlines', which"),
        ("a" * 10_000, torch.zeros(1), r"has the entry 'a+\.\.\.a+', which"),
        (
            "encoder.0.0.bias",
            torch.zeros(4, device="meta"),
            "'encoder.0.0.bias' of the state dict holds no weights",
        ),
        (
            "encoder.0.0.bias",
            torch.zeros(4).to_sparse(),
            "'encoder.0.0.bias' of the state dict holds no weights",
        ),
        ("encoder.0.0.bias", torch.zeros(1).expand(10**12), "holds no weights"),
        ("encoder.0.0.bias", torch.zeros(0), "holds no weights"),
        ("encoder.0.0.bias", torch.zeros(4, dtype=torch.complex64), "holds no weights"),
        (
            "encoder.0.0.weight",
            torch.zeros(4, 1, 8, device="meta"),
            r"no encoder\.0\.0\.weight of 3 dimensions",
        ),
        ("encoder.0.0.weight", torch.zeros(0, 1, 8), r"no encoder\.0\.0\.weight of 3 dimensions"),
    ],
)
def test_what_is_no_plain_named_tensor_is_refused(
    tmp_path: Path, name: object, value: torch.Tensor, message: str
) -> None:
    assert_refused(saved(tmp_path / "a.th", {**demucs().state_dict(), name: value}), message)


def test_a_wide_level_alone_makes_no_model_of_its_width(tmp_path: Path) -> None:
    """Its 1x1 convolution would have 2 * 10**12 weights."""
    state = demucs(depth=1).state_dict()
    state["encoder.0.0.weight"] = torch.zeros(10**6, 1, 8)
    state["encoder.0.2.weight"] = torch.zeros(2 * 10**6, 1, 1)
    assert_refused(saved(tmp_path / "a.th", state), r"instead of \(2000000, 1000000, 1\)")


def assert_refused(path: Path, message: str) -> None:
    start_s = time.thread_time()
    with pytest.raises(ValueError, match=message) as caught:
        load_denoiser_checkpoint(path)
    assert time.thread_time() - start_s < 2
    assert type(caught.value) is ValueError
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
