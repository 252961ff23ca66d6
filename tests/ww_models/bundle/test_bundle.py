"""Bundles: what is saved comes back bit for bit; what is damaged is refused in one line."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.ww_models.samples import SMALL, noise, small
from ww_models import BundleError, load_bundle, read_bundle_info, save_bundle
from ww_models.bundle.bundle import add_metrics
from ww_models.bundle.info import digest


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return save_bundle(
        tmp_path / "model",
        small("gatewave"),
        metrics={
            "noisy": {"pesq": 1.5, "si_sdr_db": math.nan},
            "enhanced": {"pesq": np.float32(2.0), "si_sdr_db": 7.0},
            "num_mixtures": 12,
        },
        training={"loss": {"l1_weight": 1.0}, "max_steps": torch.tensor(7)},
        data={"manifest_hash": "abc", "hours": 1.5},
        licence="CC0-1.0",
    )


@pytest.mark.parametrize("name", SMALL)
def test_a_saved_model_comes_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    model = small(name).train()
    model(noise(2000, batch=2))  # moves the BatchNorm statistics
    model.eval()
    loaded = load_bundle(save_bundle(tmp_path / "m", model))
    assert not loaded.training
    assert loaded.config == model.config
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(loaded.state_dict()[key], value) for key, value in model.state_dict().items())
    with torch.no_grad():
        assert torch.equal(loaded(noise(1000)), model(noise(1000)))


def test_the_info_is_what_was_given(bundle: Path) -> None:
    info = read_bundle_info(bundle)
    assert info.architecture == "gatewave"
    assert info.id.startswith("gatewave-")
    assert info.config["hidden"] == 4
    assert info.metrics["noisy"] == {"pesq": 1.5, "si_sdr_db": None}
    assert info.metrics["enhanced"]["pesq"] == 2.0
    assert info.training == {"loss": {"l1_weight": 1.0}, "max_steps": 7}
    assert info.data["manifest_hash"] == "abc"
    assert info.licence == "CC0-1.0"
    assert info.num_parameters == small("gatewave").num_parameters


def test_the_id_is_that_of_weights_and_settings(tmp_path: Path) -> None:
    model = small("demucs")
    ids = [read_bundle_info(save_bundle(tmp_path / str(i), model, licence=str(i))).id for i in range(2)]
    assert ids[0] == ids[1]
    with torch.no_grad():
        next(model.parameters())[0] += 1
    assert read_bundle_info(save_bundle(tmp_path / "c", model)).id != ids[0]


def test_the_card_tells_a_person_what_the_model_is(bundle: Path) -> None:
    card = (bundle / "README.md").read_text(encoding="utf-8")
    for part in (
        "# GateWave",
        "| PESQ | 1.5 | 2 | +0.5 |",
        "CC0-1.0",
        "16000 Hz",
        "ms of look-ahead",
        "- hours: 1.5",
    ):
        assert part in card
    assert "- loss.l1_weight: 1" in card
    assert "- num_mixtures: 12" in card


def test_a_bundle_can_be_replaced_and_nothing_is_left_beside_it(bundle: Path) -> None:
    save_bundle(bundle, small("demucs"))
    assert read_bundle_info(bundle).architecture == "demucs"
    assert [path.name for path in bundle.parent.iterdir()] == ["model"]


def test_a_folder_that_is_no_bundle_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BundleError, match="not a bundle"):
        save_bundle(tmp_path, small("demucs"))
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("failing", ["write_bytes", "rename"])
def test_a_failed_save_leaves_what_was_there(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    before = {path: path.read_bytes() for path in bundle.iterdir()}
    done = getattr(Path, failing)

    def full(path: Path, *arguments: object) -> None:
        """The disk is full after the weights, or at the last step."""
        if failing == "write_bytes" and path.suffix == ".safetensors":
            done(path, *arguments)
        else:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, failing, full)
    for path in (bundle, bundle.with_name("new")):
        with pytest.raises(OSError, match="No space left"):
            save_bundle(path, small("demucs"))
    monkeypatch.undo()
    assert {path: path.read_bytes() for path in bundle.iterdir()} == before
    assert list(bundle.parent.iterdir()) == [bundle]


def rewrite(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    content = json.loads((path / "config.json").read_text())
    change(content)
    (path / "config.json").write_text(json.dumps(content))


def flip_byte(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0x10
    path.write_bytes(content)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped weight": (lambda b: flip_byte(b / "weights.safetensors", -5), "damaged"),
    "flipped header": (lambda b: flip_byte(b / "weights.safetensors", 3), "damaged"),
    "truncated weights": (
        lambda b: (b / "weights.safetensors").write_bytes((b / "weights.safetensors").read_bytes()[:-100]),
        "damaged",
    ),
    "empty weights": (lambda b: (b / "weights.safetensors").write_bytes(b""), "damaged"),
    "no weights": (lambda b: (b / "weights.safetensors").unlink(), "no readable weights.safetensors"),
    "no config": (lambda b: (b / "config.json").unlink(), "not a bundle"),
    "truncated config": (
        lambda b: (b / "config.json").write_bytes((b / "config.json").read_bytes()[:200]),
        "damaged",
    ),
    "not text": (lambda b: (b / "config.json").write_bytes(b"\xff\xfe\x00"), "damaged"),
    "another config": (lambda b: (b / "config.json").write_text('{"model_type": "other"}'), "not a bundle"),
    "a list": (lambda b: (b / "config.json").write_text("[]"), "not a bundle"),
    "edited": (lambda b: rewrite(b, lambda c: c["model"].update(licence="MIT")), "edited"),
    "newer": (lambda b: rewrite(b, lambda c: c.update(format_version=2)), "install a newer one"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_told_in_one_line(bundle: Path, damage: str) -> None:
    harm, message = DAMAGE[damage]
    harm(bundle)
    with pytest.raises(BundleError, match=message) as error:
        load_bundle(bundle)
    assert "\n" not in str(error.value)


def test_any_flipped_byte_of_the_config_is_refused_or_harmless(bundle: Path) -> None:
    original = (bundle / "config.json").read_bytes()
    info = read_bundle_info(bundle)
    messages: list[str] = []
    for position in range(0, len(original), 7):
        flip_byte(bundle / "config.json", position)
        try:
            assert read_bundle_info(bundle) == info
        except BundleError as error:
            messages.append(str(error))
        (bundle / "config.json").write_bytes(original)
    assert len(messages) > 20
    assert not any("\n" in message for message in messages)


def test_weights_of_another_shape_are_refused(bundle: Path, tmp_path: Path) -> None:
    def other_shape(content: dict[str, dict[str, dict[str, int]]]) -> None:
        content["model"]["config"]["hidden"] = 5
        content["sha256"] = digest(content["model"])

    rewrite(bundle, other_shape)
    with pytest.raises(BundleError, match="do not fit") as error:
        load_bundle(bundle)
    assert "\n" not in str(error.value)


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("unpickled",)


def test_nothing_is_unpickled(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = tmp_path / "model.ckpt"
    torch.save({"bomb": Bomb()}, checkpoint)
    with pytest.raises(BundleError, match="is a file"):
        load_bundle(checkpoint)
    # And not with a checksum that fits, either.
    (bundle / "weights.safetensors").write_bytes(checkpoint.read_bytes())

    def fitting(content: dict[str, dict[str, str]]) -> None:
        import hashlib

        content["model"]["sha256"] = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
        content["sha256"] = digest(content["model"])

    rewrite(bundle, fitting)
    with pytest.raises(BundleError):
        load_bundle(bundle)
    assert "unpickled" not in capsys.readouterr().out


def test_a_path_that_does_not_exist_is_told(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="does not exist"):
        load_bundle(tmp_path / "nowhere")


def test_measures_can_be_added_and_nothing_else_changes(bundle: Path) -> None:
    before = read_bundle_info(bundle)
    weights = (bundle / "weights.safetensors").read_bytes()
    after = add_metrics(bundle, {"int9": {"pesq": np.float32(2.5), "snr_db": math.nan}, "num_mixtures": 13})
    assert after == read_bundle_info(bundle)
    assert after.metrics["int9"] == {"pesq": 2.5, "snr_db": None}
    assert after.metrics == {**before.metrics, "int9": after.metrics["int9"], "num_mixtures": 13}
    assert replace(after, metrics=before.metrics) == before
    assert (bundle / "weights.safetensors").read_bytes() == weights
    assert "- int9.pesq: 2.5" in (bundle / "README.md").read_text(encoding="utf-8")
    assert len(list(bundle.iterdir())) == 3
    load_bundle(bundle)


def test_a_full_disk_leaves_the_bundle_as_it_was(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.read_bytes() for path in bundle.iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        add_metrics(bundle, {"pesq": 2.5})
    assert {path: path.read_bytes() for path in bundle.iterdir()} == before
    with pytest.raises(BundleError, match="does not exist"):
        add_metrics(bundle / "none", {})
