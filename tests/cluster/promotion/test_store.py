"""The store of models: what was decided, in order; nothing half-written is in force; what is damaged is said."""

from __future__ import annotations

import dataclasses
import getpass
import os
import uuid
from pathlib import Path

import pytest
import torch

from cluster.promotion.store import ModelStore, StoreError
from cluster.serving.config import EVIDENCE_FILE
from ww_data.storage import held_alone
from ww_models import BundleError, build_model, read_bundle_info, save_bundle


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    made = []
    for seed in range(3):
        torch.manual_seed(seed)
        model = build_model("demucs", hidden=2, depth=2, normalize="none")
        made.append(save_bundle(tmp_path_factory.mktemp("models") / f"{seed}", model))
    return made


@pytest.fixture(params=["folder", "address"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelStore:
    monkeypatch.setenv("WW_CACHE", str(tmp_path / "cache"))
    return ModelStore(
        tmp_path / "models" if request.param == "folder" else f"memory://{uuid.uuid4().hex}/models"
    )


def ids(bundles: list[Path]) -> list[str]:
    return [read_bundle_info(bundle).id for bundle in bundles]


def test_promotions_and_rollbacks_are_kept_in_order(store: ModelStore, bundles: list[Path]) -> None:
    first, second, third = ids(bundles)
    assert store.history() == []
    with pytest.raises(StoreError, match="no model is in force"):
        store.current()
    store.add(bundles[0], {"score": 1.5})
    with pytest.raises(StoreError, match="nothing to go back to"):
        store.roll_back()
    store.add(bundles[1], {"score": 1.6})
    store.add(bundles[2], None, overruled=("it is too slow",))
    assert store.current() == third
    assert store.roll_back().bundle_id == second
    assert store.roll_back().bundle_id == first
    assert store.current() == first
    store.add(bundles[2], None)
    assert store.roll_back().bundle_id == first, "what a rollback took back does not come back by another"
    history = store.history()
    assert [record.number for record in history] == list(range(1, 8))
    assert [record.action[0] for record in history] == list("ppprrpr")
    assert history[0].evidence == {"score": 1.5}
    assert history[2].overruled == ("it is too slow",)
    assert "@" in history[0].by


def test_a_number_without_a_name_may_promote(
    store: ModelStore, bundles: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def getuser() -> str:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr(getpass, "getuser", getuser)
    assert store.add(bundles[0], None).by.startswith(f"{os.getuid()}@")


def test_a_bundle_lies_there_whole_with_its_evidence(store: ModelStore, bundles: list[Path]) -> None:
    record = store.add(bundles[0], {"score": 1.5})
    folder = store.bundle(record.bundle_id)
    assert read_bundle_info(folder).id == record.bundle_id
    assert {path.name for path in folder.iterdir()} == {
        EVIDENCE_FILE,
        *(p.name for p in bundles[0].iterdir()),
    }
    assert '"score": 1.5' in (folder / EVIDENCE_FILE).read_text()
    assert store.bundle(record.bundle_id) == folder


def test_what_is_damaged_never_comes_into_force(
    store: ModelStore, bundles: list[Path], tmp_path: Path
) -> None:
    store.add(bundles[0], None)
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in bundles[1].iterdir():
        (broken / path.name).write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleError):
        store.add(broken, None)
    assert store.in_force() == ids(bundles[:1])
    store.storage.write("promotions/000002.json", b'{"number": 2')
    with pytest.raises(StoreError, match=r"000002.json is damaged .*bring it back, or remove it"):
        store.current()


def test_a_cut_promotion_changes_nothing(
    store: ModelStore, bundles: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add(bundles[0], None)

    def cut(record: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "_write", cut)
    with pytest.raises(KeyboardInterrupt):
        store.add(bundles[1], None)
    assert store.in_force() == ids(bundles[:1])
    monkeypatch.undo()
    store.add(bundles[1], None)
    assert store.in_force() == ids(bundles[:2])


def test_two_at_once_are_one_too_many(tmp_path: Path, bundles: list[Path]) -> None:
    store = ModelStore(tmp_path)
    with held_alone(tmp_path / ".lock"), pytest.raises(StoreError, match="another promotion is under way"):
        store.add(bundles[0], None)
    afar = ModelStore(f"memory://{uuid.uuid4().hex}/models")  # where nothing can be locked
    record = afar.add(bundles[0], None)
    with pytest.raises(StoreError, match="at the same moment"):
        afar._write(dataclasses.replace(record, bundle_id="another"))
    assert afar.history() == [record]
